//! One row of the command table, and the types of its columns.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Declaration, Merge, MissReply, ProxyRole};

/// A command: where its keys are, where it is sent, how the replies of several nodes become one.
///
/// Rows come with the crate ([`CommandTable`](super::CommandTable)) or are declared by the user
/// ([`CommandSpec::declare`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSpec {
    /// In capitals, with `|` before a subcommand.
    pub(crate) name: Cow<'static, str>,
    /// As Redis counts it: the name included, negative for "at least".
    pub(crate) arity: i16,
    /// In the order in which their positions are found, which need not be that of the request.
    pub(crate) keys: Cow<'static, [KeySpec]>,
    /// Decided by this crate.
    pub(crate) route: Route,
    /// Decides about resending.
    pub(crate) access: Access,
    /// Decides which connection is used, and the timeout.
    pub(crate) blocking: Blocking,
    /// Spares all other commands the lookup in the script cache.
    pub(crate) scripting: Scripting,
    /// Matters for [`Route::All`] only.
    pub(crate) partial: Partial,
    /// For reads by key only.
    pub(crate) missing: Option<MissReply>,
    /// For reads by key only: their reply is about the server, or continues on it.
    pub(crate) primary_only: bool,
    /// What a proxy does besides forwarding it.
    pub(crate) proxy_role: ProxyRole,
    /// Reason for the row where it is a decision of this crate; printed in `docs/commands.md`.
    pub(crate) note: &'static str,
}

impl CommandSpec {
    /// Starts the declaration of a command that is not built in, such as a module's.
    pub fn declare(name: &str) -> Declaration {
        Declaration::new(name)
    }

    /// Returns the name in capitals; a subcommand's is `CONTAINER|SUB`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of arguments as Redis counts it: the name (and that of the subcommand) included;
    /// negative means "at least".
    #[must_use]
    pub fn arity(&self) -> i16 {
        self.arity
    }

    /// Returns where the keys are.
    #[must_use]
    pub fn key_specs(&self) -> &[KeySpec] {
        &self.keys
    }

    /// Returns where the command is sent.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// Returns whether the command may be sent again when its reply is lost.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Returns whether the server may hold the reply back; [`blocking_time`](Self::blocking_time) returns for
    /// how long.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Returns whether the command runs, loads or removes scripts or functions.
    #[inline]
    pub(crate) fn scripting(&self) -> Scripting {
        self.scripting
    }

    /// Returns whether nodes within reach reply for all. Matters for commands to all nodes only.
    #[must_use]
    pub fn partial(&self) -> Partial {
        self.partial
    }

    /// Returns the reply of a server that has none of the request's keys, which stands for that of a node out
    /// of reach if the client is configured with [`ReadsAs::Miss`](crate::ReadsAs::Miss). `None` for commands
    /// that fail all the same: writes, and reads whose reply is an error or is about the server.
    #[must_use]
    pub fn missing_keys(&self) -> Option<MissReply> {
        self.missing
    }

    /// True if a replica may serve the command, as [`ReadFrom`](crate::ReadFrom) says: a read by key whose reply
    /// neither is about the server (OBJECT FREQ, MEMORY USAGE) nor continues on it (the cursors of HSCAN). A call that
    /// blocks (XREAD with BLOCK) is sent to the primary all the same.
    #[inline]
    #[must_use]
    pub fn may_use_replica(&self) -> bool {
        !self.primary_only
            && self.access == Access::Read
            && matches!(self.route, Route::Keys | Route::Split { .. })
    }

    /// Returns the reason for the row, where it is a decision of this crate; empty otherwise.
    #[must_use]
    pub fn note(&self) -> &'static str {
        self.note
    }
}

/// Positions of keys among a command's arguments. The name of the command is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySpec {
    /// Every `step`th argument from `first` to `last`. MSET is 1, -1, 2.
    Range {
        /// Position of the first key.
        first: u16,
        /// Position of the last key; negative counts from the end, -1 being the last argument.
        last: i16,
        /// Distance between keys.
        step: u16,
    },
    /// A number of keys at `count`, then that many keys from `first` on. EVAL is 2, 3.
    Counted {
        /// Position of the number.
        count: u16,
        /// Position of the first key.
        first: u16,
        /// Distance between keys.
        step: u16,
        /// The smallest number that the server accepts: 0 for scripts, else 1.
        least: u16,
    },
    /// XREAD and XREADGROUP: the first half of the arguments after the word STREAMS, found as the server's
    /// parser finds it.
    Streams,
    /// GEORADIUS and GEORADIUSBYMEMBER: the key after the last STORE or STOREDIST.
    GeoStore {
        /// Position of the first argument that may be an option.
        from: u16,
    },
    /// SORT and SORT_RO: the key after the last STORE, and the patterns of BY and GET.
    Sort {
        /// True if STORE is understood (not by SORT_RO).
        store: bool,
    },
    /// MIGRATE: the key at 3, or if that is empty, those after KEYS.
    Migrate,
}

