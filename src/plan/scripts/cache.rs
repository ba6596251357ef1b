//! The scripts and libraries that passed through a client.
//!
//! [`ScriptCache`] holds two things with a bound each: scripts by their SHA1, and *loads*, the requests that
//! brought libraries to the nodes (FUNCTION LOAD, FUNCTION RESTORE) in their order. It fills in two ways:
//! from requests that succeeded ([`record_reply`](ScriptCache::record_reply)), and from FUNCTION LIST
//! ([`record_libraries`](ScriptCache::record_libraries)). It is never persisted. A script is identified by its
//! SHA1, so its source is never outdated; the code of a library is, if another client has replaced it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use redis::Value;

use crate::command::write_command;
use crate::plan::scripts::command::{Scope, ScriptCommand, ScriptSha};
use crate::plan::scripts::lua;
use crate::resp::canonical_integer;

/// Maximum number of scripts that a client remembers, and of libraries likewise. The oldest are dropped
/// first.
pub const SCRIPTS_MAX: usize = 1_000;

/// Maximum size of the remembered scripts in bytes, and of the remembered libraries likewise. The oldest are
/// dropped first; a script that is larger by itself is not remembered.
pub const SCRIPT_BYTES_MAX: usize = 16 << 20;

/// Sources and libraries by which a client repairs NOSCRIPT and `Function not found`.
///
/// Immutable once shared: a handle keeps an `Arc` of it behind a lock, readers clone the `Arc`, and a writer
/// changes it with `Arc::make_mut`. That copies the maps only while somebody reads an older snapshot; sources
/// are shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptCache {
    /// Sources by their SHA1. Has the same elements as `order`.
    scripts: HashMap<ScriptSha, Arc<[u8]>>,
    /// In the order of their arrival, the oldest first. Use does not refresh an entry.
    order: VecDeque<ScriptSha>,
    /// Total length of the sources in `scripts`, at most [`SCRIPT_BYTES_MAX`].
    script_bytes: usize,
    /// In the order in which they took effect, the oldest first; at most one library of a name.
    loads: VecDeque<Load>,
    /// Total length of code and payloads in `loads`, at most [`SCRIPT_BYTES_MAX`].
    load_bytes: usize,
    /// A node has listed all of its libraries, so the absence of a function here means something.
    has_asked: bool,
}

/// A request that brought libraries to the nodes.
#[derive(Clone, Debug)]
enum Load {
    /// FUNCTION LOAD. The name is that of the library, from the first line of its code.
    Library { name: Vec<u8>, code: Arc<[u8]> },
    /// FUNCTION RESTORE: libraries in the server's own format. Their names and functions are unknown here.
    Restore { payload: Arc<[u8]> },
}

impl ScriptCache {
    /// Returns a cache without entries.
    pub(crate) fn empty() -> Arc<Self> {
        Arc::default()
    }

