//! A property of the text of scripts: [`scripts`].

use super::steps;
use crate::command::CommandTable;
use crate::plan::ScriptCache;

/// A call that touches a key which the text does not show.
const HIDDEN: &[u8] = b"\nredis.call('GET', ARGV[1])";
/// A call that shows its key.
const SHOWN: &[u8] = b"\nredis.call('GET', 'shown')";

/// The keys that the text of a script shows do not depend on harmless text around it, and a call that hides
/// its key leaves none. No more work is done than there are bytes.
pub fn scripts(source: &[u8]) {
    let (keys, spent) = steps::of(|| keys(source));
    assert!(
        spent.steps <= 4 * source.len() + 16,
        "{spent:?} for {} bytes",
        source.len()
    );
    let with = |parts: &[&[u8]]| self::keys(&parts.concat());
    // The first bytes may give the text another meaning: a shebang, or compiled code.
    if !source.starts_with(b"#") && !source.starts_with(b"\x1b") {
        let all = [b"local x = 1 ".as_slice(), source];
        assert_eq!(with(&all), keys, "behind something harmless");
    }
    // A line break may end a comment that was open.
    let ended = with(&[source, b"\n"]);
    if keys.is_some() {
        assert_eq!(ended, keys);
    }
    assert_eq!(
        with(&[source, HIDDEN]),
        None,
        "before a call that hides its key"
    );
    if let Some(mut keys) = ended {
        keys.push(b"shown".to_vec());
        assert_eq!(
            with(&[source, SHOWN]),
            Some(keys),
            "before a call that shows its key"
        );
    }
    judged(source);
}

fn keys(source: &[u8]) -> Option<Vec<Vec<u8>>> {
    let keys = crate::plan::keys_of_script(source, CommandTable::built_in())?;
    Some(keys.iter().map(|key| key.to_vec()).collect())
}

/// Judged as a script, and as the code of a library.
fn judged(source: &[u8]) {
    let commands = CommandTable::built_in();
    let judge = |cache: &ScriptCache, args: &[&[u8]]| {
        let command = commands.find(args).expect("a known command");
        let keys = cache.literal_keys(commands, command, args).ok()?;
        Some(keys.iter().map(|key| key.to_vec()).collect::<Vec<_>>())
    };
    let mut cache = ScriptCache::default();
    assert_eq!(judge(&cache, &[b"EVAL", source, b"0"]), keys(source));
    let code = [b"#!lua name=library\n", source, b"\n'function'"].concat();
    cache.record_sent(&[b"FUNCTION", b"LOAD", &code]);
    let called = judge(&cache, &[b"FCALL", b"FUNCTION", b"0"]);
    if called.is_some() {
        assert_eq!(called, keys(&code));
    }
}
