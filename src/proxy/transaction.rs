//! MULTI ... EXEC, kept until EXEC.

use crate::command::{CommandSpec, Scripting};
use crate::error::{Error, ErrorKind};
use crate::partition::NodeIndex;
use crate::plan::{
    CacheSnapshot, NodeRequest, PipelineKind, PlannedTransaction, Rewritten, Router, Scope,
    ScriptRewriter,
};
use crate::proxy::session::ClientRequest;
use crate::resp::{EXEC, MULTI};

/// The commands of a transaction may have so many bytes altogether.
const TRANSACTION_BYTES_MAX: usize = 512 << 20;

/// Commands since MULTI.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    atomic: PlannedTransaction,
    /// Whether keys are watched.
    watched: bool,
    packed: Vec<u8>,
    commands: usize,
    /// A command was refused, so EXEC will refuse all.
    spoilt: bool,
}

/// A whole transaction and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueuedTransaction {
    /// Where its keys are, if it has some.
    node: Option<NodeIndex>,
    /// Whether it must not run unless its connection has watched keys.
    pub(crate) watched: bool,
    /// MULTI ... EXEC.
    pub(crate) packed: Vec<u8>,
    /// How many are between the two.
    pub(crate) commands: usize,
    /// Whether one of them concerns scripts.
    pub(crate) scripting: Scripting,
}

impl Transaction {
    /// One that goes where the watched keys are, if there are some.
    pub(super) fn begin(watched: Option<&PlannedTransaction>) -> Self {
        Self {
            atomic: watched.cloned().unwrap_or_default(),
            watched: watched.is_some(),
            packed: MULTI.to_vec(),
            commands: 0,
            spoilt: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.commands
    }

    /// Bytes of memory that it takes.
    pub(super) fn held(&self) -> usize {
        self.packed.capacity()
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.spoilt
    }

    pub(super) fn abort(&mut self) {
        self.spoilt = true;
    }

    /// Keeps a command, if it can be part of the transaction.
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
        // What makes no sense is refused by the server when its turn comes, and the others are carried out.
        if !router.is_malformed(command, args) {
            self.atomic.add(router, args, snapshot)?;
        }
        self.packed.extend_from_slice(frame);
        self.commands += 1;
        Ok(())
    }

    /// The whole transaction.
    pub(super) fn finish(mut self) -> QueuedTransaction {
        self.packed.extend_from_slice(EXEC);
        QueuedTransaction {
            node: self.atomic.owner().ok(),
            watched: self.watched,
            packed: self.packed,
            commands: self.commands,
            scripting: self.atomic.scripting(),
        }
    }
}

impl QueuedTransaction {
    /// Where it goes. One without a key may go to any node, which `entropy`, any number, chooses.
    pub(crate) fn node_of(&self, router: &Router, entropy: u64) -> NodeIndex {
        self.node.unwrap_or_else(|| router.random_node(entropy))
    }

    /// The request for that node: `packed`, which is the transaction as it is or [`rewritten`](Self::rewritten).
    pub(crate) fn exchange(&self, node: NodeIndex, packed: &[u8], commands: usize) -> NodeRequest {
        match self.node {
            Some(_) => PlannedTransaction::exchange(node, packed, commands),
            None => PlannedTransaction::exchange_anywhere(node, packed, commands),
        }
    }

    /// What is sent in its place, when it concerns scripts that the node may lack.
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
