//! The cursor of a scan by slots, over the servers of a Redis Cluster.
//!
//! One integer below 2^53, as over plain nodes, that names no server: slots move while they are scanned.
//!
//! ```text
//!  bit 52                                                       bit 0
//!  ┌───────────────────────────────────────┬──────────┬──────────┐
//!  │ within the slot                       │ position │ check    │
//!  └───────────────────────────────────────┴──────────┴──────────┘
//!   29 bits                                 14 bits    10 bits
//! ```
//!
//! The position is that of the slot in the order of the scan: the slot with its 14 bits reversed, so that any few slots in
//! a row are spread over all servers. What is within the slot:
//!
//! * 0 to 63: nothing of it was scanned. The number is `2 * density + answered`: how many keys a slot had so far, as a power
//!   of two, and whether some server has replied.
//! * from 64 on: it is scanned by pages. The number is `64 + kind + 6 * cursor`, where `cursor` is that of the server and
//!   one of 6 kinds tells what it belongs to.
//!
//! The check of the first detects altered cursors, and those of plain nodes. A cursor of a server means something to this
//! process of this server only, so the check of the second is made of its run id as well: if it does not fit, the slot
//! is scanned again from its beginning.

use crate::error::Error;
use crate::hash::SLOTS;
use crate::plan::scan::cursor::{CURSOR_MAX, ScanCursor, mix, number_of};

/// Number of bits of the check.
const CHECK_BITS: u32 = 10;

/// Number of bits of a position.
const POSITION_BITS: u32 = SLOTS.ilog2();

/// Number of values of a density.
const DENSITIES: u64 = 32;

/// Number of values for a slot of which nothing was scanned.
const NOTHINGS: u64 = 2 * DENSITIES;

/// The density that stands for one key in a slot.
const DENSITY_ONE: i32 = 12;

/// Number of kinds of cursors of servers: three stages, with both kinds of servers.
const KINDS: u64 = 6;

/// What a check is made of besides the fields: tells these cursors from those of plain nodes.
const SALT: u64 = u64::from_be_bytes(*b"by slots");

/// Where a scan by slots goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) struct SlotCursor {
    /// Position of the slot to scan next.
    pub(in crate::plan) position: u16,
    /// Where in the slot.
    pub(in crate::plan) within: Within,
}

/// Where in its slot a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Within {
    /// At its beginning.
    Nothing {
        density: Density,
        /// True if some server has replied to an earlier step.
        is_answered: bool,
    },
    /// Behind the pages up to here.
    Pages(PageCursor),
}

/// How many keys a slot has, roughly. 0 if that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::plan) struct Density(u8);

/// The place behind a page of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) struct PageCursor {
    pub(in crate::plan) stage: Stage,
    /// True if the server has cursors for single slots.
    pub(in crate::plan) is_of_slot: bool,
    /// The server's cursor; without the slot, for a server that has one in it. 0 at the beginning.
    pub(in crate::plan) cursor: u64,
    /// The server's process.
    pub(in crate::plan) process: Process,
}

/// The first page of a slot, at a server that probably has cursors of single slots.
pub(in crate::plan) const FIRST_PAGE: PageCursor = PageCursor {
    stage: Stage::Owner,
    is_of_slot: true,
    cursor: 0,
    process: Process::Known(0),
};

/// A process of a server, by its run id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Process {
    /// A number made of the run id.
    Known(u64),
    /// The check of a cursor.
    Checked(u16),
}

/// Which keys of a slot are scanned by pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Stage {
    /// Those of its owner, which has had all of them so far.
    Owner,
    /// Those of its owner, from which some have moved away meanwhile.
    Source,
    /// Those that have moved to the next owner.
    Target,
}

impl SlotCursor {
    /// The beginning of a scan.
    pub(in crate::plan) const START: Self = Self {
        position: 0,
        within: Within::Nothing {
            density: Density(0),
            is_answered: false,
        },
    };

    /// Parses the cursor of a request.
    ///
    /// # Errors
    ///
    /// [`Redis`](crate::ErrorKind::Redis) with the server's `invalid cursor` if no scan by slots has returned it.
    pub(in crate::plan) fn parse(text: &[u8]) -> Result<Self, Error> {
        let number = number_of(text);
        number
            .and_then(Self::unpack)
            .ok_or_else(|| Self::invalid(text))
    }

    /// The server's error for an invalid cursor.
    pub(in crate::plan) fn invalid(text: &[u8]) -> Error {
        ScanCursor::invalid(text)
    }

