//! Client and servers on one core.
//!
//! Where cores are idle, a request and its answer cost two wake-ups of a core, which on a virtual machine take longer than
//! the work itself. On one core there are none, so what is measured is what the work costs. `PINNED=no` in the environment
//! leaves the cores to the system: then the servers work while the client does.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where this thread, the threads it starts and the processes it starts may run.
pub struct Core {
    before: Option<CpuSet>,
}

impl Core {
    /// From now on on one core. Says so when the system does not allow it.
    pub fn pin() -> Self {
        if std::env::var("PINNED").is_ok_and(|pinned| pinned == "no") {
            println!("client and servers take the cores they get");
            return Self { before: None };
        }
        let before = sched_getaffinity(None).ok();
        let last = before.and_then(|set| (0..CpuSet::MAX_CPU).rev().find(|&cpu| set.is_set(cpu)));
        let pinned = last.is_some_and(|cpu| {
            let mut one = CpuSet::new();
            one.set(cpu);
            sched_setaffinity(None, &one).is_ok()
        });
        match last.filter(|_| pinned) {
            Some(cpu) => println!("client and servers share core {cpu}"),
            None => println!(
                "client and servers could not be put on one core: times depend on wake-ups"
            ),
        }
        Self {
            before: before.filter(|_| pinned),
        }
    }

    /// Where it was allowed to run before.
    pub fn unpin(&self) {
        if let Some(before) = &self.before {
            let _ = sched_setaffinity(None, before);
        }
    }
}
