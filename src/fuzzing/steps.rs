//! Counts how much work a reader does: bytes that it looks at, and bytes that it reserves.
//!
//! Counted instead of timed, so that a test for linear time gives the same result on any machine. The
//! counters are per thread, as tests run in parallel.

use std::cell::Cell;

thread_local! {
    static SPENT: Cell<Spent> = const { Cell::new(Spent { steps: 0, reserved: 0 }) };
}

/// Work that was done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// Bytes looked at, some of them several times.
    pub(crate) steps: usize,
    /// Bytes of memory reserved for what may follow.
    pub(crate) reserved: usize,
}

/// Counts bytes that were looked at.
pub(crate) fn add(steps: usize) {
    SPENT.with(|spent| {
        let Spent {
            steps: so_far,
            reserved,
        } = spent.get();
        let steps = so_far + steps;
        spent.set(Spent { steps, reserved });
    });
}

/// Counts bytes that were reserved.
pub(crate) fn reserve(bytes: usize) {
    SPENT.with(|spent| {
        let Spent { steps, reserved } = spent.get();
        let reserved = reserved + bytes;
        spent.set(Spent { steps, reserved });
    });
}

/// Runs `work`, and returns its result and how much work it did.
pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, Spent) {
    SPENT.with(|spent| {
        spent.set(Spent {
            steps: 0,
            reserved: 0,
        })
    });
    let done = work();
    (done, SPENT.with(Cell::get))
}
