//! Requests that are sent again by a policy, and the pauses between.

use super::play_all;
use super::world::play;

/// Single commands.
const COMMANDS: &[&str] = &[
    "
    retry off
    > GET a1
    1 a GET a1 -> !dropped 1
    = !down a
    ",
    "
    retry off
    > SET a1 x
    1 a SET a1 x -> !dropped 0
    = !down a
    ",
    "
    retry off
    > GET a1
    1 a GET a1 -> -LOADING no
    = -LOADING no (node a)
    ",
    // By default the node is waited for: what is counted are failures.
    "
    > SET a1 x
    1 a SET a1 x -> -LOADING no
    wait 50ms
    2 a SET a1 x -> -BUSY no
    wait 100ms
    3 a SET a1 x -> -MASTERDOWN no
    wait 200ms
    4 a SET a1 x -> -TRYAGAIN no
    wait 325ms
    5 a SET a1 x -> +OK
    = +OK
    ",
    "
    returned
    > GET a1
    1 a GET a1 -> -LOADING no
    = -LOADING no (node a)
    ",
    "
    retry 9
    returned
    > GET a1
    1 a GET a1 -> -CLUSTERDOWN no
    = -CLUSTERDOWN no (node a)
    ",
    // Others need somebody to do something.
    "
    > SET a1 x
    1 a SET a1 x -> -READONLY no
    = -READONLY no (node a)
    ",
    "
    > SET a1 x
    1 a SET a1 x -> -OOM no
    = -OOM no (node a)
    ",
    // Until too little time is left for a reply: then the server's last error is the result.
    "
    > SET a1 x
    1 a SET a1 x -> -LOADING no +650ms
    wait 50ms
    2 a SET a1 x -> -LOADING yes
    wait 100ms
    3 a SET a1 x -> -LOADING yes
    wait 100ms
    4 a SET a1 x -> -LOADING last
    = -LOADING last (node a)
    ",
    // No reply to the last attempt: the error before it says more, unless a write may have been applied.
    "
    > GET a1
    1 a GET a1 -> -LOADING no
    wait 50ms
    2 a GET a1 -> !late 1
    = -LOADING no (node a)
    ",
    "
    > SET a1 x
    1 a SET a1 x -> -LOADING no
    wait 50ms
    2 a SET a1 x -> !pool
    = -LOADING no (node a)
    ",
    "
    > SET a1 x
    1 a SET a1 x -> -LOADING no
    wait 50ms
    2 a SET a1 x -> !late 1
    = !unknown a
    ",
    // A read whose connection breaks in between is still resent once.
    "
    > GET a1
    1 a GET a1 -> -LOADING no
    wait 50ms
    2 a GET a1 -> !dropped 1
    3 a* GET a1 -> -LOADING no
    wait 100ms
    4 a GET a1 -> v
    = v
    ",
    "
    > SET a1 x
    1 a SET a1 x -> -LOADING no
    wait 50ms
    2 a SET a1 x -> !dropped 1
    = !unknown a
    ",
    // The node replies to the handshake with LOADING.
    "
    > SET a1 x
    1 a SET a1 x -> !loading
    wait 50ms
    2 a SET a1 x -> !loading
    wait 100ms
    3 a SET a1 x -> +OK
    = +OK
    ",
    "
    retry off
    > SET a1 x
    1 a SET a1 x -> !loading
    = -LOADING handshake (node a)
    ",
    "
    > at a: PING
    1 a PING -> -LOADING no
    = -LOADING no (node a)
    ",
    // The code may be the script's own.
    "
    > EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> -LOADING Redis is loading the dataset in memory
    = -LOADING Redis is loading the dataset in memory (node a)
    ",
    "
    > EVAL_RO SOURCE 1 a1
    1 a EVAL_RO SOURCE 1 a1 -> -BUSY the queue is full
    = -BUSY the queue is full (node a)
    ",
    "
    > EVAL_RO SOURCE 1 a1
    1 a EVAL_RO SOURCE 1 a1 -> -BUSY Redis is busy running a script. You can only call SCRIPT KILL.
    wait 50ms
    2 a EVAL_RO SOURCE 1 a1 -> :1
    = :1
    ",
    "
    retry 3
    > GET a1
    1 a GET a1 -> !refused
    wait 50ms
    2 a GET a1 -> !refused
    wait 100ms
    3 a GET a1 -> !refused
    = !down a
    ",
    // The first time at once, as the connection may only have been closed while it was idle.
    "
    retry 3
    > GET a1
    1 a GET a1 -> !dropped 1
    2 a* GET a1 -> !refused
    wait 50ms
    3 a GET a1 -> v
    = v
    ",
    "
    retry 3
    > GET a1
    1 a GET a1 -> !dropped 1
    2 a* GET a1 -> !dropped 1
    wait 50ms
    3 a* GET a1 -> v
    = v
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> !refused
    wait 50ms
    2 a SET a1 x -> +OK
    = +OK
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> !dropped 1
    = !unknown a
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> !refused
    wait 50ms
    2 a SET a1 x -> !dropped 1
    = !unknown a
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> !late 1
    = !unknown a
    ",
    "
    retry 3
    > GET a1
    1 a GET a1 -> !pool
    = !pool a
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> -LOADING no
    wait 50ms
    2 a SET a1 x -> -READONLY no
    wait 50ms
    3 a SET a1 x -> +OK
    = +OK
    ",
    "
    retry 2
    > SET a1 x
    1 a SET a1 x -> -READONLY no
    wait 50ms
    2 a SET a1 x -> -READONLY no
    = -READONLY no (node a)
    ",
    "
    retry 3
    > SET a1 x
    1 a SET a1 x -> -WRONGTYPE no
    = -WRONGTYPE no (node a)
    ",
    // The last pause would end after the deadline.
    "
    retry 9
    > GET a1
    1 a GET a1 -> !refused +400ms
    wait 50ms
    2 a GET a1 -> !refused +400ms
    wait 100ms
    3 a GET a1 -> !refused
    = !down a
    ",
    // The time is over after the pause: the reply to the attempt before stands.
    "
    retry 9
    > GET a1
    1 a GET a1 -> -NOREPLICAS no +900ms
    wait 50ms
    2 a GET a1 -> -NOREPLICAS no +50ms
    = -NOREPLICAS no (node a)
    ",
    "
    > GET a1
    1 a GET a1 -> -LOADING no +700ms
    wait 50ms
    2 a GET a1 -> -LOADING no +250ms
    = -LOADING no (node a)
    ",
    // A script may have written before it returned the error.
    "
    retry 3
    > EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> -READONLY no
    = -READONLY no (node a)
    ",
    "
    retry 3
    > EVAL_RO SOURCE 1 a1
    1 a EVAL_RO SOURCE 1 a1 -> -LOADING Redis is loading the dataset in memory
    wait 50ms
    2 a EVAL_RO SOURCE 1 a1 -> :1
    = :1
    ",
];