    /// The cursor for a number that [`pack`](Self::pack) has made. `None` for any other, except for altered numbers within
    /// a slot: those scan a slot from its beginning.
    pub(in crate::plan) fn unpack(number: u64) -> Option<Self> {
        if number == 0 {
            return Some(Self::START);
        }
        if number > CURSOR_MAX {
            return None;
        }
        let (payload, check) = (number >> CHECK_BITS, (number & CHECK_MASK) as u16);
        let within = payload >> POSITION_BITS;
        let within = match within.checked_sub(NOTHINGS) {
            None => Within::Nothing {
                density: Density((within / 2) as u8),
                is_answered: within % 2 == 1,
            },
            Some(rest) => {
                let (stage, is_of_slot) = kind(rest % KINDS);
                Within::Pages(PageCursor {
                    stage,
                    is_of_slot,
                    cursor: rest / KINDS,
                    process: Process::Checked(check),
                })
            }
        };
        let cursor = Self {
            position: payload as u16 % SLOTS,
            within,
        };
        (cursor.pack() == Some(number)).then_some(cursor)
    }

    /// The cursor as a number; `None` if that of the server is too large. Never 0, except for the beginning of a scan.
    pub(in crate::plan) fn pack(self) -> Option<u64> {
        if self == Self::START {
            return Some(0);
        }
        let within = match self.within {
            Within::Nothing {
                density,
                is_answered,
            } => u64::from(density.0) * 2 + u64::from(is_answered),
            Within::Pages(page) => page
                .cursor
                .checked_mul(KINDS)?
                .checked_add(page.kind() + NOTHINGS)?,
        };
        let payload = within.checked_mul(SLOTS.into())? | u64::from(self.position);
        let check = match self.within {
            Within::Nothing { .. } => check(payload, 0),
            Within::Pages(page) => page.process.check(payload),
        };
        let number = payload.checked_mul(1 << CHECK_BITS)? | u64::from(check);
        (number <= CURSOR_MAX).then_some(number)
    }

    /// The slot at its position.
    pub(in crate::plan) fn slot(self) -> u16 {
        slot_at(self.position)
    }

    /// True if this process has returned the cursor of the server in it.
    pub(in crate::plan) fn is_of(self, process: u64) -> bool {
        match self.within {
            Within::Nothing { .. } => true,
            Within::Pages(page) => match page.process {
                // Nothing was asked yet.
                _ if page.cursor == 0 => true,
                Process::Known(known) => known == process,
                Process::Checked(check) => {
                    let known = PageCursor {
                        process: Process::Known(process),
                        ..page
                    };
                    let within = Within::Pages(known);
                    let number = Self { within, ..self }.pack();
                    number.is_some_and(|number| number & CHECK_MASK == u64::from(check))
                }
            },
        }
    }
}

impl PageCursor {
    /// The number of its kind.
    fn kind(self) -> u64 {
        self.stage as u64 * 2 + u64::from(self.is_of_slot)
    }
}

impl Process {
    /// The check of a cursor with this payload.
    fn check(self, payload: u64) -> u16 {
        match self {
            Self::Known(process) => check(payload, process),
            Self::Checked(check) => check,
        }
    }
}

impl Density {
    /// That of `keys` keys in `slots` slots.
    pub(in crate::plan) fn of(keys: usize, slots: usize) -> Self {
        if slots == 0 {
            return Self::default();
        }
        let exponent = (keys.max(1) as f64 / slots as f64).log2().round() as i32;
        Self((exponent + DENSITY_ONE).clamp(1, DENSITIES as i32 - 1) as u8)
    }

    /// Number of slots that have this many keys; `None` if that is not known.
    pub(in crate::plan) fn slots_of(self, keys: usize) -> Option<usize> {
        (self != Self::default()).then(|| {
            let per_slot = f64::from(i32::from(self.0) - DENSITY_ONE).exp2();
            ((keys as f64 / per_slot).ceil() as usize).max(1)
        })
    }
}

/// The slot at this position in the order of the scan.
pub(in crate::plan) fn slot_at(position: u16) -> u16 {
    (position % SLOTS).reverse_bits() >> (u16::BITS - POSITION_BITS)
}

/// The position of a slot in the order of the scan.
pub(in crate::plan) fn position_of(slot: u16) -> u16 {
    slot_at(slot)
}

/// The bits of the check.
const CHECK_MASK: u64 = (1 << CHECK_BITS) - 1;

