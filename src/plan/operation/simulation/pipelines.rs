//! Pipelines and transactions.

use super::play_all;
use super::text::pack;
use super::world::{play, router};
use crate::plan::request::PlannedPipeline;
use crate::plan::{Exchange, NodeRequest, PartialReads, PipelineKind, ScriptCache};

/// Reads out of reach in the middle of others. A transaction is no place for them.
const MISSES: &[&str] = &[
    "
    missing nodes
    > pipe: GET a1; SET a2 x; LLEN a3; GET b1
    1 a GET a1; SET a2 x; LLEN a3 -> !dropped 3
    1 b GET b1 -> v
    = nil; !unknown a; :0; v
    ",
    "
    missing nodes
    > pipe: GET a1; GET a2; MGET a3 b1
    1 a GET a1; GET a2; MGET a3 -> v !late 3
    1 b MGET b1 -> [w]
    = v; nil; [nil | w]
    ",
    "
    missing nodes
    > multi: GET a1
    1 a MULTI; GET a1; EXEC -> !refused
    = !down a
    ",
];

/// Reads and writes whose connection breaks at each position: how many replies came, how many requests were sent.
const MIXED: &[&str] = &[
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> !dropped 0
    2 a* GET a1; SET a2 x; GET a3 -> v; +OK; w
    = v; +OK; w
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> !dropped 1
    2 a* GET a1; SET a2 x; GET a3 -> v; +OK; w
    = v; +OK; w
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> !dropped 2
    = !down a; !unknown a; !down a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> !dropped 3
    = !down a; !unknown a; !down a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v !dropped 1
    2 a* SET a2 x; GET a3 -> +OK; w
    = v; +OK; w
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v !dropped 1
    2 a* SET a2 x; GET a3 -> !dropped 1
    = v; !unknown a; !down a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v !dropped 3
    = v; !unknown a; !down a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v; +OK !dropped 3
    2 a* GET a3 -> w
    = v; +OK; w
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v; +OK !dropped 3
    2 a* GET a3 -> !dropped 1
    = v; +OK; !down a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v; +OK !late 3
    = v; +OK; !late a
    ",
    "
    > pipe: GET a1; SET a2 x; GET a3
    1 a GET a1; SET a2 x; GET a3 -> v !late 2
    = v; !unknown a; !late a
    ",
    "
    > pipe: GET a1; SET b1 x; GET a2; SET c1 y
    1 a GET a1; GET a2 -> v !dropped 2
    1 b SET b1 x -> !refused
    1 c SET c1 y -> !dropped 1
    2 a* GET a2 -> w
    = v; !down b; w; !unknown c
    ",
    // One node keeps the wave until the end, so nothing is resent to another.
    "
    > pipe: GET a1; SET b1 x
    1 a GET a1 -> !dropped 1
    1 b SET b1 x -> !pool
    = !down a; !pool b
    ",
    // Each chunk is sent when the one before is answered.
    "
    > pipe: SET a1 BIG; SET a2 BIG
    1 a SET a1 BIG / SET a2 BIG -> +OK !dropped 1
    2 a* SET a2 BIG -> +OK
    = +OK; +OK
    ",
];

/// Commands for any node, several nodes or none among others.
const ROUTED: &[&str] = &[
    "
    > pipe: ECHO x; GET b1; ECHO y; GET a1
    1 a ECHO x; ECHO y; GET a1 -> !refused
    1 b GET b1 -> v
    2 b ECHO x; ECHO y -> x; y
    = x; v; y; !down a
    ",
    "
    > pipe: ECHO x; ECHO y
    1 a ECHO x; ECHO y -> x !dropped 2
    2 a* ECHO y -> !refused
    3 b ECHO y -> !dropped 0
    4 b* ECHO y -> !refused
    5 c ECHO y -> y
    = x; y
    ",
    "
    > pipe: ECHO x; SET a1 v; ECHO y
    1 a ECHO x; SET a1 v; ECHO y -> !late 3
    = !late a; !unknown a; !late a
    ",
    "
    > pipe: MGET a1 b1; DBSIZE; SET a2 x
    1 a MGET a1; DBSIZE; SET a2 x -> [x]; :1; +OK
    1 b MGET b1; DBSIZE -> !dropped 2
    1 c DBSIZE -> :3
    2 b* MGET b1; DBSIZE -> [y]; :2
    = [x | y]; :6; +OK
    ",
    "
    > pipe at b: GET a1; ECHO x
    1 b GET a1; ECHO x -> !refused
    = !down b; !down b
    ",
];

