//! The handler in `docs/coming-from-redis-rs.md`, in an axum server over two nodes, one of which goes down.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use redis_sharding::redis::AsyncCommands;
use redis_sharding::testing::TestNode;
use redis_sharding::{ErrorKind, ShardedClient, aio};

const PAGE: &str = include_str!("../../../docs/coming-from-redis-rs.md");

#[rustfmt::skip] // as on the page
async fn name(
    State(mut client): State<aio::ShardedClient>,
    Path(user): Path<u64>,
) -> Result<String, StatusCode> {
    match client.get::<_, Option<String>>(format!("user:{user}")).await {
        Ok(Some(name)) => Ok(name),
        Ok(None) => Err(StatusCode::NOT_FOUND),
        Err(error) if ErrorKind::of(&error) == ErrorKind::NodeDown => Err(StatusCode::SERVICE_UNAVAILABLE),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

#[test]
fn axum_handler_of_the_docs_is_the_one_that_is_tested() {
    let (_, code) = PAGE.split_once("async fn name(").unwrap();
    let (handler, _) = code.split_once("\n}\n").unwrap();
    assert!(include_str!("axum.rs").contains(handler));
    assert!(PAGE.contains("Router::new().route(\"/users/{user}\", get(name)).with_state(client)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn axum_handler_serves_values_misses_and_nodes_that_are_down() {
    let nodes = TestNode::start_many(2).unwrap();
    let mut client = ShardedClient::builder()
        .node("a", nodes[0].url())
        .node("b", nodes[1].url())
        .build_async()
        .unwrap();
    let owner = |user: u64| {
        client
            .node_for(format!("user:{user}"))
            .unwrap()
            .name()
            .to_owned()
    };
    let of_a = (1..).find(|&user| owner(user) == "a").unwrap();
    let of_b = (1..).find(|&user| owner(user) == "b").unwrap();
    for user in [of_a, of_b] {
        let () = client.set(format!("user:{user}"), "Ada").await.unwrap();
    }
    let app = Router::new()
        .route("/users/{user}", get(name))
        .with_state(client);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async { axum::serve(listener, app).await.unwrap() });

    let status_and_body = async |user: u64| {
        tokio::task::spawn_blocking(move || request(address, user))
            .await
            .unwrap()
    };
    assert_eq!(status_and_body(of_a).await, ("200".into(), "Ada".into()));
    assert_eq!(status_and_body(0).await.0, "404");
    nodes[0].stop();
    assert_eq!(status_and_body(of_a).await.0, "503");
    assert_eq!(status_and_body(of_b).await, ("200".into(), "Ada".into()));
    server.abort();
}

/// The status and the body of the reply to one HTTP request.
fn request(address: SocketAddr, user: u64) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /users/{user} HTTP/1.0\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    (status.to_owned(), body.to_owned())
}
