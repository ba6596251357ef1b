//! Connections that one user holds.

use super::play_all;
use super::world::play;

const ROWS: &[&str] = &[
    // Nothing is sent over another connection: what it meant is gone with the state of this one.
    "
    > dedicated a: GET a1
    1 a GET a1 -> !dropped 1
    = !down a
    ",
    "
    > dedicated a: SET a1 x
    1 a SET a1 x -> !dropped 1
    = !unknown a
    ",
    "
    > dedicated a: SET a1 x
    1 a SET a1 x -> !dropped 0
    = !down a
    ",
    "
    > dedicated a: GET a1
    1 a GET a1 -> !late 1
    = !late a
    ",
    "
    > dedicated a: GET b1
    = !crossnode
    ",
    "
    > dedicated a: WATCH a1
    1 a WATCH a1 -> -ERR no
    = -ERR no
    > dedicated a: EXEC
    1 a UNWATCH -> +OK
    = !redis EXECABORT
    > dedicated a: GET a1
    1 a GET a1 -> v
    = v
    ",
    "
    > dedicated a: WATCH b1
    = !crossnode
    > dedicated a: MULTI
    1 a MULTI -> +OK
    = +OK
    > dedicated a: EXEC
    1 a DISCARD -> !dropped 1
    = !redis EXECABORT
    ",
    "
    > dedicated a: WATCH a1 b1
    = !crossnode
    > atomic: SET a1 x
    1 a UNWATCH -> +OK
    = !redis EXECABORT
    > atomic: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED; [+OK]
    = [+OK]
    ",
    "
    has SCRIPT LOAD SOURCE
    > dedicated a: EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 a EVAL SOURCE 1 a1 -> :1
    = :1
    > dedicated a: MULTI
    1 a MULTI -> +OK
    = +OK
    > dedicated a: EVALSHA SHA 1 a1
    1 a EVAL SOURCE 1 a1 -> +QUEUED
    = +QUEUED
    > dedicated a: EXEC
    1 a EXEC -> [:1]
    = [:1]
    > dedicated a: EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> :1
    = :1
    ",
    "
    has FUNCTION LOAD CLOCK
    has FUNCTION LOAD PEEK
    > dedicated a: FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD PEEK; FUNCTION LOAD CLOCK -> peek; clock
    3 a FCALL clock 1 a1 -> :5
    = :5
    ",
    "
    has FUNCTION LOAD CLOCK
    > dedicated a: FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK -> !dropped 1
    3 a FCALL clock 1 a1 -> !refused
    = !down a
    ",
    "
    > dedicated a: FUNCTION LOAD CLOCK
    1 a FUNCTION LOAD CLOCK -> clock
    = clock
    libraries 0
    > dedicated a: EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> :1
    = :1
    knows SHA
    ",
    // A MULTI that was refused together with what follows it has begun no transaction.
    "
    > dedicated a: PING
    1 a PING -> +PONG
    = +PONG
    > batch: MULTI; SET b1 x; EXEC
    = !crossnode
    > dedicated a: WATCH b1
    = !crossnode
    > dedicated a: EXEC
    1 a UNWATCH -> +OK
    = !redis EXECABORT
    ",
    "
    > dedicated a: PING
    1 a PING -> +PONG
    = +PONG
    > batch: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v !dropped 3
    = !unknown a
    ",
    "
    has SCRIPT LOAD SOURCE
    has FUNCTION LOAD CLOCK
    > dedicated a: PING
    1 a PING -> +PONG
    = +PONG
    > batch: EVALSHA SHA 1 a1; FCALL clock 1 a2
    1 a EVAL SOURCE 1 a1; FCALL clock 1 a2 -> :1; -ERR Function not found
    = :1; -ERR Function not found
    > atomic: FCALL clock 1 a2
    1 a FUNCTION LOAD CLOCK; MULTI; FCALL clock 1 a2; EXEC -> clock; +OK; +QUEUED; [:5]
    = [:5]
    > atomic: FCALL clock 1 a2
    1 a FUNCTION LOAD CLOCK; MULTI; FCALL clock 1 a2; EXEC -> clock; +OK; +QUEUED !dropped 4
    = !unknown a
    ",
    "
    > dedicated a: PING
    1 a PING -> +PONG
    = +PONG
    > batch: WATCH a1; GET a1
    1 a WATCH a1; GET a1 -> -ERR no; v
    = -ERR no; v
    > batch: MULTI; SET a1 x; EXEC; GET a1
    1 a UNWATCH -> +OK
    = !redis EXECABORT
    ",
    "
    > dedicated a: BLPOP a1 0
    1 a BLPOP a1 0 -> [a1 | v] +90000ms
    = [a1 | v]
    ",
];

#[test]
fn dedicated_connection_never_resends_and_fails_exec_after_a_failed_watch() {
    play_all(ROWS, play);
}
