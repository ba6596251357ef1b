//! Which command is in a request, where are its keys, and how is it routed and merged?
//!
//! * [`CommandTable`]: all commands of Redis 7.0, Redis 8 and Valkey 9, as data, and those that the user
//!   declares.
//! * [`CommandSpec`]: one row, with the positions of its keys ([`KeySpec`]), its [`Route`], and its [`Merge`]
//!   rule.
//! * [`Declaration`]: a row in the making, for a module's command or a newer server.
//! * [`MissReply`]: the reply to a read whose keys do not exist.
//! * `rows`: the built-in rows, one file per group. `extract`: finds the keys of a request. `name`: compares
//!   names. `blocking`: how long a server may hold a reply back. `proxy_role`: the commands that a proxy
//!   replies to by itself.
//! * [`PackedCommands`]: reads packed requests without copying.
//!
//! ```text
//!  MSET a 1 b 2 ──▶ CommandTable::lookup ──▶ row MSET ──▶ CommandSpec::positions ──▶ keys at 1, 3
//!                                              │
//!                                              └──▶ Route::Split { step: 2, .. }, Merge::AllSucceeded
//! ```
//!
//! A command that is not in the table is refused, never guessed: a plain server does not reply MOVED, so a
//! write to a wrong node is lost without an error. Nothing here knows nodes, or sends anything.

mod blocking;
mod declare;
mod extract;
mod merge;
mod miss;
mod name;
mod proxy_role;
mod rows;
mod spec;
mod table;

#[cfg(feature = "proxy")]
pub(crate) use proxy_role::InsideMulti;
pub(crate) use proxy_role::{
    ConnectionCommand, ProxyRole, SubscriptionCommand, TransactionCommand,
};
pub(crate) use spec::Scripting;
pub(crate) use table::SharedTable;

pub use crate::resp::{Args, PackedCommands, PackedError, PackedProblem, write_command};
pub use blocking::BlockingTime;
pub use declare::{Declaration, DeclareError};
pub use merge::Merge;
pub use miss::{MissCondition, MissReply};
pub use spec::{
    Access, ArgAt, Blocking, CommandSpec, KeyError, KeyPositions, KeySpec, Partial, Route,
};
pub use table::{CommandTable, Lookup};
