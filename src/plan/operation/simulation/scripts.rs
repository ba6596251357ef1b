//! Single commands about scripts and functions, and commands for a named node.

use super::play_all;
use super::world::play;
use crate::command::{Blocking, CommandTable, Scripting};

/// Scripts.
pub(super) const SCRIPTS: &[&str] = &[
    "
    > EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> :1
    = :1
    knows SHA
    ",
    "
    > EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> -ERR Error compiling script (new function)
    = -ERR Error compiling script (new function) (node a)
    lacks SHA
    ",
    "
    > EVAL SOURCE 1 a1
    1 a EVAL SOURCE 1 a1 -> !dropped 1
    = !unknown a
    lacks SHA
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 a EVAL SOURCE 1 a1 -> :1
    = :1
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> !dropped 0
    2 a* EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    3 a EVAL SOURCE 1 a1 -> !dropped 0
    4 a* EVAL SOURCE 1 a1 -> :1
    = :1
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 a EVAL SOURCE 1 a1 -> !dropped 1
    = !unknown a
    ",
    // A script that calls another by its sum: its reply is the reply, and it is not run again.
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 a EVAL SOURCE 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    = -NOSCRIPT No matching script. Please use EVAL. (node a)
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA_RO SHA 1 a1
    1 a EVALSHA_RO SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 a EVAL_RO SOURCE 1 a1 -> !dropped 1
    3 a* EVAL_RO SOURCE 1 a1 -> :1
    = :1
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL. +1000ms
    = !late a
    ",
    "
    > EVALSHA SHA 1 a1
    1 a EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    = -NOSCRIPT No matching script. Please use EVAL. (node a)
    ",
    "
    > EVALSHA SHA 0
    = !redis NOSCRIPT
    ",
    "
    has SCRIPT LOAD SOURCE
    > EVALSHA SHA 0
    1 a EVALSHA SHA 0 -> !refused
    2 b EVALSHA SHA 0 -> -NOSCRIPT No matching script. Please use EVAL.
    3 b EVAL SOURCE 0 -> !refused
    = !down b
    ",
    "
    has SCRIPT LOAD SOURCE
    > SCRIPT EXISTS SHA ffff
    1 a SCRIPT EXISTS SHA ffff -> [:0 | :0]
    1 b SCRIPT EXISTS SHA ffff -> !refused
    1 c SCRIPT EXISTS SHA ffff -> [:1 | :0]
    = [:1 | :0]
    ",
    "
    has SCRIPT LOAD SOURCE
    > SCRIPT FLUSH
    1 a SCRIPT FLUSH -> +OK
    1 b SCRIPT FLUSH -> +OK
    1 c SCRIPT FLUSH -> !dropped 1
    = !partial a:done b:done c:unknown
    knows SHA
    > SCRIPT FLUSH
    1 a SCRIPT FLUSH -> +OK
    1 b SCRIPT FLUSH -> +OK
    1 c SCRIPT FLUSH -> +OK
    = +OK
    lacks SHA
    ",
];

