//! What an operator does with a fleet: its record, and moving keys to other nodes.
//!
//! * `record`: [`FleetRecord`], which publishes a topology on the nodes, and looks at what they say.
//! * [`reshard`]: [`Reshard`](reshard::Reshard), which moves keys to where another topology places them.
//! * `backup`: one archive of all nodes.
//! * `restore`: a backup goes to any number of nodes; what it holds, whether it is good, and comparing it.
//! * `connection`: `Fleet`, the nodes of an operation and connections to them.
//!
//! Everything here blocks, and uses connections of its own. Nothing below uses it.

#[cfg(feature = "backup")]
pub mod backup;
pub(crate) mod connection;
mod record;
pub mod reshard;
#[cfg(feature = "backup")]
pub mod restore;

pub use self::record::{
    FleetRecord, FleetReport, NodeReport, PublishOptions, Published, RecordState,
};
