//! A scan over all nodes: one after another, the node's number inside the cursor.
//!
//! * `cursor`: [`ScanCursor`], what SCAN's cursor says over many nodes, and the step after each reply.
//! * `state`: [`ScanState`], the iteration behind `scan_all`, and [`ScanPosition`], where it can be resumed.

mod cursor;
mod state;

pub use state::{SCAN_COUNT_MAX, ScanPosition};

pub(in crate::plan) use cursor::CursorStep;
pub(crate) use cursor::ScanCursor;
pub(crate) use state::{ScanState, ScanStep};
