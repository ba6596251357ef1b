//! [`HedgeBudget`]: how many reads may be sent to a second server because the first one is late?
//!
//! If most replies are late, the servers are overloaded, and asking twice would double their load. So each read earns a
//! tenth of a second request, up to a few, which a burst of late replies may use at once.

/// Reads for each that may be sent twice.
const READS_PER_HEDGE: u32 = 10;

/// Number of reads that may be sent twice at once, after a time in which none was late.
const HEDGES_MAX: u32 = 10;

/// The right to send reads twice, in parts of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HedgeBudget(pub(crate) u32);

impl HedgeBudget {
    /// That of a node from which nothing was read yet.
    pub(crate) const FULL: Self = Self(HEDGES_MAX * READS_PER_HEDGE);

    /// Counts a read that may be sent twice.
    pub(crate) fn read(self) -> Self {
        Self((self.0 + 1).min(Self::FULL.0))
    }

    /// Takes the right to send one read twice. `None` if there is none left.
    pub(crate) fn hedge(self) -> Option<Self> {
        self.0.checked_sub(READS_PER_HEDGE).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_in_ten_is_sent_twice_however_many_are_late() {
        let mut budget = HedgeBudget::FULL;
        let mut hedges = 0;
        for _ in 0..1_000 {
            budget = budget.read();
            if let Some(left) = budget.hedge() {
                budget = left;
                hedges += 1;
            }
        }
        let share = 1_000 / READS_PER_HEDGE;
        assert!((share..=share + HEDGES_MAX).contains(&hedges), "{hedges}");
        for _ in 0..10_000 {
            budget = budget.read();
        }
        assert_eq!(budget, HedgeBudget::FULL, "no more than a few are saved up");
    }
}
