//! Injected faults: what goes wrong, and when.
//!
//! A fault is decided when a command has been read, and carried out by its connection.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::ReceivedCommand;

/// What a node does with a command instead of just replying to it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Applies the command, then closes the connection without a reply: the client cannot know the outcome.
    CloseAfter,
    /// Closes the connection; the command is never applied.
    CloseBefore,
    /// Applies the command at once, and sends its reply this much later.
    Delay(Duration),
    /// Replies with this error, such as `LOADING Redis is loading the dataset in memory`; the command is not
    /// applied.
    ///
    /// As on a real server, a transaction with a refused command in it fails at its EXEC, and a refused EXEC
    /// ends it.
    Error(String),
    /// Replies with these bytes, whatever they are; the command is not applied.
    Garbage(Vec<u8>),
    /// Applies the command, sends half of its reply, then closes the connection.
    HalfReplyThenClose,
    /// Applies the command, sends half of its reply, then leaves the connection open and silent.
    HalfReplyThenHang,
    /// Applies the command, but is silent on this connection from now on.
    HangAfter,
    /// Is silent on this connection from now on; neither this command nor a later one on it is applied.
    HangBefore,
    /// Replies `MOVED slot address`, like a node of Redis Cluster; the command is not applied.
    Moved {
        /// The slot in the error.
        slot: u16,
        /// The address in the error.
        to: SocketAddr,
    },
    /// Applies the command, and sends its reply one byte at a time, with this much time before each.
    Trickle(Duration),
}

impl Fault {
    /// True if the command takes effect.
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

/// Selects the commands that a fault applies to.
type Condition = Box<dyn Fn(&ReceivedCommand) -> bool + Send>;

/// The injected faults, in the order of injection.
#[derive(Default)]
pub(super) struct Script {
    rules: Vec<Rule>,
}

/// One injected fault.
struct Rule {
    when: Condition,
    fault: Fault,
    /// How often it has still to happen; `usize::MAX` is for ever.
    left: usize,
}

impl Script {
    /// Adds a fault after all others.
    pub(super) fn add(&mut self, when: Condition, fault: Fault, times: usize) {
        self.rules.push(Rule {
            when,
            fault,
            left: times,
        });
    }

    /// Number of faults that have not happened yet, except for those that are for ever.
    pub(super) fn left(&self) -> usize {
        let left = self.rules.iter().map(|rule| rule.left);
        left.filter(|&left| left != usize::MAX).sum()
    }

    /// Removes all faults.
    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    /// Returns the fault for this command: that of the oldest rule that applies and is not used up.
    pub(super) fn take(&mut self, command: &ReceivedCommand) -> Option<Fault> {
        let rule = self
            .rules
            .iter_mut()
            // The oldest first, so that a test can queue several faults for one command.
            .find(|rule| rule.left > 0 && (rule.when)(command))?;
        // Used up rules stay in the list: they are few, and `left` adds them up as zero.
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