/// Scripts and functions in pipelines.
const SCRIPTS: &[&str] = &[
    "
    has SCRIPT LOAD SOURCE
    > pipe: EVALSHA SHA 1 a1; EVALSHA SHA 1 b1; EVALSHA SHA 1 a2
    1 a EVAL SOURCE 1 a1; EVALSHA SHA 1 a2 -> :1; :3
    1 b EVAL SOURCE 1 b1 -> :2
    = :1; :2; :3
    ",
    "
    > pipe: EVALSHA SHA 1 a1; EVAL SOURCE 1 b1; EVALSHA SHA 1 c1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    1 b EVAL SOURCE 1 b1 -> :2
    1 c EVAL SOURCE 1 c1 -> :3
    = -NOSCRIPT No matching script. Please use EVAL.; :2; :3
    knows SHA
    ",
    "
    has FUNCTION LOAD CLOCK
    > pipe: FCALL clock 1 a1; GET a2; FCALL clock 1 b1; FCALL clock 1 a3
    1 a FCALL clock 1 a1; GET a2; FCALL clock 1 a3 -> -ERR Function not found; v; -ERR Function not found
    1 b FCALL clock 1 b1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK; FCALL clock 1 a1; FCALL clock 1 a3 -> clock; :1; :2
    2 b FUNCTION LOAD CLOCK; FCALL clock 1 b1 -> clock; :3
    = :1; v; :3; :2
    ",
    "
    has FUNCTION LOAD CLOCK
    > pipe: FCALL clock 1 a1; FCALL clock 1 b1; FCALL clock 1 c1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    1 b FCALL clock 1 b1 -> -ERR Function not found
    1 c FCALL clock 1 c1 -> :9
    2 a FUNCTION LOAD CLOCK; FCALL clock 1 a1 -> clock !dropped 2
    2 b FUNCTION LOAD CLOCK; FCALL clock 1 b1 -> !refused
    = !unknown a; !down b; :9
    ",
    // It has waited for ever already, but is not loaded and called for ever.
    "
    has FUNCTION LOAD CLOCK
    > pipe: BLPOP a1 0; FCALL clock 1 a2
    1 a BLPOP a1 0; FCALL clock 1 a2 -> [a1 | v]; -ERR Function not found +9000ms
    2 a FUNCTION LOAD CLOCK; FCALL clock 1 a2 -> !late 2
    = [a1 | v]; !unknown a
    ",
    "
    has FUNCTION LOAD CLOCK
    > pipe: FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found +1000ms
    = !late a
    ",
    "
    > pipe at b: FUNCTION LOAD CLOCK; FCALL clock 1 a1
    1 b FUNCTION LOAD CLOCK; FCALL clock 1 a1 -> clock; :1
    = clock; :1
    libraries 0
    ",
    "
    > pipe: SCRIPT LOAD SOURCE; SCRIPT EXISTS SHA
    1 a SCRIPT LOAD SOURCE; SCRIPT EXISTS SHA -> SHA; [:1]
    1 b SCRIPT LOAD SOURCE; SCRIPT EXISTS SHA -> SHA; [:0]
    1 c SCRIPT LOAD SOURCE; SCRIPT EXISTS SHA -> SHA; [:1]
    = SHA; [:1]
    knows SHA
    ",
];

