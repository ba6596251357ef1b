//! Single commands that concern no scripts.

use super::play_all;
use super::world::play;

/// One node.
const ONE: &[&str] = &[
    "
    > GET a1
    1 a GET a1 -> v
    = v
    ",
    "
    > GET a1
    1 a GET a1 -> !dropped 1
    2 a* GET a1 -> v
    = v
    ",
    "
    > GET a1
    1 a GET a1 -> !dropped 1
    2 a* GET a1 -> !dropped 1
    = !down a
    ",
    "
    > GET a1
    1 a GET a1 -> !dropped 0
    2 a* GET a1 -> !refused
    = !down a
    ",
    "
    > GET a1
    1 a GET a1 -> !refused
    = !down a
    ",
    "
    > GET a1
    1 a GET a1 -> !pool
    = !pool a
    ",
    "
    > GET a1
    1 a GET a1 -> !late 1
    = !late a
    ",
    // The connection breaks when the time is over: there is none left for another.
    "
    > GET a1
    1 a GET a1 -> !dropped 1 +1000ms
    = !down a
    ",
    "
    > GET a1
    1 a GET a1 -> -WRONGTYPE no string
    = -WRONGTYPE no string (node a)
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !dropped 1
    = !unknown a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !dropped 0
    2 a* SET a1 x -> +OK
    = +OK
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !dropped 0
    2 a* SET a1 x -> !dropped 1
    = !unknown a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !dropped 0
    2 a* SET a1 x -> !dropped 0
    = !down a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !refused
    = !down a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !pool
    = !pool a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !late 1
    = !unknown a
    ",
    "
    > SET a1 x
    1 a SET a1 x -> !late 0
    = !late a
    ",
];

/// Any node.
const ANY: &[&str] = &[
    "
    entropy 1
    > ECHO x
    1 b ECHO x -> x
    = x
    ",
    "
    > ECHO x
    1 a ECHO x -> !refused
    2 b ECHO x -> !refused
    3 c ECHO x -> !refused
    = !down c
    ",
    "
    entropy 2
    > ECHO x
    1 c ECHO x -> !dropped 1
    2 c* ECHO x -> !dropped 1
    3 a ECHO x -> x
    = x
    ",
    "
    > ECHO x
    1 a ECHO x -> !late 1
    = !late a
    ",
    "
    > ECHO x
    1 a ECHO x -> !pool
    = !pool a
    ",
    "
    > ECHO x
    1 a ECHO x -> !refused +400ms
    2 b ECHO x -> !refused +600ms
    = !down b
    ",
    "
    > EVAL SOURCE 0
    1 a EVAL SOURCE 0 -> !dropped 1
    = !unknown a
    ",
    "
    > EVAL SOURCE 0
    1 a EVAL SOURCE 0 -> !dropped 0
    2 a* EVAL SOURCE 0 -> !refused
    3 b EVAL SOURCE 0 -> !refused
    4 c EVAL SOURCE 0 -> :1
    = :1
    knows SHA
    ",
    "
    > EVAL SOURCE 0
    1 a EVAL SOURCE 0 -> !refused
    2 b EVAL SOURCE 0 -> !dropped 1
    = !unknown b
    ",
];

/// A command cut by node.
const SPLIT: &[&str] = &[
    "
    > MGET c1 a1 b1 a2
    1 a MGET a1 a2 -> [x | nil]
    1 b MGET b1 -> [y]
    1 c MGET c1 -> [z]
    = [z | x | y | nil]
    ",
    "
    > MGET a1 b1 c1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> !dropped 1
    1 c MGET c1 -> [z]
    2 b* MGET b1 -> [y]
    = [x | y | z]
    ",
    "
    > MGET a1 b1 c1
    1 a MGET a1 -> !dropped 1
    1 b MGET b1 -> !refused
    1 c MGET c1 -> !dropped 0
    2 a* MGET a1 -> [x]
    2 c* MGET c1 -> !refused
    = !partial a:done b:failed c:failed
    ",
    "
    > MGET a1 b1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> !pool
    = !partial a:done b:failed
    ",
    "
    > MGET a1 b1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> !late 1
    = !partial a:done b:failed
    ",
    "
    > MGET a1 b1
    1 a MGET a1 -> !refused
    1 b MGET b1 -> !refused
    = !down a
    ",
    "
    > MSET a1 x b1 y
    1 a MSET a1 x -> +OK
    1 b MSET b1 y -> !dropped 1
    = !partial a:done b:unknown
    ",
    "
    > MSET a1 x b1 y
    1 a MSET a1 x -> +OK
    1 b MSET b1 y -> !dropped 0
    2 b* MSET b1 y -> +OK
    = +OK
    ",
    "
    > MSET a1 x b1 y
    1 a MSET a1 x -> !dropped 1
    1 b MSET b1 y -> !late 1
    = !unknown a
    ",
    "
    > MSET a1 x b1 y c1 z
    1 a MSET a1 x -> +OK
    1 b MSET b1 y -> !refused
    1 c MSET c1 z -> !late 1
    = !partial a:done b:failed c:unknown
    ",
    "
    > DEL a1 b1
    1 a DEL a1 -> :1
    1 b DEL b1 -> -ERR no
    = !partial a:done b:failed
    ",
];

