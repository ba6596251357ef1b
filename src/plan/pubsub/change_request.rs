//! [`ChangeRequest`]: SUBSCRIBE and its relatives, as bytes.

use std::collections::BTreeMap;

use super::places::channel_slot;
use super::{ChannelName, SubscriptionChange, SubscriptionKind};
use crate::resp::{write_arg, write_header};

/// A packed SUBSCRIBE or UNSUBSCRIBE of any kind, with all names of a change.
///
/// One request for all names, unlike a restore: the user learns of one refusal for the whole change. Only shard
/// channels in a Redis Cluster have one request for each slot, as its servers refuse those of several (CROSSSLOT).
pub(crate) struct ChangeRequest {
    change: SubscriptionChange,
    kind: SubscriptionKind,
    is_by_slot: bool,
    parts: BTreeMap<u16, Part>,
}

/// The names of one request.
#[derive(Default)]
struct Part {
    /// Number of names added so far.
    names: usize,
    /// The names, packed.
    packed: Vec<u8>,
}

impl ChangeRequest {
    /// A request to a plain node, or to one of a cluster, without names yet, which must be [added](Self::add).
    pub(super) fn new(
        change: SubscriptionChange,
        kind: SubscriptionKind,
        is_cluster: bool,
    ) -> Self {
        Self {
            change,
            kind,
            is_by_slot: is_cluster && kind == SubscriptionKind::Shard,
            parts: BTreeMap::new(),
        }
    }

    /// Adds names.
    pub(crate) fn add(&mut self, names: &[ChannelName]) {
        for name in names {
            let part = match self.is_by_slot {
                true => channel_slot(name),
                false => 0,
            };
            let part = self.parts.entry(part).or_default();
            part.names += 1;
            write_arg(&mut part.packed, name);
        }
    }

    /// The packed requests for the names added so far; empty if there are none.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let command = self.kind.command(self.change);
        let mut requests = Vec::new();
        for part in std::mem::take(&mut self.parts).into_values() {
            // The header holds the number of names, which is known only now: a change may be given up half-way.
            write_header(&mut requests, part.names + 1);
            write_arg(&mut requests, command);
            requests.extend_from_slice(&part.packed);
        }
        requests
    }
}
