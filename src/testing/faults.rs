//! What goes wrong, and when.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::ReceivedCommand;

/// What a node does to a command instead of answering it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The command is applied, then the connection is closed without a reply: the client cannot know.
    CloseAfter,
    /// The connection is closed; the command is never applied.
    CloseBefore,
    /// The command is applied at once, its reply comes that much later.
    Delay(Duration),
    /// This error is answered, such as `LOADING Redis is loading the dataset in memory`; the command is not applied.
    ///
    /// As on a real server, a transaction with a refused command in it fails at its EXEC, and a refused EXEC ends it.
    Error(String),
    /// These bytes are answered, whatever they are; the command is not applied.
    Garbage(Vec<u8>),
    /// The command is applied, half of its reply is sent, then the connection is closed.
    HalfReplyThenClose,
    /// The command is applied, half of its reply is sent, then the connection is open and silent.
    HalfReplyThenHang,
    /// The command is applied, but the connection is silent from now on.
    HangAfter,
    /// The connection is silent from now on; neither this command nor any later one on it is applied.
    HangBefore,
    /// `MOVED slot address` is answered, as a node of Redis Cluster does; the command is not applied.
    Moved {
        /// The slot in the error.
        slot: u16,
        /// The address in the error.
        to: SocketAddr,
    },
    /// The command is applied, its reply comes one byte at a time with that much time before each.
    Trickle(Duration),
}

impl Fault {
    /// Whether the command takes effect.
    pub(super) fn applies(&self) -> bool {
        match self {
            Self::CloseAfter
            | Self::Delay(_)
            | Self::HalfReplyThenClose
            | Self::HalfReplyThenHang
            | Self::HangAfter
            | Self::Trickle(_) => true,
            Self::CloseBefore
            | Self::Error(_)
            | Self::Garbage(_)
            | Self::HangBefore
            | Self::Moved { .. } => false,
        }
    }
}

type Condition = Box<dyn Fn(&ReceivedCommand) -> bool + Send>;

/// The faults that were asked for, in that order.
#[derive(Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
}

struct Rule {
    when: Condition,
    fault: Fault,
    left: usize,
}

impl Script {
    pub(super) fn add(&mut self, when: Condition, fault: Fault, times: usize) {
        self.rules.push(Rule {
            when,
            fault,
            left: times,
        });
    }

    /// How often faults have still to happen, apart from those that are for ever.
    pub(super) fn left(&self) -> usize {
        let left = self.rules.iter().map(|rule| rule.left);
        left.filter(|&left| left != usize::MAX).sum()
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// The fault for this command, from the oldest rule that is not used up.
    pub(super) fn take(&mut self, command: &ReceivedCommand) -> Option<Fault> {
        let rule = self
            .rules
            .iter_mut()
            .find(|rule| rule.left > 0 && (rule.when)(command))?;
        if rule.left != usize::MAX {
            rule.left -= 1;
        }
        Some(rule.fault.clone())
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.iter().map(|rule| (&rule.fault, rule.left));
        f.debug_list().entries(rules).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_rule_is_used_up_before_the_next_applies() {
        let mut script = Script::default();
        script.add(Box::new(|_| false), Fault::CloseBefore, usize::MAX);
        assert_eq!(script.left(), 0, "for ever is not counted");
        script.add(
            Box::new(|command| command.name() == "SET"),
            Fault::CloseAfter,
            2,
        );
        script.add(Box::new(|_| true), Fault::CloseBefore, usize::MAX);
        let set = ReceivedCommand::new(1, vec![b"set".to_vec()]);
        let get = ReceivedCommand::new(1, vec![b"get".to_vec()]);
        assert_eq!(script.take(&get), Some(Fault::CloseBefore));
        assert_eq!(script.take(&set), Some(Fault::CloseAfter));
        assert_eq!(script.take(&set), Some(Fault::CloseAfter));
        assert_eq!(script.take(&set), Some(Fault::CloseBefore));
        script.clear();
        assert_eq!(script.take(&set), None);
    }
}
