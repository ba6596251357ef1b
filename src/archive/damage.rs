//! What a recovering reader has left out.

use std::collections::BTreeMap;
use std::fmt;

/// Maximum number of damaged places that are described one by one.
const PLACES_MAX: usize = 1000;

/// What a recovering reader has left out, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The damaged places, in their order. At most 1000 of them.
    pub(crate) places: Vec<DamagedPlace>,
    /// Number of places that are not described.
    pub(crate) more_places: u64,
    /// What each node has lost, by its index in the manifest.
    pub(crate) lost: BTreeMap<u16, Lost>,
    /// True if the archive ends without its end mark.
    pub(crate) end_is_missing: bool,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DamagedPlace {
    /// Where it begins in the archive.
    pub(crate) offset: u64,
    /// Number of bytes that were left out; 0 if something is missing there.
    pub(crate) bytes: u64,
    /// The index of the node, if it is known.
    pub(crate) node: Option<u16>,
    /// What is wrong.
    pub(crate) what: String,
}

/// What a node has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Frames.
    pub(crate) frames: u64,
    /// Keys and functions that began in them.
    pub(crate) entries: u64,
}

impl Damage {
    /// True if nothing is damaged.
    pub(crate) fn is_none(&self) -> bool {
        self.places.is_empty() && self.lost.is_empty() && !self.end_is_missing
    }

    /// True if the numbers of lost frames and entries are all; otherwise more may be lost behind the last frame that was
    /// found.
    pub(crate) fn is_exact(&self) -> bool {
        !self.end_is_missing
    }

    /// Returns the number of keys and functions that are lost.
    #[cfg(test)]
    pub(crate) fn entries_lost(&self) -> u64 {
        self.lost.values().map(|lost| lost.entries).sum()
    }

    /// Notes a damaged place.
    pub(super) fn note(&mut self, place: DamagedPlace) {
        match self.places.len() < PLACES_MAX {
            true => self.places.push(place),
            false => self.more_places += 1,
        }
    }

    /// Notes what a node has lost.
    pub(super) fn lose(&mut self, node: u16, frames: u64, entries: u64) {
        if frames == 0 && entries == 0 {
            return;
        }
        let lost = self.lost.entry(node).or_default();
        lost.frames = lost.frames.saturating_add(frames);
        lost.entries = lost.entries.saturating_add(entries);
    }
}

impl fmt::Display for DamagedPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            0 => write!(f, "at byte {}: {}", self.offset, self.what),
            bytes => write!(
                f,
                "bytes {} to {}: {}",
                self.offset,
                self.offset.saturating_add(bytes),
                self.what
            ),
        }
    }
}
