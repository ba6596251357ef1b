//! What is this command, and where are its keys?
//!
//! * [`CommandTable`]: every command of Redis 7.0, Redis 8 and Valkey 9 as data, and what the user declares besides.
//! * [`CommandSpec`]: one row, the positions of its keys and how it is routed and merged.
//! * `proxy_role`: which commands a proxy answers itself, and how.
//! * [`PackedCommands`]: a zero-copy reader of requests in the wire format.
//!
//! A command that is not in the table is refused, never guessed: a plain Redis node does not answer MOVED, so one
//! wrong key position is data silently lost.

mod blocking;
mod declare;
mod extract;
mod merge;
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

pub use crate::resp::{Args, PackedCommands, PackedError, PackedProblem, write_command};
pub use blocking::BlockingTime;
pub use declare::{Declaration, DeclareError};
pub use merge::Merge;
pub use spec::{
    Access, ArgAt, Blocking, CommandSpec, KeyError, KeyPositions, KeySpec, Partial, Route,
};
pub use table::{CommandTable, Lookup};