/// Functions.
pub(super) const FUNCTIONS: &[&str] = &[
    "
    > FUNCTION LOAD CLOCK
    1 a FUNCTION LOAD CLOCK -> clock
    1 b FUNCTION LOAD CLOCK -> clock
    1 c FUNCTION LOAD CLOCK -> clock
    = clock
    libraries 1
    ",
    "
    > FUNCTION LOAD CLOCK
    1 a FUNCTION LOAD CLOCK -> clock
    1 b FUNCTION LOAD CLOCK -> clock
    1 c FUNCTION LOAD CLOCK -> !refused
    = !partial a:done b:done c:failed
    libraries 0
    ",
    "
    has FUNCTION LOAD CLOCK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK -> clock
    3 a FCALL clock 1 a1 -> :5
    = :5
    ",
    "
    has FUNCTION LOAD CLOCK
    has FUNCTION LOAD PEEK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD PEEK; FUNCTION LOAD CLOCK -> -ERR Library 'peek' already exists; clock
    3 a FCALL clock 1 a1 -> -ERR Function not found
    = -ERR Function not found (node a)
    ",
    // Libraries go in chunks like all else.
    "
    has FUNCTION LOAD LARGELIB
    has FUNCTION LOAD HUGELIB
    > FCALL large 1 a1
    1 a FCALL large 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD HUGELIB / FUNCTION LOAD LARGELIB -> huge; large
    3 a FCALL large 1 a1 -> :5
    = :5
    ",
    // Loading breaks: the function may be there all the same.
    "
    has FUNCTION LOAD CLOCK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK -> !dropped 1
    3 a FCALL clock 1 a1 -> :5
    = :5
    ",
    "
    has FUNCTION LOAD CLOCK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK -> !refused
    3 a FCALL clock 1 a1 -> !refused
    = !down a
    ",
    // Loading takes all the time: the call is not sent when nobody waits for it any more.
    "
    has FUNCTION LOAD CLOCK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found +500ms
    2 a FUNCTION LOAD CLOCK -> !late 1
    = !late a
    ",
    "
    has FUNCTION LOAD CLOCK
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    2 a FUNCTION LOAD CLOCK -> clock
    3 a FCALL clock 1 a1 -> !dropped 1
    = !unknown a
    ",
    "
    > FCALL clock 1 a1
    1 a FCALL clock 1 a1 -> -ERR Function not found
    = -ERR Function not found (node a)
    ",
    "
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> !refused
    2 b FUNCTION LIST WITHCODE -> [[library_name | clock | library_code | CLOCK]]
    3 a FCALL clock 0 -> !refused
    4 b FCALL clock 0 -> :5
    = :5
    libraries 1
    ",
    "
    entropy 2
    > FCALL peek 0
    1 a FUNCTION LIST WITHCODE -> [[library_code | PEEK]]
    2 b FCALL peek 0 -> -ERR Function not found
    3 b FUNCTION LOAD PEEK -> peek
    4 b FCALL peek 0 -> v
    = v
    ",
    "
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> !dropped 1
    2 a* FUNCTION LIST WITHCODE -> !dropped 1
    3 b FUNCTION LIST WITHCODE -> !refused
    4 c FUNCTION LIST WITHCODE -> !refused
    = !unroutable
    libraries 0
    ",
    "
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> !late 1
    = !unroutable
    ",
    "
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> [[library_code | PEEK]]
    = !redis ERR
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> [[library_code | CLOCK]]
    2 a FCALL clock 0 -> :5
    = :5
    ",
    "
    > FCALL clock 0
    1 a FUNCTION LIST WITHCODE -> [[library_code | CLOCK]] +1000ms
    = !late a
    ",
    // No library would make these work.
    "
    > FCALL clock 2 a1 b1
    = !crossnode
    ",
    "
    > FCALL clock x
    = !redis ERR
    ",
];

/// One node, because the user says so.
const AT_ONE_NODE: &[&str] = &[
    "
    > at b: FUNCTION LOAD CLOCK
    1 b FUNCTION LOAD CLOCK -> clock
    = clock
    libraries 0
    > at b: FCALL clock 0
    1 b FCALL clock 0 -> -ERR Function not found
    = -ERR Function not found (node b)
    ",
    "
    has FUNCTION LOAD CLOCK
    > at c: FCALL clock 0
    1 c FCALL clock 0 -> -ERR Function not found
    2 c FUNCTION LOAD CLOCK -> clock
    3 c FCALL clock 0 -> :5
    = :5
    > at c: FUNCTION FLUSH
    1 c FUNCTION FLUSH -> +OK
    = +OK
    libraries 1
    ",
    "
    has SCRIPT LOAD SOURCE
    > at b: EVALSHA SHA 1 a1
    1 b EVALSHA SHA 1 a1 -> -NOSCRIPT No matching script. Please use EVAL.
    2 b EVAL SOURCE 1 a1 -> :1
    = :1
    > at b: SCRIPT EXISTS SHA
    1 b SCRIPT EXISTS SHA -> [:0]
    = [:0]
    > at b: SCRIPT FLUSH
    1 b SCRIPT FLUSH -> +OK
    = +OK
    knows SHA
    ",
    "
    > at b: ECHO x
    1 b ECHO x -> !refused
    = !down b
    ",
    "
    > at b: DBSIZE
    1 b DBSIZE -> :7
    = :7
    ",
    "
    > at b: SCRIPT LOAD SOURCE
    1 b SCRIPT LOAD SOURCE -> SHA
    = SHA
    knows SHA
    ",
];

#[test]
fn evalsha_is_resent_as_eval_to_a_node_that_lacks_the_script() {
    play_all(SCRIPTS, play);
}

#[test]
fn fcall_loads_or_lists_libraries_first_where_needed() {
    play_all(FUNCTIONS, play);
}

#[test]
fn script_command_for_a_named_node_and_its_libraries_stay_on_that_node() {
    play_all(AT_ONE_NODE, play);
}

#[test]
fn script_commands_never_block_so_every_recovery_step_has_a_deadline() {
    let about_scripts = CommandTable::built_in()
        .iter()
        .filter(|command| command.scripting() == Scripting::Yes);
    let waiting = about_scripts.filter(|command| command.blocking() != Blocking::No);
    assert_eq!(
        waiting.map(|command| command.name()).collect::<Vec<_>>(),
        [""; 0]
    );
}
