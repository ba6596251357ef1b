//! The scripts and libraries that went through a client.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use redis::Value;

use crate::command::write_command;
use crate::plan::scripts::command::{Scope, ScriptCommand, ScriptSha};
use crate::plan::scripts::lua;
use crate::resp::canonical_integer;

/// So many scripts a client remembers, and as many libraries; the oldest are forgotten first.
pub const SCRIPTS_MAX: usize = 1_000;

/// So many bytes of scripts a client remembers, and as many of libraries; the oldest are forgotten first.
pub const SCRIPT_BYTES_MAX: usize = 16 << 20;

/// The scripts and libraries that went through a client.
///
/// A snapshot: whoever keeps it behind a lock clones the `Arc`, and changes it with `Arc::make_mut`.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptCache {
    scripts: HashMap<ScriptSha, Arc<[u8]>>,
    /// The oldest first.
    order: VecDeque<ScriptSha>,
    script_bytes: usize,
    /// The oldest first.
    loads: VecDeque<Load>,
    load_bytes: usize,
    /// A node was asked for all of its libraries.
    has_asked: bool,
}

/// What brought libraries to the nodes.
#[derive(Clone, Debug)]
enum Load {
    Library { name: Vec<u8>, code: Arc<[u8]> },
    Restore { payload: Arc<[u8]> },
}

impl ScriptCache {
    /// One that remembers nothing.
    pub(crate) fn empty() -> Arc<Self> {
        Arc::default()
    }

    /// Notes what a request that was carried out on all nodes did: a script run or loaded, a library loaded, deleted or
    /// restored, all of them flushed. Whatever else it is given, nothing happens.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn record_sent(&mut self, args: &[&[u8]]) {
        if let Some(command) = ScriptCommand::of(args) {
            self.record(command, Scope::AllNodes);
        }
    }

    /// Whether [`record_reply`](Self::record_reply) would do anything. This one is for a lock that many may hold.
    pub(crate) fn would_change(&self, args: &[&[u8]], scope: Scope, answer: &Value) -> bool {
        ScriptCommand::of(args)
            .filter(|command| command.succeeded(answer))
            .is_some_and(|command| self.is_new(command, scope) || command.is_exists_on_all(scope))
    }

    /// Notes what a request did by its answer, and puts right what the nodes could not know: SCRIPT EXISTS is true of
    /// what is remembered, because EVALSHA works with it everywhere.
    pub(crate) fn record_reply(
        cache: &mut Arc<Self>,
        args: &[&[u8]],
        scope: Scope,
        answer: &mut Value,
    ) {
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

    /// The source of the script with this sum.
    pub(crate) fn source(&self, sha: &[u8]) -> Option<&Arc<[u8]>> {
        self.scripts.get(&ScriptSha::parse(sha)?)
    }

    /// EVALSHA as the EVAL with the remembered source, packed; EVALSHA_RO as EVAL_RO. `None` for anything else, and for
    /// a script that is not remembered.
    pub(crate) fn rewrite(&self, args: &[&[u8]]) -> Option<Vec<u8>> {
        let Some(ScriptCommand::EvalSha(sha)) = ScriptCommand::of(args) else {
            return None;
        };
        let source = self.source(sha)?;
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

    /// Every remembered load of a library, packed, for a node that came back empty.
    ///
    /// None of them replaces what the node has, so each is harmless where it is not needed, and says so with an error.
    /// The newest come first: of two that bring the same library the newer one wins.
    pub(crate) fn reloads(&self) -> Vec<Vec<u8>> {
        self.loads.iter().rev().map(Load::packed).collect()
    }

    /// Those of the loads that name one of the functions; all of them when one is named by none, since a library may
    /// make the names of its functions, and a restored one cannot be read.
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

    /// The code of the libraries that name this function.
    pub(in crate::plan) fn libraries_of(&self, function: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.loads
            .iter()
            .filter(|load| load.names(function))
            .map(Load::bytes)
    }

    /// The same, unless what was restored later may have put others in their place.
    pub(in crate::plan) fn latest_libraries_of(&self, function: &[u8]) -> Option<Vec<&[u8]>> {
        let loads = self.loads.iter().rev();
        let since = loads.take_while(|load| !matches!(load, Load::Restore { .. }));
        let known: Vec<&[u8]> = self.libraries_of(function).collect();
        let fresh = since.filter(|load| load.names(function)).count();
        (fresh == known.len()).then_some(known)
    }

    /// Whether the verdict about this request needs the code of a library that is not known: somebody else may have loaded
    /// it, or it came by a RESTORE. A call that declares keys, or a number of keys that is none, is judged without.
    pub(crate) fn lacks_code_for(&self, args: &[&[u8]]) -> bool {
        match ScriptCommand::of(args) {
            Some(ScriptCommand::Call(function)) if declares_no_key(args) => {
                self.has_restored() || self.libraries_of(function).next().is_none()
            }
            _ => false,
        }
    }

    /// Notes the libraries that a node has: its answer to FUNCTION LIST WITHCODE. What was restored is known then.
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

    /// Whether a function that is not known does not exist, as far as a node has said.
    pub(in crate::plan) fn has_listed_libraries(&self) -> bool {
        self.has_asked
    }

    /// Whether the nodes may have libraries whose code is not known.
    pub(in crate::plan) fn has_restored(&self) -> bool {
        self.loads
            .iter()
            .any(|load| matches!(load, Load::Restore { .. }))
    }

    /// Whether there is no library to load.
    pub(in crate::plan) fn has_no_loads(&self) -> bool {
        self.loads.is_empty()
    }

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

    /// Whether there is anything in it to learn.
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

    /// Notes what a request did.
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
            ScriptCommand::FunctionLoad(code) => {
                if let Some(name) = lua::library_name(code) {
                    self.remove_loads(|load| load.is_library(name));
                    self.add_load(Load::Library {
                        name: name.to_vec(),
                        code: code.into(),
                    });
                }
            }
            // What was restored may hold the library, and must not bring it back.
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
            ScriptCommand::FunctionRestore(payload) => {
                self.remove_loads(|load| load.bytes() == payload);
                self.add_load(Load::Restore {
                    payload: payload.into(),
                });
            }
        }
    }

    fn add_script(&mut self, source: &[u8]) {
        let sha = ScriptSha::of(source);
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

    fn remove_loads(&mut self, which: impl Fn(&Load) -> bool) {
        self.loads.retain(|load| !which(load));
        self.load_bytes = self.loads.iter().map(|load| load.bytes().len()).sum();
    }
}

/// Whether the number of keys is zero, as a server reads it.
fn declares_no_key(args: &[&[u8]]) -> bool {
    args.get(2)
        .is_some_and(|number| canonical_integer(number) == Some(0))
}

/// The code of a library, as FUNCTION LIST gives it: a map, which is a flat array in RESP2.
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
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Library { code, .. } => code,
            Self::Restore { payload } => payload,
        }
    }

    fn is_library(&self, wanted: &[u8]) -> bool {
        matches!(self, Self::Library { name, .. } if name == wanted)
    }

    fn names(&self, function: &[u8]) -> bool {
        match self {
            Self::Library { code, .. } => lua::names(code, function),
            Self::Restore { .. } => false,
        }
    }

    /// The request that brings it to a node that does not have it, and does nothing to one that has.
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