/// The check over a payload, and over the process of a server.
fn check(payload: u64, process: u64) -> u16 {
    (mix(mix(payload ^ SALT) ^ process) & CHECK_MASK) as u16
}

/// The kind with this number.
fn kind(number: u64) -> (Stage, bool) {
    let stage = match number / 2 {
        0 => Stage::Owner,
        1 => Stage::Source,
        _ => Stage::Target,
    };
    (stage, number % 2 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(
        position: u16,
        stage: Stage,
        is_of_slot: bool,
        cursor: u64,
        process: u64,
    ) -> SlotCursor {
        SlotCursor {
            position,
            within: Within::Pages(PageCursor {
                stage,
                is_of_slot,
                cursor,
                process: Process::Known(process),
            }),
        }
    }

    fn nothing(density: u8, is_answered: bool) -> Within {
        let density = Density(density);
        Within::Nothing {
            density,
            is_answered,
        }
    }

    #[test]
    fn slot_positions_are_a_permutation_that_begins_all_over_the_ring() {
        let mut slots: Vec<u16> = (0..SLOTS).map(slot_at).collect();
        assert_eq!(slots[..4], [0, 8192, 4096, 12288]);
        assert!((0..SLOTS).all(|slot| slot_at(position_of(slot)) == slot));
        slots.sort_unstable();
        assert!(slots.iter().copied().eq(0..SLOTS));
    }

    #[test]
    fn slot_cursors_survive_as_doubles_and_are_never_zero() {
        let mut seen = std::collections::HashSet::new();
        for position in [0, 1, 8191, SLOTS - 1] {
            for number in 0..NOTHINGS as u8 {
                let within = nothing(number / 2, number % 2 == 1);
                let cursor = SlotCursor { position, within };
                let number = cursor.pack().unwrap();
                assert_eq!(number as f64 as u64, number);
                assert_eq!(SlotCursor::unpack(number), Some(cursor));
                assert_eq!(number == 0, cursor == SlotCursor::START);
                assert!(seen.insert(number));
            }
            for stage in [Stage::Owner, Stage::Source, Stage::Target] {
                for (is_of_slot, server) in [(false, 0), (true, 1), (true, (1 << 26) - 1)] {
                    let cursor = pages(position, stage, is_of_slot, server, 7);
                    let number = cursor.pack().unwrap();
                    assert_eq!(number as f64 as u64, number);
                    assert_ne!(number, 0);
                    assert!(seen.insert(number));
                    let parsed = SlotCursor::unpack(number).unwrap();
                    assert!(parsed.is_of(7));
                    assert_eq!((parsed.position, parsed.pack()), (position, Some(number)));
                    let Within::Pages(page) = parsed.within else {
                        panic!("{parsed:?}");
                    };
                    assert_eq!(
                        (page.stage, page.is_of_slot, page.cursor),
                        (stage, is_of_slot, server)
                    );
                }
            }
        }
        assert_eq!(pages(0, Stage::Owner, true, 1 << 30, 7).pack(), None);
        assert_eq!(pages(0, Stage::Owner, true, u64::MAX, 7).pack(), None);
    }

    #[test]
    fn altered_slot_cursor_is_refused_and_one_of_another_process_is_noticed() {
        let within = nothing(9, true);
        let number = SlotCursor {
            position: 77,
            within,
        }
        .pack()
        .unwrap();
        let accepted = (0..53).filter(|bit| {
            let parsed = SlotCursor::unpack(number ^ 1 << bit);
            // Within a slot the check shows when the server replies.
            parsed.is_some_and(|parsed| matches!(parsed.within, Within::Nothing { .. }))
        });
        assert_eq!(accepted.count(), 0);
        assert_eq!(SlotCursor::unpack(number | 1 << 60), None);
        let number = pages(77, Stage::Owner, true, 1234, 1).pack().unwrap();
        let parsed = SlotCursor::unpack(number).unwrap();
        let others = (2..1002).filter(|process| parsed.is_of(*process)).count();
        assert!(others < 10, "{others} of 1000 other processes pass");
    }

    #[test]
    fn density_tells_the_number_of_slots_for_a_count() {
        assert_eq!(Density::default().slots_of(10), None);
        assert_eq!(Density::of(640, 10).slots_of(640), Some(10));
        assert_eq!(Density::of(1, 1024).slots_of(10), Some(10240));
        assert_eq!(Density::of(0, 0).slots_of(10), None);
        assert_eq!(Density::of(10_000, 1).slots_of(10), Some(1));
    }
}