/// Reads whose node is out of reach, answered as if their keys did not exist.
const MISSES: &[&str] = &[
    "
    missing nodes
    > GET a1
    1 a GET a1 -> !dropped 1
    2 a* GET a1 -> !dropped 1
    = nil
    ",
    "
    missing nodes
    > GET a1
    1 a GET a1 -> !refused
    = nil
    ",
    "
    missing nodes
    > TTL a1
    1 a TTL a1 -> !late 1
    = :-2
    ",
    "
    missing nodes
    > GET a1
    1 a GET a1 -> !pool
    = !pool a
    ",
    "
    missing nodes
    > GET a1
    1 a GET a1 -> -WRONGTYPE no string
    = -WRONGTYPE no string (node a)
    ",
    "
    missing nodes
    > SET a1 x
    1 a SET a1 x -> !refused
    = !down a
    ",
    "
    missing nodes
    > OBJECT ENCODING a1
    1 a OBJECT ENCODING a1 -> !refused
    = !down a
    ",
    "
    missing nodes
    > MGET c1 a1 b1 a2
    1 a MGET a1 a2 -> !refused
    1 b MGET b1 -> [y]
    1 c MGET c1 -> [z]
    = [z | nil | y | nil]
    ",
    "
    missing nodes
    > MGET a1 b1
    1 a MGET a1 -> !refused
    1 b MGET b1 -> !late 1
    = [nil | nil]
    ",
    "
    missing nodes
    > EXISTS a1 b1 b2
    1 a EXISTS a1 -> !late 1
    1 b EXISTS b1 b2 -> :2
    = :2
    ",
    // The error says what was not done, a part that would have been a miss included.
    "
    missing nodes
    > MGET a1 b1 c1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> !refused
    1 c MGET c1 -> !pool
    = !partial a:done b:failed c:failed
    ",
    "
    missing nodes
    > DEL a1 b1
    1 a DEL a1 -> :1
    1 b DEL b1 -> !refused
    = !partial a:done b:failed
    ",
    "
    missing nodes
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> :3
    = !partial a:done b:failed c:done
    ",
];

/// All nodes, and one after another.
const ALL: &[&str] = &[
    "
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> :2
    1 c DBSIZE -> !dropped 1
    2 c* DBSIZE -> :3
    = :6
    ",
    "
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> :3
    = !partial a:done b:failed c:done
    ",
    "
    partial reads
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> :3
    = :4
    ",
    "
    > DBSIZE
    1 a DBSIZE -> !late 1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> !pool
    = !late a
    ",
    "
    > FLUSHDB
    1 a FLUSHDB -> +OK
    1 b FLUSHDB -> !dropped 0
    1 c FLUSHDB -> !dropped 1
    2 b* FLUSHDB -> +OK
    = !partial a:done b:done c:unknown
    ",
    // A message to nobody goes ahead of WAIT, on the connection of WAIT.
    "
    > WAIT 1 100
    1 a PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :1
    1 b PUBLISH redis-sharding:wait ; WAIT 1 100 -> !dropped 0
    1 c PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :2
    2 b* PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :3
    = :1
    ",
    "
    > WAIT 1 100
    1 a PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :1
    1 b PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0 !dropped 2
    1 c PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :2
    = !partial a:done b:unknown c:done
    ",
    "
    > SCAN 0
    1 a SCAN 0 -> !dropped 1
    2 a* SCAN 0 -> [0 | [a1]]
    = [# | [a1]]
    ",
    "
    > SCAN 0
    1 a SCAN 0 -> !refused
    = !down a
    ",
    "
    > SCAN 0
    1 a SCAN 0 -> !late 1
    = !late a
    ",
    "
    > SCAN 0
    1 a SCAN 0 -> !pool
    = !pool a
    ",
    // The scan goes on at the next node, with its next step.
    "
    partial reads
    > SCAN 0
    1 a SCAN 0 -> !refused
    = [# | []]
    ",
];

#[test]
fn command_for_one_node_is_resent_once_and_a_write_only_if_unsent() {
    play_all(ONE, play);
}

#[test]
fn command_for_any_node_tries_each_node_until_the_deadline() {
    play_all(ANY, play);
}

#[test]
fn split_command_reports_the_status_of_each_part() {
    play_all(SPLIT, play);
}

#[test]
fn read_whose_node_is_out_of_reach_is_a_miss_if_so_configured() {
    play_all(MISSES, play);
}

#[test]
fn command_for_all_nodes_and_scan_step_are_resent_like_others() {
    play_all(ALL, play);
}

#[cfg(feature = "proxy")]
#[test]
fn single_commands_behave_alike_with_raw_replies() {
    use super::scripts::{FUNCTIONS, SCRIPTS};
    use super::world::play_as;
    use crate::plan::RawReplies;

    for rows in [ONE, ANY, SPLIT, MISSES, ALL, SCRIPTS, FUNCTIONS] {
        play_all(rows, play_as::<RawReplies>);
    }
}
