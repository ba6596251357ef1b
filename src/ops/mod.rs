//! What an operator does with a fleet: its record, and moving keys to other nodes.
//!
//! * `record`: [`FleetRecord`], which publishes a topology on the nodes, and looks at what they say.
//! * [`reshard`]: [`Reshard`](reshard::Reshard), which moves keys to where another topology places them.
//! * `backup`: one archive of all nodes, and restoring it to any number of nodes.
//! * `connection`: `Fleet`, the nodes of an operation and connections to them.
//!
//! Everything here blocks, and uses connections of its own. Nothing below uses it.

#[cfg(feature = "backup")]
pub mod backup;
pub(crate) mod connection;
mod record;
pub mod reshard;

pub use self::record::{
    FleetRecord, FleetReport, NodeReport, PublishOptions, Published, RecordState,
};
