//! Scripts in a pipeline: a source that a node may lack is sent before it is missed.
//!
//! The commands of a pipeline to one node run in their order, so NOSCRIPT in the middle cannot be repaired
//! afterwards: the commands after it have run. [`ScriptRewriter`] walks through the commands once, before
//! they are sent, and replaces the first EVALSHA of each script to each node by EVAL. What it leaves to be
//! done with the replies is a [`ScriptJournal`]. The example in the [module above](super) shows both.

use std::collections::HashSet;
use std::sync::Arc;

use redis::Value;

use crate::command::{Args, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::scripts::ScriptCache;
use crate::plan::scripts::command::{Scope, ScriptCommand, ScriptSha};
use crate::plan::{Answers, PipelineKind};

/// Rewrites the script commands of one pipeline while it is being packed.
///
/// It starts from a snapshot of the cache and learns from the pipeline itself, on the assumption that its
/// commands will succeed: a script that command 0 loads is known to command 1. The shared cache learns from
/// the replies only.
#[derive(Debug)]
pub(crate) struct ScriptRewriter<'p> {
    /// The snapshot, and what the commands so far would add to it.
    cache: Arc<ScriptCache>,
    /// Recorded with each command: see [`Scope`].
    scope: Scope,
    /// Scripts that one node has for certain when it reaches the next command, because this pipeline brought
    /// them. A script that the cache knows is not certain: the node may have restarted.
    present: HashSet<(NodeIndex, ScriptSha)>,
    /// Scripts that this pipeline loads on all nodes by SCRIPT LOAD.
    present_everywhere: HashSet<ScriptSha>,
    /// Grows with the commands.
    journal: ScriptJournal<'p>,
}

/// The commands of a pipeline whose replies teach the cache something, are completed from it, or may need a
/// retry.
#[derive(Debug)]
pub(crate) struct ScriptJournal<'p> {
    scope: Scope,
    /// Whether the replies are those of single commands or inside the one to EXEC.
    kind: PipelineKind,
    /// In ascending order of their places.
    commands: Vec<JournalEntry<'p>>,
    /// Number of prepended FUNCTION LOADs; their replies are dropped.
    preloads: usize,
}

/// One command of the journal.
#[derive(Debug)]
struct JournalEntry<'p> {
    /// Its number in the pipeline, which is that of its reply. MULTI and preloads are not counted.
    place: usize,
    /// The one node it goes to; `None` if it goes to several.
    node: Option<NodeIndex>,
    /// The request as the user packed it, from which its arguments are read again.
    frame: &'p [u8],
}

/// A pipeline for one node with its scripts rewritten.
#[derive(Debug)]
pub(crate) struct Rewritten<'p> {
    /// The requests to send, preloads first.
    pub(crate) packed: Vec<u8>,
    /// To be applied to the replies.
    pub(crate) journal: ScriptJournal<'p>,
}

impl<'p> ScriptRewriter<'p> {
    /// Returns a rewriter for one pipeline, starting from this snapshot.
    pub(crate) fn new(cache: Arc<ScriptCache>, scope: Scope) -> Self {
        Self {
            cache,
            scope,
            present: HashSet::new(),
            present_everywhere: HashSet::new(),
            journal: ScriptJournal {
                scope,
                kind: PipelineKind::Plain,
                commands: Vec::new(),
                preloads: 0,
            },
        }
    }

