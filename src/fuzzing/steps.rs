//! How much work a reader does, counted instead of timed: bytes it looks at, and bytes it reserves.

use std::cell::Cell;

thread_local! {
    static SPENT: Cell<Spent> = const { Cell::new(Spent { steps: 0, reserved: 0 }) };
}

/// What some work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    pub(crate) steps: usize,
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

/// Counts bytes that were reserved for what may come.
pub(crate) fn reserve(bytes: usize) {
    SPENT.with(|spent| {
        let Spent { steps, reserved } = spent.get();
        let reserved = reserved + bytes;
        spent.set(Spent { steps, reserved });
    });
}

/// What `work` gives, and what it took.
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
