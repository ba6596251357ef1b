//! What an operator does with a fleet: its record, and moving keys to other nodes.
//!
//! * `record`: [`FleetRecord`], which publishes a topology on the nodes, and looks at what they say.
//! * `connection`: `Fleet`, the nodes of an operation and connections to them.
//!
//! Everything here blocks, and uses connections of its own. Nothing below uses it.

pub(crate) mod connection;
mod record;

pub use self::record::{
    FleetRecord, FleetReport, NodeReport, PublishOptions, Published, RecordState,
};
