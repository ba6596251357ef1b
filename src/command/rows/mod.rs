//! The built-in rows: commands of Redis 7.0, Redis 8 (with its modules) and Valkey 9, one file per group.
//!
//! Facts (arity, positions of keys) are the servers'. Routes, merges and accesses are decided here, with a
//! note where the reason is not plain. `tests/command_table` compares the rows with real servers;
//! `docs/commands.md` is printed from them by `document`.
//!
//! A row is one line: a constructor for its route, then setters for what differs from the default.
//!
//! ```text
//! read("GET", 2, KEY)
//! write("MSET", -3, PAIRS).split(2, 0, Merge::AllSucceeded)
//! read("LLEN", 2, KEY).missing(ZERO)
//! ask_all("DBSIZE", 1, Merge::Sum).allow_partial_on_request()
//! ```

use std::borrow::Cow;

use super::{
    Access, ArgAt, Blocking, CommandSpec, ConnectionCommand, KeySpec, Merge, MissCondition,
    MissReply, Partial, ProxyRole, Route, Scripting, SubscriptionCommand, TransactionCommand,
};

mod cluster;
mod connection;
mod debug;
#[cfg(test)]
mod document;
mod hashes;
mod in_cluster;
mod keyspace;
mod lists;
mod modules;
mod pubsub;
mod scripting;
mod server;
mod sets;
mod sorted_sets;
mod streams;
mod strings;

pub(super) use in_cluster::ROWS as IN_CLUSTER;

/// All built-in rows, with the titles of their groups.
// The order is that of `docs/commands.md`.
pub(super) static GROUPS: [(&str, &[CommandSpec]); 15] = [
    ("Keys", keyspace::ROWS),
    ("Strings, bitmaps, HyperLogLog", strings::ROWS),
    ("Hashes", hashes::ROWS),
    ("Lists", lists::ROWS),
    ("Sets", sets::ROWS),
    ("Sorted sets, geo", sorted_sets::ROWS),
    ("Streams", streams::ROWS),
    ("Scripts and functions", scripting::ROWS),
    ("Publish and subscribe", pubsub::ROWS),
    ("Connection and transactions", connection::ROWS),
    ("Server", server::ROWS),
    ("Debugging", debug::ROWS),
    ("Cluster", cluster::ROWS),
    (
        "Vector sets, JSON, probabilistic, time series",
        modules::ROWS,
    ),
    ("Search", modules::SEARCH_ROWS),
];

/// Every `step`th position from `first` to `last`.
const fn range(first: u16, last: i16, step: u16) -> KeySpec {
    KeySpec::Range { first, last, step }
}

/// A number of keys, and the keys directly after it.
const fn counted(count: u16, step: u16, least: u16) -> KeySpec {
    KeySpec::Counted {
        count,
        first: count + 1,
        step,
        least,
    }
}

const NONE: &[KeySpec] = &[];
const KEY: &[KeySpec] = &[range(1, 1, 1)];
const KEY_AT_2: &[KeySpec] = &[range(2, 2, 1)];
const TWO_KEYS: &[KeySpec] = &[range(1, 2, 1)];
const ALL_KEYS: &[KeySpec] = &[range(1, -1, 1)];
const KEYS_FROM_2: &[KeySpec] = &[range(2, -1, 1)];
const KEYS_BUT_LAST: &[KeySpec] = &[range(1, -2, 1)];
const PAIRS: &[KeySpec] = &[range(1, -1, 2)];
const TRIPLES: &[KeySpec] = &[range(1, -1, 3)];
const COUNT_AT_1: &[KeySpec] = &[counted(1, 1, 1)];
const COUNT_AT_2: &[KeySpec] = &[counted(2, 1, 1)];
const SCRIPT_KEYS: &[KeySpec] = &[counted(2, 1, 0)];
const COUNTED_PAIRS: &[KeySpec] = &[counted(1, 2, 1)];
const TARGET_AND_COUNT: &[KeySpec] = &[range(1, 1, 1), counted(2, 1, 1)];

const NIL: MissReply = MissReply::Nil;
const ZERO: MissReply = MissReply::Int(0);
const NO_TTL: MissReply = MissReply::Int(-2);
const NO_TEXT: MissReply = MissReply::Text("");
const NO_ITEMS: MissReply = MissReply::EmptyArray;