/// The nodes that a command is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// The one node that owns all of its keys; refused if they live on several nodes, or if there are none.
    Keys,
    /// Split by node: each node gets the command with its own keys, and the replies are merged.
    Split {
        /// Number of arguments per key, the key included: 1 for MGET, 2 for MSET, 3 for JSON.MSET.
        step: u8,
        /// Number of arguments after the last key that every part repeats: 1 for JSON.MGET.
        tail: u8,
        /// How the replies become one.
        merge: Merge,
    },
    /// Every node, with the request as it is.
    All(Merge),
    /// Any one node: each has the same reply.
    Any,
    /// Any one node, and the same one for equal arguments at this position, as long as it can be reached: PUBLISH in a
    /// Redis Cluster, where the messages of one channel keep their order.
    AnyFor {
        /// Position of the argument.
        at: u16,
    },
    /// The node that owns the slot whose number is the argument at this position, in a Redis Cluster.
    Slot {
        /// Position of the argument.
        at: u16,
    },
    /// SCAN: one node after another; the cursor contains the number of the node.
    Scan,
    /// None, unless the caller names a node: `client.node(name)`.
    NodeOnly,
    /// None on a shared handle, because the command changes the state of its connection: use `transaction` or
    /// `dedicated`.
    Stateful,
    /// None: the command has no meaning over many nodes, or would disable the client's own connections.
    Refused,
}

/// Whether a command may be sent again when its reply is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It changes nothing: it may be repeated.
    Read,
    /// It may have changed something: it is never sent twice.
    Write,
}

/// Whether nodes within reach reply for all, when a command to all nodes does not reach some.
///
/// A node is out of reach if there is no connection to it, or if no reply came in time. One that replies with
/// an error is within reach. If no node is, every command is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partial {
    /// No: every node must reply.
    #[default]
    Refused,
    /// Only if the client is configured with [`PartialReads::Allowed`](crate::PartialReads::Allowed): the
    /// reply cannot show that something is missing from it.
    OptIn,
    /// Yes. The reply names the missing nodes where its form has room for that.
    Allowed,
}

/// Whether the server may hold the reply back, and which argument limits the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocking {
    /// It replies at once.
    No,
    /// It replies even while a script runs (SCRIPT KILL): it must not be queued behind that script on a
    /// shared connection.
    OutOfBand,
    /// It may wait for the seconds in an argument, a decimal number; 0 is for ever.
    Seconds(ArgAt),
    /// It may wait for the milliseconds in an argument, an integer; 0 is for ever.
    Millis(ArgAt),
}

/// Whether a command concerns scripts or functions, and has to be looked at in `plan::scripts`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scripting {
    /// It does not concern them.
    #[default]
    No,
    /// It runs, loads, lists or removes some.
    Yes,
}

impl Scripting {
    /// `Yes` if one of two commands concerns scripts: a transaction does if one of its commands does.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, Self::No) => Self::No,
            _ => Self::Yes,
        }
    }
}

/// Position of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArgAt {
    /// This argument; the name is 0.
    Index(u16),
    /// The last argument.
    Last,
    /// The argument after the first occurrence of this word (in capitals), if there is one.
    AfterWord(&'static str),
}

/// Positions of the keys of one request. Reused from request to request, it allocates only for more than
/// eight keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPositions {
    /// Positions of keys, in the order of the row's [`KeySpec`]s.
    pub keys: SmallVec<[u32; 8]>,
    /// Positions of patterns from which the server derives further keys (SORT ... BY, GET). What follows the
    /// `->` of a pattern is the name of a hash field, not part of the key.
    pub patterns: SmallVec<[u32; 2]>,
}

impl KeyPositions {
    /// Removes all positions.
    pub fn clear(&mut self) {
        // The allocation is kept for the next request.
        self.keys.clear();
        self.patterns.clear();
    }
}

/// The reason why the positions of the keys of a request cannot be determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// There are too few or too many arguments; the server would refuse them too.
    #[error("wrong number of arguments")]
    Arity,
    /// The number of keys is not a number, or does not fit the arguments.
    #[error("the number of keys does not fit the arguments")]
    Count,
    /// A word that is required is missing, or the arguments after it do not fit.
    #[error("syntax error")]
    Syntax,
}
