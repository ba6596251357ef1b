//! Commands that would do away with the record that a node keeps of its fleet, or hide by which record a connection goes.
//!
//! FLUSHALL empties all databases of a server, also that of the record. A client that follows the records sends a script
//! in its place, which does the same and keeps the record. While keys are moved, DBSIZE is a script as well, which leaves out
//! what a node has for others. The requests of an exchange are rewritten before the first is
//! sent, so this holds for every way in which the command may be sent: by itself, in a pipeline or a transaction, at a
//! node, over a dedicated connection, through the proxy.

use std::iter;

use crate::command::{Access, Args, PackedCommands};
use crate::error::{Error, ErrorKind};
use crate::plan::batch::NodeRequest;
use crate::plan::{Exchange, ReplyBuffer, Router};
use crate::policy::Flush;
use crate::topology::record::{DBSIZE_SCRIPT, FLUSHALL_SCRIPT, RECORD_DB};

impl Router {
    /// Sets whether the client follows the records of its nodes. Defaults to false.
    #[must_use]
    pub(crate) fn with_records(mut self, follows_records: bool) -> Self {
        self.follows_records = follows_records;
        self
    }

    /// True if the command is sent in another form, for the sake of the record.
    pub(in crate::plan) fn is_rewritten(&self, args: &[&[u8]]) -> bool {
        self.follows_records && is_flushall(args)
    }

    /// Checks a command to a node that the user has named, or over a dedicated connection.
    ///
    /// # Errors
    ///
    /// If it would move the record to another database, or change the name of the connection, which shows by which record
    /// the connection goes.
    pub(in crate::plan) fn check_record(&self, args: &[&[u8]]) -> Result<(), Error> {
        if !self.follows_records {
            return Ok(());
        }
        let is = |at: usize, word: &str| {
            args.get(at)
                .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
        };
        let record_db = RECORD_DB.to_string();
        if is(0, "SWAPDB") && args.contains(&record_db.as_bytes()) {
            return Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "SWAPDB would replace database {record_db}, in which the node keeps the record of its fleet"
                ),
            ));
        }
        let is_renamed = is(0, "RESET")
            || is(0, "CLIENT") && is(1, "SETNAME")
            || is(0, "HELLO") && (1..args.len()).any(|at| is(at, "SETNAME"));
        match is_renamed {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Stateful,
                "the name of the connection shows by which record of the node it goes, and cannot be changed; set that of \
                 the client, with `Builder::client_name` or CLIENT SETNAME through the client",
            )),
        }
    }
}

impl<R: ReplyBuffer> Exchange<R> {
    /// Has requests that would do away with the record sent in a form that keeps it. Before anything is sent.
    pub(crate) fn keep_records(&mut self) {
        let is_while_moving = self.is_while_moving();
        for node in self.nodes_mut() {
            node.keep_record();
            if is_while_moving {
                node.count_own_keys();
            }
        }
    }
}

impl NodeRequest {
    /// Puts the script in the place of each FLUSHALL.
    pub(crate) fn keep_record(&mut self) {
        // Reads are most of what is sent, and need not be looked at.
        let has_write = self.slots.iter().any(|slot| slot.access == Access::Write);
        if has_write && self.has(is_flushall) {
            self.rewrite(|args, frame, out| match args.split_first() {
                Some((_, flags)) if is_flushall(args) => write_flushall(flags, out),
                _ => out.extend_from_slice(frame),
            });
        }
    }

    /// Puts the script in the place of each DBSIZE that leaves the keys of other nodes out.
    pub(crate) fn count_own_keys(&mut self) {
        if self.has(is_dbsize) {
            self.rewrite(|args, frame, out| match is_dbsize(args) {
                true => {
                    let mut eval = redis::cmd("EVAL");
                    eval.arg(DBSIZE_SCRIPT).arg(0);
                    eval.write_packed_command(out);
                }
                false => out.extend_from_slice(frame),
            });
        }
    }

    /// True if one of the requests is this one.
    fn has(&self, is_it: impl Fn(&[&[u8]]) -> bool) -> bool {
        let (mut commands, mut args) = (PackedCommands::new(&self.packed), Args::new());
        while let Ok(Some(_)) = commands.next(&mut args) {
            if is_it(&args) {
                return true;
            }
        }
        false
    }
}

