//! Scripts in a pipeline, whose order must hold: what a node may lack goes ahead.

use std::collections::HashSet;
use std::sync::Arc;

use redis::Value;

use crate::command::{Args, PackedCommands};
use crate::node::NodeIndex;
use crate::plan::scripts::ScriptMemory;
use crate::plan::scripts::concern::{Concern, Reach, Sum};
use crate::plan::{Answers, Shape};

/// The scripts of one pipeline while it is written.
///
/// It goes on from a snapshot of the memory, and learns from the pipeline itself: a script that its first command loads
/// is known to its second.
#[derive(Debug)]
pub(crate) struct Weave<'p> {
    memory: Arc<ScriptMemory>,
    reach: Reach,
    /// What the nodes have for certain when they come to the next command.
    present: HashSet<(NodeIndex, Sum)>,
    present_everywhere: HashSet<Sum>,
    notes: Notes<'p>,
}

/// What is done with the answers to a pipeline that has scripts in it.
#[derive(Debug)]
pub(crate) struct Notes<'p> {
    reach: Reach,
    shape: Shape,
    commands: Vec<Noted<'p>>,
    /// So many answers come before those of the pipeline, and belong to nobody.
    ahead: usize,
}

/// A command whose answer teaches something, or may need a remedy.
#[derive(Debug)]
struct Noted<'p> {
    place: usize,
    /// The one node it goes to.
    node: Option<NodeIndex>,
    frame: &'p [u8],
}

/// A pipeline for one node, woven.
#[derive(Debug)]
pub(crate) struct Woven<'p> {
    pub(crate) packed: Vec<u8>,
    pub(crate) notes: Notes<'p>,
}

impl<'p> Weave<'p> {
    pub(crate) fn new(memory: Arc<ScriptMemory>, reach: Reach) -> Self {
        Self {
            memory,
            reach,
            present: HashSet::new(),
            present_everywhere: HashSet::new(),
            notes: Notes {
                reach,
                shape: Shape::Plain,
                commands: Vec::new(),
                ahead: 0,
            },
        }
    }

    /// What is known at this command.
    pub(crate) fn memory(&self) -> Arc<ScriptMemory> {
        Arc::clone(&self.memory)
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
        let concern = Concern::of(args)?;
        let is_new = self.memory.is_new(concern, self.reach);
        if is_new || concern.is_asked_of(self.reach) || matches!(concern, Concern::Call(_)) {
            self.notes.commands.push(Noted { place, node, frame });
        }
        if let Concern::EvalSha(sum) = concern {
            return self.write(node?, Sum::parse(sum)?, args);
        }
        match (concern, node) {
            (Concern::Eval(source) | Concern::ScriptLoad(source), Some(node)) => {
                self.present.insert((node, Sum::of(source)));
            }
            (Concern::ScriptLoad(source), None) => {
                self.present_everywhere.insert(Sum::of(source));
            }
            (Concern::ScriptFlush, _) => {
                self.present.clear();
                self.present_everywhere.clear();
            }
            _ => {}
        }
        if is_new {
            Arc::make_mut(&mut self.memory).take(concern, self.reach);
        }
        None
    }

    fn write(&mut self, node: NodeIndex, sum: Sum, args: &[&[u8]]) -> Option<Vec<u8>> {
        if self.present_everywhere.contains(&sum) || self.present.contains(&(node, sum)) {
            return None;
        }
        let eval = self.memory.rewrite(args)?;
        self.present.insert((node, sum));
        Some(eval)
    }