    /// Returns the cache as it would be before the next command, by which that command is routed.
    pub(crate) fn cache(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.cache)
    }

    /// Takes the next script command: number `place` of the pipeline, to one `node` or, if `None`, to
    /// several. Returns the EVAL to send in its place, if it is an EVALSHA whose script the node may lack;
    /// `None` if it is sent as it is.
    ///
    /// Must be called for every script command, in the order of the pipeline: each call assumes that those
    /// before it have run.
    pub(crate) fn add(
        &mut self,
        place: usize,
        node: Option<NodeIndex>,
        frame: &'p [u8],
        args: &[&[u8]],
    ) -> Option<Vec<u8>> {
        let command = ScriptCommand::of(args)?;
        // Before `record` below, after which the command would be known. An FCALL is always in the journal:
        // any node may turn out to lack its library.
        let is_new = self.cache.is_new(command, self.scope);
        if is_new
            || command.is_exists_on_all(self.scope)
            || matches!(command, ScriptCommand::Call(_))
        {
            self.journal
                .commands
                .push(JournalEntry { place, node, frame });
        }
        if let ScriptCommand::EvalSha(sha) = command {
            return self.write(node?, ScriptSha::parse(sha)?, args);
        }
        match (command, node) {
            (ScriptCommand::Eval(source) | ScriptCommand::ScriptLoad(source), Some(node)) => {
                self.present.insert((node, ScriptSha::of(source)));
            }
            (ScriptCommand::ScriptLoad(source), None) => {
                self.present_everywhere.insert(ScriptSha::of(source));
            }
            // The user removes the scripts on purpose: after a SCRIPT FLUSH the next EVALSHA is to fail as on
            // one server, so the cache forgets them too, in `record`. With `Scope::OneNode` the cache keeps
            // them, and the next EVALSHA becomes EVAL.
            (ScriptCommand::ScriptFlush, _) => {
                self.present.clear();
                self.present_everywhere.clear();
            }
            _ => {}
        }
        if is_new {
            Arc::make_mut(&mut self.cache).record(command, self.scope);
        }
        None
    }

    /// Returns the EVAL for this EVALSHA unless the node has the script by now, and notes that it will have
    /// it.
    fn write(&mut self, node: NodeIndex, sha: ScriptSha, args: &[&[u8]]) -> Option<Vec<u8>> {
        if self.present_everywhere.contains(&sha) || self.present.contains(&(node, sha)) {
            return None;
        }
        // Before the insert: a script that is not remembered stays EVALSHA each time, and NOSCRIPT is the
        // reply.
        let eval = self.cache.rewrite(args)?;
        self.present.insert((node, sha));
        Some(eval)
    }

    /// Rewrites a packed pipeline for one node. For a MULTI ... EXEC the libraries of the functions that it
    /// calls are sent ahead, since `Function not found` inside EXEC cannot be repaired.
    ///
    /// A plain pipeline gets no preloads: it may continue a MULTI that the user opened by hand, where
    /// FUNCTION LOAD would be queued, and its reply would appear in the reply to EXEC.
    pub(crate) fn rewrite_all(
        mut self,
        node: NodeIndex,
        packed: &'p [u8],
        kind: PipelineKind,
    ) -> Rewritten<'p> {
        self.journal.kind = kind;
        let mut out = Vec::with_capacity(packed.len());
        let mut commands = PackedCommands::new(packed);
        let mut args = Args::new();
        let mut called: Vec<&[u8]> = Vec::new();
        // The reply to EXEC has no element for MULTI, so the first command after it is place 0.
        let skipped = match kind {
            PipelineKind::Atomic { .. } => 1,
            PipelineKind::Plain => 0,
        };
        for number in 0_usize.. {
            // An error cannot occur: the pipeline was parsed when it was checked.
            let Ok(Some(frame)) = commands.next(&mut args) else {
                break;
            };
            if let (Some(ScriptCommand::Call(_)), Some(&function)) =
                (ScriptCommand::of(&args), args.get(1))
            {
                called.push(function);
            }
            match self.add(number.saturating_sub(skipped), Some(node), frame, &args) {
                Some(eval) => out.extend(eval),
                None => out.extend_from_slice(frame),
            }
        }
        // After the loop, when the cache has learned the libraries that the pipeline itself loads.
        if kind != PipelineKind::Plain && !called.is_empty() {
            let loads = self.cache.reloads_for(&called);
            self.journal.preloads = loads.len();
            out.splice(0..0, loads.concat());
        }
        Rewritten {
            packed: out,
            journal: self.journal,
        }
    }

    /// Returns the journal, when the last command has been added.
    pub(crate) fn into_journal(self) -> ScriptJournal<'p> {
        self.journal
    }
}

impl<'p> ScriptJournal<'p> {
    /// Number of replies that precede those of the pipeline: to FUNCTION LOADs sent ahead.
    pub(crate) fn preloads(&self) -> usize {
        self.preloads
    }

    /// Iterates over the commands that go to one node each: place in the pipeline, node, request.
    pub(in crate::plan) fn at_one_node(
        &self,
    ) -> impl Iterator<Item = (usize, NodeIndex, &'p [u8])> {
        self.commands
            .iter()
            .filter_map(|entry| Some((entry.place, entry.node?, entry.frame)))
    }