/// MULTI ... EXEC.
const TRANSACTIONS: &[&str] = &[
    "
    > multi: SET a1 x; GET a2
    1 a MULTI; SET a1 x; GET a2; EXEC -> +OK; +QUEUED; +QUEUED; [+OK | v]
    = [+OK | v]
    ",
    "
    > multi: nothing
    = []
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; -ERR no; -EXECABORT Transaction discarded because of previous errors.
    = !redis EXECABORT
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> -ERR unknown command 'MULTI'; +OK; -ERR EXEC without MULTI
    = !redis ERR
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED !dropped 3
    = !unknown a
    ",
    "
    > multi: GET a1
    1 a MULTI; GET a1; EXEC -> !late 3
    = !unknown a
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> !refused
    = !down a
    ",
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> !dropped 0
    2 a* MULTI; SET a1 x; EXEC -> !dropped 0
    = !down a
    ",
    // What would be left of it is no transaction.
    "
    > multi: SET a1 x
    1 a MULTI; SET a1 x; EXEC -> +OK; +QUEUED !dropped 2
    = !unknown a
    ",
    // All of it goes at once, also the second time: its end must not come on another connection than its beginning.
    "
    > multi: SET a1 BIG; SET a2 BIG
    1 a MULTI; SET a1 BIG; SET a2 BIG; EXEC -> !dropped 0
    2 a* MULTI; SET a1 BIG; SET a2 BIG; EXEC -> +OK; +QUEUED; +QUEUED; [+OK | +OK]
    = [+OK | +OK]
    ",
    "
    > multi: SET a1 x; SET b1 y
    = !crossnode
    ",
    "
    has SCRIPT LOAD SOURCE
    > multi: EVALSHA SHA 1 a1; EVALSHA SHA 1 a2
    1 a MULTI; EVAL SOURCE 1 a1; EVALSHA SHA 1 a2; EXEC -> +OK; +QUEUED; +QUEUED; [:1 | :2]
    = [:1 | :2]
    ",
    "
    has FUNCTION LOAD CLOCK
    > multi: FCALL clock 1 a1
    1 a FUNCTION LOAD CLOCK; MULTI; FCALL clock 1 a1; EXEC -> -ERR Library 'clock' already exists; +OK; +QUEUED; [:1]
    = [:1]
    ",
    "
    has FUNCTION LOAD CLOCK
    > multi: FCALL clock 1 a1
    1 a FUNCTION LOAD CLOCK; MULTI; FCALL clock 1 a1; EXEC -> clock; +OK !dropped 4
    = !unknown a
    ",
    "
    > multi at b: SET a1 x
    1 b MULTI; SET a1 x; EXEC -> +OK; +QUEUED; [+OK]
    = [+OK]
    ",
    "
    > multi: EVAL SOURCE 1 a1
    1 a MULTI; EVAL SOURCE 1 a1; EXEC -> +OK; +QUEUED; [:1]
    = [:1]
    knows SHA
    ",
];

#[test]
fn pipelined_reads_out_of_reach_are_misses_one_by_one() {
    play_all(MISSES, play);
}

#[test]
fn broken_pipeline_is_resent_from_its_first_unanswered_request_unless_a_write_was_sent() {
    play_all(MIXED, play);
}

#[test]
fn pipeline_sends_each_command_to_its_own_nodes() {
    play_all(ROUTED, play);
}

#[test]
fn pipeline_loads_scripts_and_functions_on_nodes_that_lack_them() {
    play_all(SCRIPTS, play);
}

#[test]
fn transaction_is_sent_once_and_never_split_into_chunks() {
    play_all(TRANSACTIONS, play);
}

/// What one node gets for these packed commands.
fn planned(packed: &[u8], check: impl FnOnce(&[NodeRequest])) {
    let router = router(PartialReads::Refused);
    let planned = router.route_pipeline(packed, PipelineKind::Plain, &ScriptCache::empty, 0);
    let Ok(PlannedPipeline::Batch { mut batch, .. }) = planned else {
        panic!("it is a batch");
    };
    let exchange: Exchange = batch.exchange();
    let requests: Vec<NodeRequest> = exchange.into_parts().map(|(request, _)| request).collect();
    check(&requests);
}

#[test]
fn wait_and_the_publish_before_it_are_sent_in_one_chunk_of_a_pipeline() {
    const CHUNK: usize = 1 << 20;
    // The end of the first chunk lies before PUBLISH, between the two, and behind WAIT.
    let wait = pack("WAIT 1 100");
    for before in (0..wait.len() + 70).step_by(3) {
        let value = "x".repeat(CHUNK - 120 + before);
        let mut packed = pack(&format!("SET a1 {value}"));
        packed.extend_from_slice(&wait);
        packed.extend_from_slice(&wait);
        planned(&packed, |requests| {
            let request = &requests[0];
            let counts: Vec<usize> = (0..request.chunks())
                .filter_map(|number| Some(request.chunk(number)?.count))
                .collect();
            let total: usize = counts.iter().sum();
            assert_eq!(total, 5, "SET, and two pairs");
            let pairs_are_whole = counts
                .iter()
                .scan(0, |sum, count| {
                    *sum += count;
                    Some(*sum)
                })
                .all(|sum| sum % 2 == 1);
            assert!(pairs_are_whole, "{counts:?} with {before} bytes");
        });
    }
}