/// A row with defaults for all columns that are not given.
const fn row(
    name: &'static str,
    arity: i16,
    keys: &'static [KeySpec],
    route: Route,
    access: Access,
) -> CommandSpec {
    CommandSpec {
        name: Cow::Borrowed(name),
        arity,
        keys: Cow::Borrowed(keys),
        route,
        access,
        blocking: Blocking::No,
        scripting: Scripting::No,
        partial: Partial::Refused,
        missing: None,
        primary_only: false,
        proxy_role: ProxyRole::Forward,
        note: "",
    }
}

/// Sent to the owner of its keys; changes nothing.
const fn read(name: &'static str, arity: i16, keys: &'static [KeySpec]) -> CommandSpec {
    row(name, arity, keys, Route::Keys, Access::Read)
}

/// Sent to the owner of its keys; may change something.
const fn write(name: &'static str, arity: i16, keys: &'static [KeySpec]) -> CommandSpec {
    row(name, arity, keys, Route::Keys, Access::Write)
}

/// Sent to every node; changes nothing.
const fn ask_all(name: &'static str, arity: i16, merge: Merge) -> CommandSpec {
    row(name, arity, NONE, Route::All(merge), Access::Read)
}

/// Sent to every node; may change something.
const fn tell_all(name: &'static str, arity: i16, merge: Merge) -> CommandSpec {
    row(name, arity, NONE, Route::All(merge), Access::Write)
}

/// Sent to any node; changes nothing.
const fn any(name: &'static str, arity: i16) -> CommandSpec {
    row(name, arity, NONE, Route::Any, Access::Read)
}

/// Sent to a node that the caller names; may change something.
const fn named(name: &'static str, arity: i16) -> CommandSpec {
    row(name, arity, NONE, Route::NodeOnly, Access::Write)
}

/// Sent to a node that the caller names; changes nothing.
const fn named_read(name: &'static str, arity: i16) -> CommandSpec {
    row(name, arity, NONE, Route::NodeOnly, Access::Read)
}

/// Not on a shared handle: it changes the state of its connection.
const fn stateful(name: &'static str, arity: i16, keys: &'static [KeySpec]) -> CommandSpec {
    row(name, arity, keys, Route::Stateful, Access::Write)
}

/// Not sent at all. Its keys do not matter.
const fn refused(name: &'static str, arity: i16) -> CommandSpec {
    row(name, arity, NONE, Route::Refused, Access::Write)
}

impl CommandSpec {
    /// Split by node, `step` arguments per key and `tail` at the end for each part.
    const fn split(mut self, step: u8, tail: u8, merge: Merge) -> Self {
        self.route = Route::Split { step, tail, merge };
        self
    }

    /// May hold its reply back for the seconds in an argument.
    const fn waits_seconds(mut self, at: ArgAt) -> Self {
        self.blocking = Blocking::Seconds(at);
        self
    }

    /// Must not be queued behind a running script.
    const fn out_of_band(mut self) -> Self {
        self.blocking = Blocking::OutOfBand;
        self
    }

    /// May hold its reply back for the milliseconds in an argument.
    const fn waits_millis(mut self, at: ArgAt) -> Self {
        self.blocking = Blocking::Millis(at);
        self
    }

    /// Concerns scripts or functions.
    const fn about_scripts(mut self) -> Self {
        self.scripting = Scripting::Yes;
        self
    }

    /// Nodes within reach reply for all: the reply shows what is missing.
    const fn allow_partial(mut self) -> Self {
        self.partial = Partial::Allowed;
        self
    }

    /// Nodes within reach reply for all if the client is so configured.
    const fn allow_partial_on_request(mut self) -> Self {
        self.partial = Partial::OptIn;
        self
    }

    /// The reply of a server that has none of its keys.
    const fn missing(mut self, reply: MissReply) -> Self {
        self.missing = Some(reply);
        self
    }

    /// Never read from a replica: the reply is about the server, or a cursor of its own continues there.
    const fn primary_only(mut self) -> Self {
        self.primary_only = true;
        self
    }

    /// What a proxy does besides forwarding it.
    const fn proxied(mut self, role: ProxyRole) -> Self {
        self.proxy_role = role;
        self
    }

    /// The reason for the row, for `docs/commands.md`.
    const fn because(mut self, note: &'static str) -> Self {
        self.note = note;
        self
    }
}