/// Commands for several nodes, and for any.
const FAN_OUTS: &[&str] = &[
    "
    retry 3
    > MGET a1 b1 c1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> !refused
    1 c MGET c1 -> -LOADING no
    wait 50ms
    2 b MGET b1 -> [y]
    2 c MGET c1 -> [z]
    = [x | y | z]
    ",
    // One node is resent to at once, the other after a pause.
    "
    retry 3
    > MSET a1 x b1 y
    1 a MSET a1 x -> !dropped 0
    1 b MSET b1 y -> !refused
    2 a* MSET a1 x -> +OK
    wait 50ms
    3 b MSET b1 y -> +OK
    = +OK
    ",
    "
    retry 2
    > MSET a1 x b1 y
    1 a MSET a1 x -> +OK
    1 b MSET b1 y -> !refused
    wait 50ms
    2 b MSET b1 y -> !dropped 1
    = !partial a:done b:unknown
    ",
    "
    retry 2
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> :3
    wait 50ms
    2 b DBSIZE -> !refused
    = !partial a:done b:failed c:done
    ",
    // Partial replies only after the last attempt.
    "
    partial reads
    retry 2
    > DBSIZE
    1 a DBSIZE -> :1
    1 b DBSIZE -> !refused
    1 c DBSIZE -> :3
    wait 50ms
    2 b DBSIZE -> !refused
    = :4
    ",
    // All other nodes are tried before one is waited for.
    "
    retry 3
    > ECHO x
    1 a ECHO x -> !refused
    2 b ECHO x -> !refused
    3 c ECHO x -> !refused
    wait 50ms
    4 c ECHO x -> x
    = x
    ",
    "
    retry 3
    > EVAL SOURCE 0
    1 a EVAL SOURCE 0 -> !refused
    2 b EVAL SOURCE 0 -> !dropped 1
    = !unknown b
    ",
    "
    > MGET a1 b1 c1
    1 a MGET a1 -> [x]
    1 b MGET b1 -> -LOADING no
    1 c MGET c1 -> !loading
    wait 50ms
    2 b MGET b1 -> [y]
    2 c MGET c1 -> [z]
    = [x | y | z]
    ",
    "
    > MSET a1 x b1 y
    1 a MSET a1 x -> +OK
    1 b MSET b1 y -> -LOADING no +750ms
    wait 50ms
    2 b MSET b1 y -> -LOADING no
    wait 100ms
    3 b MSET b1 y -> -LOADING no
    = !partial a:done b:failed
    ",
    // A command that any node may serve goes to another if the handshake is refused, and waits if the command is.
    "
    > ECHO x
    1 a ECHO x -> !loading
    2 b ECHO x -> -LOADING no
    wait 50ms
    3 b ECHO x -> x
    = x
    ",
    // WAIT is not repeated without the message before it.
    "
    retry 3
    > WAIT 1 100
    1 a PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; -LOADING no
    1 b PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :1
    1 c PUBLISH redis-sharding:wait ; WAIT 1 100 -> :0; :1
    = !partial a:failed b:done c:done
    ",
];

