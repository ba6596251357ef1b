//! SCAN over all nodes: one node after another, with the number of the node packed into the cursor.
//!
//! * `cursor`: [`ScanCursor`], the cursor that programs and clients of the proxy see, and the step after each
//!   reply.
//! * `slot_scan`: [`SlotScan`], a step over the slots of a Redis Cluster instead; `slot_progress`: one slot of it;
//!   `slot_cursor`: its cursor. `options`, `glob`: COUNT, MATCH and TYPE, which such a step applies itself.
//! * `state`: [`ScanState`], the iteration behind `scan_all`, and [`ScanPosition`], the text by which it can
//!   be resumed.
//!
//! ```text
//! client ─▶ SCAN 0           node a ─▶ SCAN 0     a replies 17: the client receives pack(a, 17)
//! client ─▶ SCAN pack(a,17)  node a ─▶ SCAN 17    a replies 0:  the client receives pack(b, 0)
//! client ─▶ SCAN pack(b,0)   node b ─▶ SCAN 0     b replies 0:  the client receives 0, the end
//! ```
//!
//! While a reshard moves keys there are two passes over the nodes; see `cursor`.
//!
//! The guarantee is SCAN's own: a key that exists during the whole scan is returned at least once, as long as
//! the list of nodes stays the same. A cursor or position of another list of nodes is refused. No state is
//! kept between steps anywhere but in the cursor. Over a cluster each key is returned exactly once, see `slot_scan`.

mod cursor;
mod glob;
mod options;
mod slot_cursor;
mod slot_progress;
mod slot_scan;
#[cfg(test)]
mod slot_simulation;
mod state;

pub use state::{SCAN_COUNT_MAX, ScanPosition};

pub(in crate::plan) use cursor::CursorStep;
pub(crate) use cursor::ScanCursor;
#[cfg(any(feature = "backup", feature = "testing"))]
pub(crate) use glob::glob_matches;
pub(in crate::plan) use options::ScanOptions;
pub(in crate::plan) use slot_cursor::SlotCursor;
pub(in crate::plan) use slot_scan::{
    Probe, ScanLimits, ScanPage, ScanServer, ServerProcess, SlotQuestion, SlotReply, SlotRequest,
    SlotScan, SlotScanStep,
};
pub(crate) use state::{ScanState, ScanStep};
