//! Hash tags put related keys on one node.
//!
//! Of a key with braces only the part between the first `{` and the next `}` is hashed, as in Redis
//! Cluster. Run it with `cargo run --example hash_tags`; it needs no server.

#[path = "support/cli.rs"]
#[macro_use]
mod cli;

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;

use redis_sharding::redis::Commands;
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient};

fn main() -> ExitCode {
    let program = cli::Program::plain(
        "hash_tags",
        "Hash tags: keys that belong together live together. It needs no server.",
    );
    program.run(|_| example())
}

fn example() -> Result<(), Box<dyn Error>> {
    let nodes = TestNode::start_many(3)?;
    let mut client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .node("c", nodes[2].url())
        .build()?;

    one_tag_is_one_node(&client)?;
    commands_over_several_keys_need_a_tag(&mut client)?;
    what_is_a_tag_and_what_is_not(&client)?;
    Ok(())
}

fn one_tag_is_one_node(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    let keys = ["user:{42}", "cart:{42}:items", "cart:{42}:total"];
    let home = client.node_for("42")?;
    for key in keys {
        println!("{key:16} lives on node {}", client.node_for(key)?.name());
        assert_eq!(client.node_for(key)?.name(), home.name());
    }

    // Other tags may live on other nodes: a tag groups the keys of one user, not those of all users.
    let owner = |user: u32| client.node_for(format!("user:{{{user}}}"));
    let owners = (0..100)
        .map(|user| Ok(owner(user)?.name().to_owned()))
        .collect::<Result<BTreeSet<String>, redis_sharding::Error>>()?;
    println!("100 tags are spread over the nodes {owners:?}\n");
    assert_eq!(owners.len(), 3);
    Ok(())
}

fn commands_over_several_keys_need_a_tag(client: &mut ShardedClient) -> Result<(), Box<dyn Error>> {
    let () = client.sadd("{42}:liked", &["tea", "rye"])?;
    let () = client.sadd("{42}:bought", &["tea", "jam"])?;
    let both: BTreeSet<String> = client.sinter(&["{42}:liked", "{42}:bought"])?;
    assert_eq!(both, BTreeSet::from(["tea".to_owned()]));

    // Keys that happen to share a node would be accepted too; these do not.
    let apart = client
        .sinter::<_, BTreeSet<String>>(&["liked:1", "liked:2", "liked:3", "liked:4"])
        .expect_err("the keys live apart");
    println!("refused: {apart}\n");
    assert_eq!(ErrorKind::of(&apart), ErrorKind::CrossNode);
    Ok(())
}

fn what_is_a_tag_and_what_is_not(client: &ShardedClient) -> Result<(), Box<dyn Error>> {
    let topology = client.topology();
    let tag = topology.hash_tag();
    let cases = [
        ("{42}:name", "42"),
        ("user:{42}:{name}", "42"),         // only the first braces count
        ("user:{}:42", "user:{}:42"),       // nothing between them: the whole key
        ("user:{42:name", "user:{42:name"), // never closed: the whole key
    ];
    for (key, decides) in cases {
        println!("of {key:18} {decides:14} decides");
        assert_eq!(tag.of(key.as_bytes()), decides.as_bytes());
    }
    Ok(())
}