impl Flush {
    /// The packed request that does it and keeps the record of the node.
    pub(crate) fn packed_with_record(self) -> Vec<u8> {
        match self {
            Self::Database => self.packed().to_vec(),
            Self::All => {
                let mut out = Vec::new();
                write_flushall(&[b"ASYNC"], &mut out);
                out
            }
        }
    }
}

/// The FLUSHALL in whose place these arguments are sent. `None` for every other command.
pub(in crate::plan) fn flushall_of<'p>(args: &[&'p [u8]]) -> Option<Args<'p>> {
    match args {
        [eval, script, _, flags @ ..]
            if *script == FLUSHALL_SCRIPT.as_bytes() && eval.eq_ignore_ascii_case(b"EVAL") =>
        {
            let name: &[u8] = b"FLUSHALL";
            Some(iter::once(name).chain(flags.iter().copied()).collect())
        }
        _ => None,
    }
}

fn is_flushall(args: &[&[u8]]) -> bool {
    args.first()
        .is_some_and(|name| Flush::of_command(name) == Some(Flush::All))
}

fn is_dbsize(args: &[&[u8]]) -> bool {
    matches!(args, [name] if name.eq_ignore_ascii_case(b"DBSIZE"))
}

/// Appends the script with these arguments of FLUSHALL, packed.
fn write_flushall(flags: &[&[u8]], out: &mut Vec<u8>) {
    let mut eval = redis::cmd("EVAL");
    eval.arg(FLUSHALL_SCRIPT).arg(0).arg(flags);
    eval.write_packed_command(out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::BlockingTime;
    use crate::partition::NodeIndex;
    use crate::plan::ExpectedEnd;
    use crate::topology::LivingNodes;

    /// The words of each command, with the script shortened.
    fn words(packed: &[u8]) -> Vec<String> {
        let (mut commands, mut args) = (PackedCommands::new(packed), Args::new());
        std::iter::from_fn(|| {
            commands.next(&mut args).unwrap()?;
            let words = args.iter().map(|arg| match *arg {
                arg if arg == FLUSHALL_SCRIPT.as_bytes() => "script".into(),
                arg => String::from_utf8_lossy(arg),
            });
            Some(words.collect::<Vec<_>>().join(" "))
        })
        .collect()
    }

    fn kept(commands: &[&[&str]], is_atomic: bool) -> Vec<String> {
        let mut pipeline = redis::pipe();
        for command in commands {
            pipeline.add_command(redis::cmd(command[0]).arg(&command[1..]).take());
        }
        if is_atomic {
            pipeline.atomic();
        }
        let replies = commands.len() + 2 * usize::from(is_atomic);
        let (node, packed) = (NodeIndex::new(0), pipeline.get_packed_pipeline());
        let request = NodeRequest::pinned(node, packed, replies, ExpectedEnd::Any);
        let mut exchange: Exchange =
            Exchange::new([request], BlockingTime::None, LivingNodes::none());
        exchange.keep_records();
        let attempt = exchange.attempts().next().unwrap();
        assert_eq!(attempt.request.slots.len(), replies);
        words(&attempt.request.packed)
    }

    #[test]
    fn flushall_is_sent_as_a_script_wherever_it_stands() {
        assert_eq!(kept(&[&["flushall"]], false), ["EVAL script 0"]);
        let mixed = kept(
            &[
                &["SET", "k", "FLUSHALL"],
                &["FLUSHALL", "ASYNC"],
                &["FLUSHDB"],
            ],
            true,
        );
        let expected = [
            "MULTI",
            "SET k FLUSHALL",
            "EVAL script 0 ASYNC",
            "FLUSHDB",
            "EXEC",
        ];
        assert_eq!(mixed, expected);
        assert_eq!(
            words(&Flush::All.packed_with_record()),
            ["EVAL script 0 ASYNC"]
        );
        assert_eq!(
            words(&Flush::Database.packed_with_record()),
            ["FLUSHDB ASYNC"]
        );
    }

    #[test]
    fn other_requests_stay_as_they_are() {
        assert_eq!(
            kept(&[&["GET", "FLUSHALL"], &["FLUSHDB"]], false),
            ["GET FLUSHALL", "FLUSHDB"]
        );
    }
}
