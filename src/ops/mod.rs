//! What an operator does with a fleet: its record, moving keys to other nodes, and backups.
//!
//! * `record`: [`FleetRecord`], which publishes a topology on the nodes, and looks at what they say.
//! * [`reshard`]: [`Reshard`](reshard::Reshard), which moves keys to where another topology places them.
//! * `backup`: `Backup`, one archive of all nodes.
//! * `restore`: `Restore`, a backup goes to any number of nodes; what it holds, whether it is good, and comparing it.
//! * `connection`: `Fleet`, the nodes of an operation and connections to them. `rate`: limits of bytes in a second;
//!   `clock`: times of this machine and of servers.
//!
//! Everything here blocks. A restore is sent by a client, all else over connections of its own. Nothing below uses it.

#[cfg(feature = "backup")]
pub mod backup;
mod clock;
pub(crate) mod connection;
#[cfg(feature = "backup")]
mod rate;
mod record;
pub mod reshard;
#[cfg(feature = "backup")]
pub mod restore;

pub use self::record::{
    FleetRecord, FleetReport, NodeReport, PublishOptions, Published, RecordState,
};