    /// A packed pipeline for one node, read again and written anew. Before a MULTI the libraries go ahead that the
    /// functions between it and EXEC need.
    pub(crate) fn whole(mut self, node: NodeIndex, packed: &'p [u8], shape: Shape) -> Woven<'p> {
        self.notes.shape = shape;
        let mut out = Vec::with_capacity(packed.len());
        let mut commands = PackedCommands::new(packed);
        let mut args = Args::new();
        let mut called: Vec<&[u8]> = Vec::new();
        // MULTI itself is not counted.
        let skipped = match shape {
            Shape::Atomic { .. } => 1,
            Shape::Plain => 0,
        };
        for number in 0_usize.. {
            // It was read before.
            let Ok(Some(frame)) = commands.next(&mut args) else {
                break;
            };
            if let (Some(Concern::Call(_)), Some(&function)) = (Concern::of(&args), args.get(1)) {
                called.push(function);
            }
            match self.add(number.saturating_sub(skipped), Some(node), frame, &args) {
                Some(eval) => out.extend(eval),
                None => out.extend_from_slice(frame),
            }
        }
        if shape != Shape::Plain && !called.is_empty() {
            let loads = self.memory.reloads_for(&called);
            self.notes.ahead = loads.len();
            out.splice(0..0, loads.concat());
        }
        Woven {
            packed: out,
            notes: self.notes,
        }
    }

    /// What is done with the answers.
    pub(crate) fn notes(self) -> Notes<'p> {
        self.notes
    }
}

impl<'p> Notes<'p> {
    /// So many answers come before those of the pipeline.
    pub(crate) fn ahead(&self) -> usize {
        self.ahead
    }

    /// The commands that went to one node: number in the pipeline, node, request.
    pub(super) fn at_one_node(&self) -> impl Iterator<Item = (usize, NodeIndex, &'p [u8])> {
        self.commands
            .iter()
            .filter_map(|noted| Some((noted.place, noted.node?, noted.frame)))
    }

    /// Notes what the commands did by their answers, in their order.
    pub(crate) fn settle(&self, memory: &mut Arc<ScriptMemory>, values: &mut [Value]) {
        let values = match (self.shape, values) {
            (Shape::Plain, values) => values,
            (Shape::Atomic { .. }, [Value::Array(values)]) => values,
            _ => return,
        };
        let mut args = Args::new();
        for noted in &self.commands {
            let read = PackedCommands::new(noted.frame).next(&mut args);
            if let (Ok(Some(_)), Some(value)) = (read, values.get_mut(noted.place)) {
                ScriptMemory::hear(memory, &args, self.reach, value);
            }
        }
    }

    /// Whether there is nothing to be done with the answers themselves.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Takes away the answers that belong to nobody.
    pub(crate) fn strip(&self, answers: &mut Answers) {
        let ahead = self.ahead.min(answers.values.len());
        answers.values.drain(..ahead);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &[u8] = b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    const EVALSHA: [&[u8]; 4] = [b"EVALSHA", SUM, b"1", b"k"];

    fn weave(requests: &[&[&[u8]]]) -> Weave<'static> {
        let mut memory = ScriptMemory::default();
        requests.iter().for_each(|request| memory.learn(request));
        Weave::new(Arc::new(memory), Reach::AllNodes)
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
    fn each_node_is_given_the_source_once() {
        let mut weave = weave(&[&[b"SCRIPT", b"LOAD", b"return 1"]]);
        let (one, other) = (NodeIndex::new(0), NodeIndex::new(1));
        let mut is_given = |node, args: &[&[u8]]| weave.add(0, node, b"", args).is_some();
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
        assert_eq!(weave.notes().commands.len(), 3);
    }

    #[test]
    fn libraries_go_ahead_of_a_transaction_that_calls_a_function_of_theirs() {
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
        let shape = Shape::Atomic { commands: 2 };
        for (function, ahead) in [("F", 1), ("other", 2)] {
            let packed = packed(function);
            let woven = weave(&loads).whole(NodeIndex::new(0), &packed, shape);
            assert_eq!(woven.notes.ahead(), ahead, "{function}");
            let mut wanted = vec!["FUNCTION"; ahead];
            wanted.extend(["MULTI", "EVAL", "FCALL", "EXEC"]);
            assert_eq!(names(&woven.packed), wanted);
            let noted: Vec<_> = woven.notes.at_one_node().map(|(place, ..)| place).collect();
            assert_eq!(noted, [1]);
        }
        let packed = packed("f");
        let woven = weave(&loads).whole(NodeIndex::new(0), &packed, Shape::Plain);
        assert_eq!(woven.notes.ahead(), 0, "it may be in a transaction by hand");
    }
}