/// Pipelines, transactions and dedicated connections.
const PIPELINES: &[&str] = &[
    "
    retry 3
    > pipe: SET a1 x; SET a2 x; GET a2; SET a3 x
    1 a SET a1 x; SET a2 x; GET a2; SET a3 x -> +OK; -LOADING no; nil; -LOADING no
    wait 50ms
    2 a SET a2 x; GET a2; SET a3 x -> +OK; x; +OK
    = +OK; +OK; x; +OK
    ",
    "
    > pipe: SET a1 x; SET a2 x; GET a2; SET b1 x
    1 a SET a1 x; SET a2 x; GET a2 -> +OK; -LOADING no; -LOADING no
    1 b SET b1 x -> +OK
    wait 50ms
    2 a SET a2 x; GET a2 -> -LOADING no; -LOADING no
    wait 100ms
    3 a SET a2 x; GET a2 -> +OK; x
    = +OK; +OK; x; +OK
    ",
    "
    > PING
    1 a PING -> -LOADING no
    1 b PING -> -LOADING no
    1 c PING -> -LOADING no
    = !redis LOADING
    ",
    // A node's state is asked for together with something that waits.
    "
    > pipe: PING; SET a1 x
    1 a PING; SET a1 x -> -LOADING no; -LOADING no
    1 b PING -> +PONG
    1 c PING -> +PONG
    wait 50ms
    2 a PING; SET a1 x -> +PONG; +OK
    = +PONG; +OK
    ",
    // An error of a script behind the refusal: it has run.
    "
    > pipe: SET a1 x; EVAL SOURCE 1 a1
    1 a SET a1 x; EVAL SOURCE 1 a1 -> -BUSY no; -BUSY mine
    = -BUSY no; -BUSY mine
    ",
    "
    > multi: SET a1 x; SET a2 x
    1 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; -LOADING no; -LOADING no; -EXECABORT no
    wait 50ms
    2 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; +QUEUED; +QUEUED; [+OK | +OK]
    = [+OK | +OK]
    ",
    // EXEC itself was refused.
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED; -EXECABORT Transaction discarded because of: MASTERDOWN Link down.
    wait 50ms
    2 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED; [+OK]
    = [+OK]
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED; -EXECABORT Transaction discarded because of: OOM no.
    = !redis EXECABORT
    ",
    "
    returned
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; -LOADING no; -EXECABORT no
    = !redis EXECABORT
    ",
    // The second write was applied: the first would come behind it.
    "
    retry 3
    > pipe: SET a1 x; SET a1 y
    1 a SET a1 x; SET a1 y -> -LOADING no; +OK
    = -LOADING no; +OK
    ",
    "
    retry 3
    > pipe: SET a1 x; SET b1 x; GET a1
    1 a SET a1 x; GET a1 -> !refused
    1 b SET b1 x -> +OK
    wait 50ms
    2 a SET a1 x; GET a1 -> +OK; x
    = +OK; +OK; x
    ",
    "
    retry 3
    > pipe: SET a1 x; SET a2 x
    1 a SET a1 x; SET a2 x -> -LOADING no !dropped 2
    = -LOADING no; !unknown a
    ",
    "
    retry 3
    > pipe: SET a1 x; GET a2
    1 a SET a1 x; GET a2 -> -LOADING no !dropped 2
    2 a* SET a1 x; GET a2 -> +OK; y
    = +OK; y
    ",
    // What only one node may serve keeps the rest of the pipeline there.
    "
    retry 2
    > pipe: ECHO x; GET a1
    1 a ECHO x; GET a1 -> !refused
    wait 50ms
    2 a ECHO x; GET a1 -> x; v
    = x; v
    ",
    "
    retry 2
    > pipe: ECHO x; GET a1
    1 a ECHO x; GET a1 -> !refused
    wait 50ms
    2 a ECHO x; GET a1 -> !refused
    3 b ECHO x -> x
    = x; !down a
    ",
    "
    retry 3
    > multi: SET a1 x; SET a2 x
    1 a MULTI; SET a1 x; SET a2 x; EXEC -> !refused
    wait 50ms
    2 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; +QUEUED; +QUEUED; [+OK | +OK]
    = [+OK | +OK]
    ",
    "
    retry 3
    > multi: SET a1 x; SET a2 x
    1 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; -LOADING no; -LOADING no; -EXECABORT no
    wait 50ms
    2 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; +QUEUED; +QUEUED; [+OK | +OK]
    = [+OK | +OK]
    ",
    "
    retry 3
    > multi: SET a1 x; SET a2 x
    1 a MULTI; SET a1 x; SET a2 x; EXEC -> +OK; -LOADING no; -ERR no; -EXECABORT no
    = !redis EXECABORT
    ",
    // Without MULTI the commands ran one by one.
    "
    retry 3
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> -LOADING no; +OK; -ERR no
    = !redis LOADING
    ",
    "
    retry 3
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED !dropped 3
    = !unknown a
    ",
    "
    retry 3
    > dedicated a: GET a1
    1 a GET a1 -> -LOADING no
    = -LOADING no
    > dedicated a: GET a1
    1 a GET a1 -> !dropped 0
    = !down a
    ",
];

