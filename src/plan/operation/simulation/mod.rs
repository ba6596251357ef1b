//! Operations over simulated nodes: the requests they send, their order, and the result when nodes fail. No
//! sockets, no sleeping, no randomness.
//!
//! A row lists the contents of the script cache, the request (`>`), the requests that each node receives with
//! its reply or failure (`->`), and the result (`=`):
//!
//! ```text
//! has SCRIPT LOAD SOURCE                                     the script is in the cache
//! > EVALSHA SHA 1 a1                                         the request; a1 lives on node a
//! 1 a EVALSHA SHA 1 a1 -> !dropped 0                         first wave, node a: broke, 0 requests were sent
//! 2 a* EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script      second wave, on a new connection
//! 3 a EVAL SOURCE 1 a1 -> :1 +20ms                           its reply takes 20 ms of simulated time
//! = :1
//! ```
//!
//! Failures: `!refused`, `!pool` (no connection became free), `!dropped K` and `!late K` (K requests were
//! sent; the replies before the mark were received). Commands are separated by `; `, chunks of a request by
//! ` / `. Keys live on the node whose letter they begin with, all others on `c`.
//!
//! `retry 3` sets the number of attempts, `retry off` allows one; `wait 50ms` is a pause between waves, which has
//! its longest jitter. `blocking 300ms` sets the timeout of commands without end.
//!
//! `out b` takes nodes out of the topology, and brings back all others.
//!
//! * `commands`, `scripts`, `pipelines`, `dedicated`, `retries`, `out_nodes`: the rows. `property`: generated commands and failures.
//! * `cluster`: the servers of a Redis Cluster, whose slots move.
//! * `moving`: a reshard under way.
//! * `world`: the simulated nodes and clock. `text`: the notation.

mod cluster;
mod commands;
mod dedicated;
mod moving;
mod out_nodes;
mod pipelines;
mod property;
mod retries;
mod scripts;
mod text;
mod world;

/// Plays rows, and panics with all that do not hold.
fn play_all(rows: &[&str], play: fn(&str) -> Result<(), String>) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| play(row).err().map(|why| format!("{why}, in{row}")))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn simulation_row_with_a_wrong_expectation_fails() {
    for (row, why) in [
        ("> GET a1\n1 b GET a1 -> v\n= v", "sent \"1 a GET a1\""),
        ("> GET a1\n2 a GET a1 -> v\n= v", "sent \"1 a GET a1\""),
        ("> GET a1\n1 a GET a1 -> v\n= w", "the result is \"v\""),
        ("> GET a1\n1 a GET a1 -> !late 1\n= !down b", "!timeout a"),
        ("> GET a1\n= v", "wanted \"no more attempts\""),
        ("> GET a1\n1 a GET a1 -> v\n2 a* GET a1 -> v\n= v", "2 a*"),
        ("> GET a1\n1 a GET a1 -> v\n= v\nknows SHA", "knows SHA"),
    ] {
        let told = world::play(row).expect_err(row);
        assert!(told.contains(why), "{told}");
    }
}
