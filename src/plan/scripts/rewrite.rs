//! Scripts in a pipeline, whose order must hold: what a node may lack goes ahead.

use std::collections::HashSet;
use std::sync::Arc;

use redis::Value;

use crate::command::{Args, PackedCommands};
use crate::partition::NodeIndex;
use crate::plan::scripts::ScriptCache;
use crate::plan::scripts::command::{Scope, ScriptCommand, ScriptSha};
use crate::plan::{Answers, PipelineKind};

/// The scripts of one pipeline while it is written.
///
/// It goes on from a snapshot of the memory, and learns from the pipeline itself: a script that its first command loads
/// is known to its second.
#[derive(Debug)]
pub(crate) struct ScriptRewriter<'p> {
    cache: Arc<ScriptCache>,
    scope: Scope,
    /// What the nodes have for certain when they come to the next command.
    present: HashSet<(NodeIndex, ScriptSha)>,
    present_everywhere: HashSet<ScriptSha>,
    journal: ScriptJournal<'p>,
}

/// What is done with the answers to a pipeline that has scripts in it.
#[derive(Debug)]
pub(crate) struct ScriptJournal<'p> {
    scope: Scope,
    kind: PipelineKind,
    commands: Vec<JournalEntry<'p>>,
    /// So many answers come before those of the pipeline, and belong to nobody.
    preloads: usize,
}

/// A command whose answer teaches something, or may need a remedy.
#[derive(Debug)]
struct JournalEntry<'p> {
    place: usize,
    /// The one node it goes to.
    node: Option<NodeIndex>,
    frame: &'p [u8],
}

/// A pipeline for one node, woven.
#[derive(Debug)]
pub(crate) struct Rewritten<'p> {
    pub(crate) packed: Vec<u8>,
    pub(crate) journal: ScriptJournal<'p>,
}

impl<'p> ScriptRewriter<'p> {
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

    /// What is known at this command.
    pub(crate) fn cache(&self) -> Arc<ScriptCache> {
        Arc::clone(&self.cache)
    }

    /// Takes the next command that concerns scripts: number `place` of the pipeline, to one `node` or all. Gives what is
    /// written in its place: the first EVALSHA of a script to a node becomes EVAL, and those behind it find it there.
    pub(crate) fn add(
        &mut self,
        place: usize,
        node: Option<NodeIndex>,
        frame: &'p [u8],
        args: &[&[u8]],
    ) -> Option<Vec<u8>> {
        let command = ScriptCommand::of(args)?;
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

    fn write(&mut self, node: NodeIndex, sha: ScriptSha, args: &[&[u8]]) -> Option<Vec<u8>> {
        if self.present_everywhere.contains(&sha) || self.present.contains(&(node, sha)) {
            return None;
        }
        let eval = self.cache.rewrite(args)?;
        self.present.insert((node, sha));
        Some(eval)
    }

    /// A packed pipeline for one node, read again and written anew. Before a MULTI the libraries go ahead that the
    /// functions between it and EXEC need.
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
        // MULTI itself is not counted.
        let skipped = match kind {
            PipelineKind::Atomic { .. } => 1,
            PipelineKind::Plain => 0,
        };
        for number in 0_usize.. {
            // It was read before.
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

    /// What is done with the answers.
    pub(crate) fn into_journal(self) -> ScriptJournal<'p> {
        self.journal
    }
}

impl<'p> ScriptJournal<'p> {
    /// So many answers come before those of the pipeline.
    pub(crate) fn preloads(&self) -> usize {
        self.preloads
    }

    /// The commands that went to one node: number in the pipeline, node, request.
    pub(in crate::plan) fn at_one_node(
        &self,
    ) -> impl Iterator<Item = (usize, NodeIndex, &'p [u8])> {
        self.commands
            .iter()
            .filter_map(|noted| Some((noted.place, noted.node?, noted.frame)))
    }

    /// Notes what the commands did by their answers, in their order.
    pub(crate) fn record(&self, cache: &mut Arc<ScriptCache>, values: &mut [Value]) {
        let values = match (self.kind, values) {
            (PipelineKind::Plain, values) => values,
            (PipelineKind::Atomic { .. }, [Value::Array(values)]) => values,
            _ => return,
        };
        let mut args = Args::new();
        for noted in &self.commands {
            let read = PackedCommands::new(noted.frame).next(&mut args);
            if let (Ok(Some(_)), Some(value)) = (read, values.get_mut(noted.place)) {
                ScriptCache::record_reply(cache, &args, self.scope, value);
            }
        }
    }

    /// Whether there is nothing to be done with the answers themselves.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Takes away the answers that belong to nobody.
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
            let noted: Vec<_> = woven
                .journal
                .at_one_node()
                .map(|(place, ..)| place)
                .collect();
            assert_eq!(noted, [1]);
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