    /// Records a request as carried out on all nodes, without its reply; requests that are not about scripts
    /// change nothing. For tests and fuzz targets.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn record_sent(&mut self, args: &[&[u8]]) {
        if let Some(command) = ScriptCommand::of(args) {
            self.record(command, Scope::AllNodes);
        }
    }

    /// True if [`record_reply`](Self::record_reply) would change the cache or the reply. Takes a shared
    /// reference, so that a caller needs the exclusive lock only when this is true: once per script, not once
    /// per call.
    pub(crate) fn would_change(&self, args: &[&[u8]], scope: Scope, answer: &Value) -> bool {
        ScriptCommand::of(args)
            .filter(|command| command.succeeded(answer))
            .is_some_and(|command| self.is_new(command, scope) || command.is_exists_on_all(scope))
    }

    /// Records the effect of a request, judging by its reply, and corrects the reply to SCRIPT EXISTS: true
    /// for each remembered script, since EVALSHA works with it on every node.
    pub(crate) fn record_reply(
        cache: &mut Arc<Self>,
        args: &[&[u8]],
        scope: Scope,
        answer: &mut Value,
    ) {
        // `is_new` comes before `make_mut`, which copies the maps while a snapshot is out.
        match ScriptCommand::of(args).filter(|command| command.succeeded(answer)) {
            Some(command @ ScriptCommand::ScriptExists(sums))
                if command.is_exists_on_all(scope) =>
            {
                cache.fill_exists(sums, answer);
            }
            Some(command) if cache.is_new(command, scope) => {
                Arc::make_mut(cache).record(command, scope);
            }
            _ => {}
        }
    }

    /// Returns the source of the script with this SHA1, given in hex digits.
    pub(crate) fn source(&self, sha: &[u8]) -> Option<&Arc<[u8]>> {
        self.scripts.get(&ScriptSha::parse(sha)?)
    }

    /// Returns the EVAL for an EVALSHA, packed, with the remembered source and the remaining arguments;
    /// EVAL_RO for EVALSHA_RO. `None` for other commands, and if the source is not remembered.
    pub(crate) fn rewrite(&self, args: &[&[u8]]) -> Option<Vec<u8>> {
        let Some(ScriptCommand::EvalSha(sha)) = ScriptCommand::of(args) else {
            return None;
        };
        let source = self.source(sha)?;
        // The name is EVALSHA or EVALSHA_RO in some case, as `of` found: its length tells them apart.
        let name: &[u8] = match args[0].len() == "EVALSHA".len() {
            true => b"EVAL",
            false => b"EVAL_RO",
        };
        let rest = args.get(2..).unwrap_or_default();
        let args: Vec<&[u8]> = [name, source]
            .into_iter()
            .chain(rest.iter().copied())
            .collect();
        let mut out = Vec::new();
        write_command(&mut out, &args);
        Some(out)
    }

    /// Returns the requests that load every remembered library again, packed, for a node that lost them.
    ///
    /// None of them replaces a library that the node has, so each is harmless where it is not needed and
    /// fails there with an error, which is ignored. The newest come first: of two that bring the same library
    /// the newer one wins.
    pub(crate) fn reloads(&self) -> Vec<Vec<u8>> {
        self.loads.iter().rev().map(Load::packed).collect()
    }

    /// Returns the loads whose code names one of these functions. Returns all loads if any function is named
    /// by none, since a library may compute the names of its functions, and a restored payload cannot be
    /// read.
    pub(in crate::plan) fn reloads_for(&self, functions: &[&[u8]]) -> Vec<Vec<u8>> {
        let named = |function: &&[u8]| self.libraries_of(function).next().is_some();
        if !functions.iter().all(named) {
            return self.reloads();
        }
        let wanted = |load: &&Load| functions.iter().any(|function| load.names(function));
        self.loads
            .iter()
            .rev()
            .filter(wanted)
            .map(Load::packed)
            .collect()
    }

    /// Iterates over the code of the libraries that name this function in a string literal.
    pub(in crate::plan) fn libraries_of(&self, function: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.loads
            .iter()
            .filter(|load| load.names(function))
            .map(Load::bytes)
    }

    /// Returns the code of the libraries that name this function, or `None` if one of them was loaded before
    /// a FUNCTION RESTORE, which may have replaced it with other code.
    pub(in crate::plan) fn latest_libraries_of(&self, function: &[u8]) -> Option<Vec<&[u8]>> {
        let loads = self.loads.iter().rev();
        let since = loads.take_while(|load| !matches!(load, Load::Restore { .. }));
        let known: Vec<&[u8]> = self.libraries_of(function).collect();
        let fresh = since.filter(|load| load.names(function)).count();
        (fresh == known.len()).then_some(known)
    }

    /// True if routing this request needs the code of a library that is not known: another client may have
    /// loaded it, or it arrived by FUNCTION RESTORE. FUNCTION LIST can then supply it. False for a call that
    /// declares keys, or whose `numkeys` is malformed: neither is routed by code.
    pub(crate) fn lacks_code_for(&self, args: &[&[u8]]) -> bool {
        match ScriptCommand::of(args) {
            Some(ScriptCommand::Call(function)) if declares_no_key(args) => {
                self.has_restored() || self.libraries_of(function).next().is_none()
            }
            _ => false,
        }
    }

    /// Records the libraries of a node, from its reply to FUNCTION LIST WITHCODE, and drops the restored
    /// payloads, whose libraries the list contains.
    pub(crate) fn record_libraries(cache: &mut Arc<Self>, answer: &Value) {
        let Value::Array(libraries) = answer else {
            return;
        };
        let cache = Arc::make_mut(cache);
        cache.remove_loads(|load| matches!(load, Load::Restore { .. }));
        for code in libraries.iter().filter_map(library_code) {
            cache.record(ScriptCommand::FunctionLoad(code), Scope::AllNodes);
        }
        cache.has_asked = true;
    }

    /// True once a node has listed its libraries: a function that is not known then does not exist.
    pub(in crate::plan) fn has_listed_libraries(&self) -> bool {
        self.has_asked
    }

    /// True if the nodes may have libraries whose code is not known, from a FUNCTION RESTORE.
    pub(in crate::plan) fn has_restored(&self) -> bool {
        self.loads
            .iter()
            .any(|load| matches!(load, Load::Restore { .. }))
    }

    /// True if no library is remembered, so that `Function not found` cannot be repaired.
    pub(in crate::plan) fn has_no_loads(&self) -> bool {
        self.loads.is_empty()
    }

    /// Sets the elements of a reply to SCRIPT EXISTS to 1 where the source is remembered.
    fn fill_exists(&self, sums: &[&[u8]], answer: &mut Value) {
        let Value::Array(found) = answer else {
            return;
        };
        for (sha, found) in sums.iter().zip(found) {
            if self.source(sha).is_some() {
                *found = Value::Int(1);
            }
        }
    }

    /// True if [`record`](Self::record) would change anything.
    pub(in crate::plan) fn is_new(&self, command: ScriptCommand<'_>, scope: Scope) -> bool {
        match command {
            ScriptCommand::Eval(source) | ScriptCommand::ScriptLoad(source) => {
                source.len() <= SCRIPT_BYTES_MAX
                    && !self.scripts.contains_key(&ScriptSha::of(source))
            }
            ScriptCommand::EvalSha(_) | ScriptCommand::Call(_) | ScriptCommand::ScriptExists(_) => {
                false
            }
            _ if scope == Scope::OneNode => false,
            ScriptCommand::ScriptFlush => !self.scripts.is_empty(),
            ScriptCommand::FunctionDelete(_) | ScriptCommand::FunctionFlush => {
                !self.loads.is_empty()
            }
            _ => true,
        }
    }

    /// Records the effect of a command that was carried out. With [`Scope::OneNode`] only scripts are
    /// recorded: a library or a flush on one node is not meant for the others.
    pub(in crate::plan) fn record(&mut self, command: ScriptCommand<'_>, scope: Scope) {
        match command {
            ScriptCommand::Eval(source) | ScriptCommand::ScriptLoad(source) => {
                self.add_script(source)
            }
            ScriptCommand::EvalSha(_) | ScriptCommand::Call(_) | ScriptCommand::ScriptExists(_) => {
            }
            _ if scope == Scope::OneNode => {}
            ScriptCommand::ScriptFlush => {
                self.scripts.clear();
                self.order.clear();
                self.script_bytes = 0;
            }
            // Without a name the server refuses the library, so there is nothing to bring back.
            ScriptCommand::FunctionLoad(code) => {
                if let Some(name) = lua::library_name(code) {
                    self.remove_loads(|load| load.is_library(name));
                    self.add_load(Load::Library {
                        name: name.to_vec(),
                        code: code.into(),
                    });
                }
            }
            // A restored payload may contain the library and would bring it back. Its other libraries are
            // forgotten with it, and FUNCTION LIST shows them again when a call needs their code.
            ScriptCommand::FunctionDelete(name) => {
                self.remove_loads(|load| {
                    load.is_library(name) || matches!(load, Load::Restore { .. })
                });
            }
            ScriptCommand::FunctionFlush => self.remove_loads(|_| true),
            ScriptCommand::FunctionFlushAndRestore(payload) => {
                self.remove_loads(|_| true);
                self.add_load(Load::Restore {
                    payload: payload.into(),
                });
            }
            // Moved to the end: libraries loaded before this RESTORE may have been replaced by it.
            ScriptCommand::FunctionRestore(payload) => {
                self.remove_loads(|load| load.bytes() == payload);
                self.add_load(Load::Restore {
                    payload: payload.into(),
                });
            }
        }
    }

    /// Adds a source, and drops the oldest until the bounds hold.
    fn add_script(&mut self, source: &[u8]) {
        let sha = ScriptSha::of(source);
        // A source over the bound would displace all others and then itself.
        if source.len() > SCRIPT_BYTES_MAX || self.scripts.contains_key(&sha) {
            return;
        }
        self.scripts.insert(sha, source.into());
        self.order.push_back(sha);
        self.script_bytes += source.len();
        while self.order.len() > SCRIPTS_MAX || self.script_bytes > SCRIPT_BYTES_MAX {
            let oldest = self.order.pop_front();
            let Some(source) = oldest.and_then(|sha| self.scripts.remove(&sha)) else {
                break;
            };
            self.script_bytes -= source.len();
        }
    }

    /// Adds a load after all others, and drops the oldest until the bounds hold.
    fn add_load(&mut self, load: Load) {
        self.load_bytes += load.bytes().len();
        self.loads.push_back(load);
        while self.loads.len() > SCRIPTS_MAX || self.load_bytes > SCRIPT_BYTES_MAX {
            let Some(oldest) = self.loads.pop_front() else {
                break;
            };
            self.load_bytes -= oldest.bytes().len();
        }
    }

    /// Removes the loads for which `which` is true, and counts the bytes of the rest.
    fn remove_loads(&mut self, which: impl Fn(&Load) -> bool) {
        self.loads.retain(|load| !which(load));
        self.load_bytes = self.loads.iter().map(|load| load.bytes().len()).sum();
    }
}