    /// Records the effects of the commands, judging by their replies, in the order of the pipeline: a FLUSH
    /// removes what was loaded before it, not after.
    pub(crate) fn record(&self, cache: &mut Arc<ScriptCache>, values: &mut [Value]) {
        let values = match (self.kind, values) {
            (PipelineKind::Plain, values) => values,
            (PipelineKind::Atomic { .. }, [Value::Array(values)]) => values,
            // EXEC was refused or WATCH failed: nothing was run.
            _ => return,
        };
        let mut args = Args::new();
        for entry in &self.commands {
            let read = PackedCommands::new(entry.frame).next(&mut args);
            if let (Ok(Some(_)), Some(value)) = (read, values.get_mut(entry.place)) {
                ScriptCache::record_reply(cache, &args, self.scope, value);
            }
        }
    }

    /// True if no reply has to be looked at, and no lock to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Removes the replies to preloads, before any reply is matched with its place.
    pub(crate) fn drop_preloads(&self, answers: &mut Answers) {
        let ahead = self.preloads.min(answers.values.len());
        answers.values.drain(..ahead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    const EVALSHA: [&[u8]; 4] = [b"EVALSHA", SUM, b"1", b"k"];

    fn rewriter(requests: &[&[&[u8]]]) -> ScriptRewriter<'static> {
        let mut cache = ScriptCache::default();
        requests
            .iter()
            .for_each(|request| cache.record_sent(request));
        ScriptRewriter::new(Arc::new(cache), Scope::AllNodes)
    }

    /// The first words of what is written.
    fn names(packed: &[u8]) -> Vec<String> {
        let mut commands = PackedCommands::new(packed);
        let mut args = Args::new();
        std::iter::from_fn(|| {
            commands.next(&mut args).unwrap()?;
            Some(String::from_utf8_lossy(args[0]).into_owned())
        })
        .collect()
    }

    #[test]
    fn pipeline_gives_the_script_source_to_each_node_once() {
        let mut rewriter = rewriter(&[&[b"SCRIPT", b"LOAD", b"return 1"]]);
        let (one, other) = (NodeIndex::new(0), NodeIndex::new(1));
        let mut is_given = |node, args: &[&[u8]]| rewriter.add(0, node, b"", args).is_some();
        assert!(is_given(Some(one), &EVALSHA));
        assert!(!is_given(Some(one), &EVALSHA));
        assert!(is_given(Some(other), &EVALSHA));
        // Known already, yet it may have been forgotten by the nodes.
        assert!(!is_given(None, &[b"SCRIPT", b"FLUSH"]));
        assert!(!is_given(Some(one), &EVALSHA), "forgotten on purpose");
        assert!(!is_given(Some(one), &[b"EVAL", b"return 1", b"0"]));
        assert!(!is_given(Some(one), &EVALSHA));
        assert!(is_given(Some(other), &EVALSHA));
        assert!(!is_given(None, &[b"SCRIPT", b"LOAD", b"return 2"]));
        assert_eq!(rewriter.into_journal().commands.len(), 3);
    }

    #[test]
    fn function_load_goes_ahead_of_a_transaction_with_fcall() {
        let loads: [&[&[u8]]; 3] = [
            &[b"FUNCTION", b"LOAD", b"#!lua name=a\n'f'"],
            &[b"FUNCTION", b"LOAD", b"#!lua name=b\n'g'"],
            &[b"SCRIPT", b"LOAD", b"return 1"],
        ];
        let packed = |function: &str| {
            let mut pipeline = redis::pipe();
            pipeline.atomic().cmd("EVALSHA").arg(SUM).arg(1).arg("k");
            pipeline.cmd("FCALL").arg(function).arg(1).arg("k");
            pipeline.get_packed_pipeline()
        };
        let kind = PipelineKind::Atomic { commands: 2 };
        for (function, ahead) in [("F", 1), ("other", 2)] {
            let packed = packed(function);
            let woven = rewriter(&loads).rewrite_all(NodeIndex::new(0), &packed, kind);
            assert_eq!(woven.journal.preloads(), ahead, "{function}");
            let mut wanted = vec!["FUNCTION"; ahead];
            wanted.extend(["MULTI", "EVAL", "FCALL", "EXEC"]);
            assert_eq!(names(&woven.packed), wanted);
            let entry: Vec<_> = woven
                .journal
                .at_one_node()
                .map(|(place, ..)| place)
                .collect();
            assert_eq!(entry, [1]);
        }
        let packed = packed("f");
        let woven = rewriter(&loads).rewrite_all(NodeIndex::new(0), &packed, PipelineKind::Plain);
        assert_eq!(
            woven.journal.preloads(),
            0,
            "it may be in a transaction by hand"
        );
    }
}
