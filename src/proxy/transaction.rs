//! The commands between MULTI and EXEC, queued here and not on a node.
//!
//! * [`Transaction`]: while it is open. Every command is checked and its keys are located as it is queued, so
//!   that a command that cannot be routed is refused before EXEC, as a server refuses a malformed one.
//! * [`QueuedTransaction`]: MULTI ... EXEC as one request to one node.
//!
//! Until EXEC no node knows of the transaction, so a client that opens one and goes away costs no connection.

use crate::command::{CommandSpec, Scripting, write_command};
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::{
    CacheSnapshot, NodeRequest, PipelineKind, PlannedTransaction, Rewritten, Router, Scope,
    ScriptRewriter,
};
use crate::proxy::session::ClientRequest;
use crate::resp::{EXEC, MULTI};

/// Maximum number of bytes of all commands of a transaction, in the wire format.
const TRANSACTION_BYTES_MAX: usize = 512 << 20;

/// Commands since MULTI.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    /// The keys so far and their node.
    atomic: PlannedTransaction,
    /// True if keys were watched when the transaction began.
    watched: bool,
    /// MULTI and the commands, in the usual form.
    packed: Vec<u8>,
    /// Number of commands, without MULTI.
    commands: usize,
    /// True if a command was refused, so that EXEC will refuse all of them (EXECABORT).
    is_aborted: bool,
}

/// A whole transaction and its destination.
///
/// The servers of a Redis Cluster forget a watched key without a word in one case: the key does not exist, and its slot
/// leaves. EXEC runs then, unless a command of the transaction has a key of the slot. So EXISTS of the watched keys is the
/// first command there, which is refused once they have left, and its reply is taken out of that to EXEC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedTransaction {
    /// One of its keys, all of which live together. `None` if it has none, and any node will do.
    key: Option<Vec<u8>>,
    /// True if it must run only on a connection that watches keys: without that, EXEC would run unguarded.
    pub(crate) watched: bool,
    /// MULTI ... EXEC.
    pub(crate) packed: Vec<u8>,
    /// Number of commands between the two.
    pub(crate) commands: usize,
    /// True if the first of the commands is EXISTS of the watched keys, and not the client's.
    pub(crate) is_guarded: bool,
    /// `Yes` if one of the commands runs or loads a script: see [`rewritten`](Self::rewritten).
    pub(crate) scripting: Scripting,
}

impl Transaction {
    /// Begins a transaction on the node of the watched keys, if there are any.
    pub(super) fn begin(watched: Option<&PlannedTransaction>) -> Self {
        Self {
            atomic: watched.cloned().unwrap_or_default(),
            watched: watched.is_some(),
            packed: MULTI.to_vec(),
            commands: 0,
            is_aborted: false,
        }
    }

    /// Number of commands queued.
    pub(super) fn len(&self) -> usize {
        self.commands
    }

    /// Number of bytes of memory that it holds.
    pub(super) fn held(&self) -> usize {
        self.packed.capacity()
    }

    /// True if EXEC must refuse the transaction.
    pub(super) fn is_aborted(&self) -> bool {
        self.is_aborted
    }

    /// Records that a command was refused.
    pub(super) fn abort(&mut self) {
        self.is_aborted = true;
    }

    /// Queues a command.
    ///
    /// # Errors
    ///
    /// When its keys are on another node than those before it or cannot be found, or the transaction becomes
    /// too large. The caller aborts the transaction then.
    pub(super) fn add(
        &mut self,
        router: &Router,
        snapshot: CacheSnapshot<'_>,
        command: &CommandSpec,
        ClientRequest { frame, args, .. }: ClientRequest<'_, '_>,
    ) -> Result<(), Error> {
        if self.packed.len() + frame.len() > TRANSACTION_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "{} would make the transaction longer than {TRANSACTION_BYTES_MAX} bytes",
                    command.name()
                ),
            ));
        }
        // A malformed command has no keys to locate. The server refuses it when its turn comes, and runs the
        // others.
        if !router.is_malformed(command, args) {
            self.atomic.add(router, args, snapshot)?;
        }
        self.packed.extend_from_slice(frame);
        self.commands += 1;
        Ok(())
    }

    /// As [`finish`](Self::finish), with a check that the server still has the watched keys.
    pub(super) fn finish_guarded(mut self, watched: &[Vec<u8>]) -> QueuedTransaction {
        let mut check = Vec::new();
        let keys = watched.iter().map(Vec::as_slice);
        let args: Vec<&[u8]> = [&b"EXISTS"[..]].into_iter().chain(keys).collect();
        write_command(&mut check, &args);
        self.packed.splice(MULTI.len()..MULTI.len(), check);
        self.commands += 1;
        QueuedTransaction {
            is_guarded: true,
            ..self.finish()
        }
    }

    /// Appends EXEC, and locates the transaction.
    pub(super) fn finish(mut self) -> QueuedTransaction {
        self.packed.extend_from_slice(EXEC);
        QueuedTransaction {
            key: self.atomic.first_key().map(<[u8]>::to_vec),
            watched: self.watched,
            packed: self.packed,
            commands: self.commands,
            is_guarded: false,
            scripting: self.atomic.scripting(),
        }
    }
}

impl QueuedTransaction {
    /// Returns the node it is sent to. A transaction without keys may go to any node, chosen by `entropy`,
    /// which is any number.
    pub(crate) fn node_of(&self, router: &Router, entropy: u64) -> NodeIndex {
        // Located now: the slot of the keys may have moved since they were queued.
        let owner = self.key.as_ref().and_then(|key| router.owner(key).ok());
        owner.unwrap_or_else(|| router.random_node(entropy))
    }

    /// Builds the request for that node. `packed` is the transaction as it is or
    /// [`rewritten`](Self::rewritten), with `commands` commands between MULTI and EXEC.
    pub(crate) fn exchange(&self, node: NodeIndex, packed: &[u8], commands: usize) -> NodeRequest {
        match self.key {
            Some(_) => PlannedTransaction::exchange(node, packed, commands),
            None => PlannedTransaction::exchange_anywhere(node, packed, commands),
        }
    }

    /// Returns what is sent instead when the transaction concerns scripts: missing ones are loaded within it,
    /// because a NOSCRIPT between MULTI and EXEC cannot be repaired afterwards. `None` if it concerns none.
    pub(crate) fn rewritten(
        &self,
        node: NodeIndex,
        snapshot: CacheSnapshot<'_>,
    ) -> Option<Rewritten<'_>> {
        let kind = PipelineKind::Atomic {
            commands: self.commands,
        };
        let rewriter = || ScriptRewriter::new(snapshot(), Scope::AllNodes);
        match self.scripting {
            Scripting::No => None,
            Scripting::Yes => Some(rewriter().rewrite_all(node, &self.packed, kind)),
        }
    }
}