/// True if `numkeys` is 0, as a server parses it.
fn declares_no_key(args: &[&[u8]]) -> bool {
    args.get(2)
        .is_some_and(|number| canonical_integer(number) == Some(0))
}

/// Returns the code of one library in a reply to FUNCTION LIST WITHCODE: a map in RESP3, a flat array in
/// RESP2.
fn library_code(library: &Value) -> Option<&[u8]> {
    let is_code = |name: &Value| matches!(name, Value::BulkString(name) if name == b"library_code");
    let code = match library {
        Value::Map(pairs) => pairs
            .iter()
            .find(|(name, _)| is_code(name))
            .map(|(_, code)| code),
        Value::Array(items) => {
            let at = items.iter().position(is_code)?;
            items.get(at + 1)
        }
        _ => None,
    };
    match code? {
        Value::BulkString(code) => Some(code),
        Value::VerbatimString { text, .. } => Some(text.as_bytes()),
        _ => None,
    }
}

impl Load {
    /// Code or payload: the bytes that count against the bound.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Library { code, .. } => code,
            Self::Restore { payload } => payload,
        }
    }

    /// True for the library of this name; false for any payload.
    fn is_library(&self, wanted: &[u8]) -> bool {
        matches!(self, Self::Library { name, .. } if name == wanted)
    }

    /// True if the code names this function; false for a payload, which cannot be read.
    fn names(&self, function: &[u8]) -> bool {
        match self {
            Self::Library { code, .. } => lua::names(code, function),
            Self::Restore { .. } => false,
        }
    }

    /// The request that brings it to a node that does not have it and fails on one that has: without REPLACE
    /// in either form.
    fn packed(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Library { code, .. } => write_command(&mut out, &[b"FUNCTION", b"LOAD", code]),
            Self::Restore { payload } => {
                write_command(&mut out, &[b"FUNCTION", b"RESTORE", payload]);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(requests: &[&[&str]]) -> ScriptCache {
        let mut cache = ScriptCache::default();
        for request in requests {
            let args: Vec<&[u8]> = request.iter().map(|word| word.as_bytes()).collect();
            cache.record_sent(&args);
        }
        cache
    }

    fn reloads(cache: &ScriptCache) -> Vec<String> {
        let text = |packed: Vec<u8>| {
            let args = crate::plan::parse_one(&packed).expect("a request");
            let words: Vec<_> = args
                .iter()
                .map(|arg| String::from_utf8_lossy(arg))
                .collect();
            words.join(" ").replace('\n', " ")
        };
        cache.reloads().into_iter().map(text).collect()
    }

    const ONE: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn evalsha_becomes_eval_with_the_source_and_the_same_arguments() {
        for learned in [
            &["EVAL", "return 1", "0"][..],
            &["eval_ro", "return 1", "1", "k"],
            &["SCRIPT", "LOAD", "return 1"],
        ] {
            let cache = told(&[learned]);
            let packed = cache
                .rewrite(&[b"evalsha", ONE.as_bytes(), b"1", b"k", b"x"])
                .expect("it is remembered");
            let eval: Vec<&[u8]> = vec![b"EVAL", b"return 1", b"1", b"k", b"x"];
            assert_eq!(crate::plan::parse_one(&packed).unwrap().to_vec(), eval);
            let packed = cache
                .rewrite(&[b"EVALSHA_RO", ONE.to_uppercase().as_bytes(), b"0"])
                .expect("it is remembered");
            let eval: Vec<&[u8]> = vec![b"EVAL_RO", b"return 1", b"0"];
            assert_eq!(crate::plan::parse_one(&packed).unwrap().to_vec(), eval);
            assert_eq!(cache.rewrite(&[b"EVALSHA", &[b'a'; 40], b"0"]), None);
            assert_eq!(cache.rewrite(&[b"EVAL", ONE.as_bytes(), b"0"]), None);
        }
        let flushed = told(&[&["EVAL", "return 1", "0"], &["SCRIPT", "FLUSH"]]);
        assert!(flushed.source(ONE.as_bytes()).is_none());
    }

    #[test]
    fn script_cache_evicts_the_oldest_scripts_first() {
        let mut cache = ScriptCache::default();
        let sources: Vec<String> = (0..=SCRIPTS_MAX).map(|n| format!("return {n}")).collect();
        for source in &sources {
            cache.record_sent(&[b"SCRIPT", b"LOAD", source.as_bytes()]);
        }
        assert_eq!(cache.scripts.len(), SCRIPTS_MAX);
        assert!(!cache.scripts.contains_key(&ScriptSha::of(b"return 0")));
        assert!(cache.scripts.contains_key(&ScriptSha::of(b"return 1")));

        let large = vec![b' '; SCRIPT_BYTES_MAX - 8];
        cache.record_sent(&[b"EVAL", &large, b"0"]);
        assert_eq!(cache.order.len(), 1);
        cache.record_sent(&[b"EVAL", b"return 0", b"0"]);
        assert_eq!(
            (cache.order.len(), cache.script_bytes),
            (2, SCRIPT_BYTES_MAX)
        );
        cache.record_sent(&[b"EVAL", &vec![b' '; SCRIPT_BYTES_MAX + 1], b"0"]);
        assert_eq!(
            cache.order.len(),
            2,
            "one that is too long displaces nothing"
        );
    }

    #[test]
    fn script_cache_limits_libraries_by_number_and_bytes() {
        let mut cache = ScriptCache::default();
        for n in 0..=SCRIPTS_MAX {
            let code = format!("#!lua name=l{n}\n");
            cache.record_sent(&[b"FUNCTION", b"LOAD", code.as_bytes()]);
        }
        assert_eq!(cache.loads.len(), SCRIPTS_MAX);
        cache.record_sent(&[b"FUNCTION", b"RESTORE", &vec![0; SCRIPT_BYTES_MAX]]);
        assert_eq!((cache.loads.len(), cache.load_bytes), (1, SCRIPT_BYTES_MAX));
        cache.record_sent(&[b"FUNCTION", b"FLUSH"]);
        assert_eq!((cache.loads.len(), cache.load_bytes), (0, 0));
    }

    #[test]
    fn function_loads_are_repeated_newest_first_and_without_replace() {
        let cache = told(&[
            &["FUNCTION", "LOAD", "#!lua name=a\nold"],
            &["FUNCTION", "LOAD", "#!lua name=b\n"],
            &["FUNCTION", "RESTORE", "payload", "REPLACE"],
            &["FUNCTION", "LOAD", "REPLACE", "#!lua name=a\nnew"],
            &["FUNCTION", "LOAD", "no shebang"],
        ]);
        assert_eq!(
            reloads(&cache),
            [
                "FUNCTION LOAD #!lua name=a new",
                "FUNCTION RESTORE payload",
                "FUNCTION LOAD #!lua name=b ",
            ]
        );
    }

    #[test]
    fn deleted_or_flushed_libraries_are_not_loaded_again() {
        let both = [
            &["FUNCTION", "LOAD", "#!lua name=a\n"][..],
            &["FUNCTION", "LOAD", "#!lua name=b\n"],
            &["FUNCTION", "RESTORE", "payload"],
        ];
        let after = |last: &[&str]| reloads(&told(&[both[0], both[1], both[2], last]));
        assert_eq!(
            after(&["FUNCTION", "DELETE", "a"]),
            ["FUNCTION LOAD #!lua name=b "]
        );
        assert_eq!(after(&["FUNCTION", "FLUSH", "SYNC"]), [""; 0]);
        assert_eq!(
            after(&["FUNCTION", "RESTORE", "p", "FLUSH"]),
            ["FUNCTION RESTORE p"]
        );
    }

    #[test]
    fn function_load_and_script_flush_on_one_node_do_not_change_the_script_cache() {
        let mut cache = Arc::new(told(&[&["EVAL", "return 1", "0"]]));
        for request in [
            &[b"FUNCTION".as_slice(), b"LOAD", b"#!lua name=a\n"][..],
            &[b"SCRIPT", b"FLUSH"],
            &[b"SCRIPT", b"LOAD", b"return 2"],
        ] {
            ScriptCache::record_reply(&mut cache, request, Scope::OneNode, &mut Value::Okay);
        }
        assert!(cache.has_no_loads());
        assert_eq!(cache.scripts.len(), 2);
    }

    #[test]
    fn script_cache_records_scripts_that_fail_at_run_time_but_not_at_compile_time() {
        let error = |text: &str| Value::ServerError(crate::error::server_error("ERR", text));
        let news = |answer| {
            let request: [&[u8]; 3] = [b"EVAL", b"return 1", b"0"];
            ScriptCache::default().would_change(&request, Scope::AllNodes, &answer)
        };
        assert!(news(error("user_script:1: oh no")));
        assert!(!news(error(
            "Error compiling script (new function): user_script:1"
        )));
        let load: [&[u8]; 3] = [b"FUNCTION", b"LOAD", b"#!lua name=a\n"];
        let cache = ScriptCache::default();
        assert!(cache.would_change(&load, Scope::AllNodes, &Value::Okay));
        assert!(!cache.would_change(&load, Scope::AllNodes, &error("Library 'a' already exists")));
    }

    #[test]
    fn script_exists_is_true_for_a_cached_script() {
        let mut cache = Arc::new(told(&[&["EVAL", "return 1", "0"]]));
        let request: [&[u8]; 4] = [b"SCRIPT", b"EXISTS", ONE.as_bytes(), b"ffff"];
        let mut answer = Value::Array(vec![Value::Int(0), Value::Int(0)]);
        ScriptCache::record_reply(&mut cache, &request, Scope::AllNodes, &mut answer);
        assert_eq!(answer, Value::Array(vec![Value::Int(1), Value::Int(0)]));
    }
}
