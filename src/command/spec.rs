//! One row of the command table.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Declaration, Merge, ProxyRole};

/// A command: where its keys are, where it goes, how the answers of several nodes become one.
///
/// Rows come with the crate ([`CommandTable`](super::CommandTable)) or are declared by the user
/// ([`CommandSpec::declare`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSpec {
    pub(crate) name: Cow<'static, str>,
    /// As Redis counts: the name included; negative means "at least".
    pub(crate) arity: i16,
    pub(crate) keys: Cow<'static, [KeySpec]>,
    pub(crate) route: Route,
    pub(crate) access: Access,
    pub(crate) blocking: Blocking,
    pub(crate) scripting: Scripting,
    pub(crate) partial: Partial,
    /// What a proxy does with it.
    pub(crate) proxy_role: ProxyRole,
    /// Why the row is as it is, where that is our decision and not the server's.
    pub(crate) note: &'static str,
}

impl CommandSpec {
    /// Starts the declaration of a command that is not built in, such as a module's.
    pub fn declare(name: &str) -> Declaration {
        Declaration::new(name)
    }

    /// The name in capitals; a subcommand's is `CONTAINER|SUB`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many arguments there must be, as Redis counts: the name (and the subcommand's) included; negative means
    /// "at least".
    #[must_use]
    pub fn arity(&self) -> i16 {
        self.arity
    }

    /// Where the keys are.
    #[must_use]
    pub fn key_specs(&self) -> &[KeySpec] {
        &self.keys
    }

    /// Where the command goes.
    #[must_use]
    pub fn route(&self) -> Route {
        self.route
    }

    /// Whether it may be sent again when its answer is missing.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether the server may hold the answer back; [`blocking_time`](Self::blocking_time) tells for how long.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        self.blocking
    }

    /// Whether it runs, loads or forgets scripts or functions.
    #[inline]
    pub(crate) fn scripting(&self) -> Scripting {
        self.scripting
    }

    /// Whether it is answered by the nodes that can be reached when others cannot. Says something of commands for all
    /// nodes only.
    #[must_use]
    pub fn partial(&self) -> Partial {
        self.partial
    }

    /// Why the row is as it is, where that is a decision of this crate; empty otherwise.
    #[must_use]
    pub fn note(&self) -> &'static str {
        self.note
    }
}

/// Where keys are among a command's arguments. The name of the command is argument 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySpec {
    /// Every `step`th argument from `first` to `last`; a negative `last` counts from the end (-1 is the last argument).
    Range {
        /// The first key.
        first: u16,
        /// The last key; negative counts from the end.
        last: i16,
        /// The distance between keys.
        step: u16,
    },
    /// A number of keys at `count`, then that many keys from `first` on.
    Counted {
        /// Where the number is.
        count: u16,
        /// The first key.
        first: u16,
        /// The distance between keys.
        step: u16,
        /// The smallest number the server takes: 0 for scripts, else 1.
        least: u16,
    },
    /// XREAD and XREADGROUP: after the word STREAMS, found as the server's parser finds it, keys are the first half of
    /// the rest.
    Streams,
    /// GEORADIUS and GEORADIUSBYMEMBER: the key after the last STORE or STOREDIST.
    GeoStore {
        /// The first argument that may be an option.
        from: u16,
    },
    /// SORT and SORT_RO: BY and GET patterns, and the key after the last STORE.
    Sort {
        /// Whether STORE is understood (not by SORT_RO).
        store: bool,
    },
    /// MIGRATE: the key at 3, or those after KEYS when it is empty.
    Migrate,
}

/// Where a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Route {
    /// To the one node that owns all of its keys; refused when they live apart, or when it names none.
    Keys,
    /// Cut by node: each node gets the command with its own keys, and the answers are merged.
    Split {
        /// Arguments a key brings along, itself included: 1 for MGET, 2 for MSET, 3 for JSON.MSET.
        step: u8,
        /// Arguments after the last key that every part repeats: 1 for JSON.MGET.
        tail: u8,
        /// How the answers become one.
        merge: Merge,
    },
    /// To every node as it is.
    All(Merge),
    /// To any one node: each gives the same answer.
    Any,
    /// SCAN: one node after another, the node's number in the cursor.
    Scan,
    /// Nowhere without a node's name: `client.node(name)`.
    NodeOnly,
    /// Not on a shared handle, because it changes the connection: `transaction` or `dedicated`.
    Stateful,
    /// Nowhere: it makes no sense over many nodes, or it would take the client's own connection away.
    Refused,
}

/// Whether a command may be sent again when its answer is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Changes nothing: may be repeated.
    Read,
    /// May have changed something: is never sent twice.
    Write,
}

/// Whether a command for all nodes is answered by those that can be reached, when others cannot.
///
/// A node is out of reach when there is no connection to it, or no answer came in time. One that answers with an error is
/// not. When no node can be reached, every command is an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partial {
    /// No: every node must answer.
    #[default]
    Refused,
    /// Only when the client is told to, by [`PartialReads::Allowed`](crate::PartialReads::Allowed): the answer cannot show
    /// that something is missing from it.
    OptIn,
    /// Yes. The answer names the missing nodes where it has room for that.
    Allowed,
}

/// Whether the server may hold the answer back, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocking {
    /// Answers at once.
    No,
    /// Answers at once even while the server is busy with a script, so it must not stand behind that on its connection.
    OutOfBand,
    /// May wait for the seconds (a decimal number; 0 is for ever) in an argument.
    Seconds(ArgAt),
    /// May wait for the milliseconds (an integer; 0 is for ever) in an argument.
    Millis(ArgAt),
}

/// Whether a command concerns scripts or functions. Only those that do are asked what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Scripting {
    /// It has nothing to do with them.
    #[default]
    No,
    /// It runs, loads, looks for or forgets some.
    Yes,
}

impl Scripting {
    /// Whether this command or another one does.
    pub(crate) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, Self::No) => Self::No,
            _ => Self::Yes,
        }
    }
}

/// A place among a command's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArgAt {
    /// This argument.
    Index(u16),
    /// The last argument.
    Last,
    /// The argument after this word (in capitals), if the word is there.
    AfterWord(&'static str),
}

/// Where the keys of one request are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPositions {
    /// Positions of keys, in the order of the request.
    pub keys: SmallVec<[u32; 8]>,
    /// Positions of patterns from which the server derives further keys (SORT ... BY, GET): what follows the `->` of a
    /// pattern names a hash field and is no part of the key.
    pub patterns: SmallVec<[u32; 2]>,
}

impl KeyPositions {
    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.patterns.clear();
    }
}

/// Why the keys of a request cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Too few or too many arguments; the server would say so too.
    #[error("wrong number of arguments")]
    Arity,
    /// The number of keys is not a number, or does not fit the arguments.
    #[error("the number of keys does not fit the arguments")]
    Count,
    /// A word that must be there is missing, or the arguments after it do not fit.
    #[error("syntax error")]
    Syntax,
}