/// Commands without end.
const BLOCKING: &[&str] = &[
    "
    blocking 300ms
    > BLPOP a1 0
    1 a BLPOP a1 0 -> !late 1
    = !unknown a
    ",
    "
    blocking 300ms
    > XREAD BLOCK 0 STREAMS a1 $
    1 a XREAD BLOCK 0 STREAMS a1 $ -> !late 1
    = !late a
    ",
    "
    blocking 300ms
    > BLPOP a1 5
    1 a BLPOP a1 5 -> nil +5000ms
    = nil
    ",
    "
    blocking 300ms
    retry 9
    > BLPOP a1 0
    1 a BLPOP a1 0 -> !refused
    wait 50ms
    2 a BLPOP a1 0 -> !refused
    wait 100ms
    3 a BLPOP a1 0 -> !refused
    = !down a
    ",
];

#[test]
fn retry_policy_resends_single_commands_that_were_not_applied() {
    play_all(COMMANDS, play);
}

#[test]
fn retry_policy_resends_only_the_part_of_the_node_that_failed() {
    play_all(FAN_OUTS, play);
}

#[test]
fn retry_policy_keeps_the_order_of_pipelines_and_transactions_whole() {
    play_all(PIPELINES, play);
}

#[test]
fn blocking_timeout_ends_a_command_without_end_and_leaves_others_alone() {
    play_all(BLOCKING, play);
}

#[cfg(feature = "proxy")]
#[test]
fn retry_policy_decides_alike_with_raw_replies() {
    use super::world::play_as;
    use crate::plan::RawReplies;

    for rows in [COMMANDS, FAN_OUTS, BLOCKING] {
        play_all(rows, play_as::<RawReplies>);
    }
}
