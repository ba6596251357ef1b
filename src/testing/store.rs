//! The data of a node: keys, values, expiry, and the version of each key for WATCH.
//!
//! [`Store`] knows no commands; they get a value by its type ([`view`](Store::view), [`edit`](Store::edit)),
//! change it, and report the change ([`touched`](Store::touched)).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::time::{SystemTime, UNIX_EPOCH};

use super::commands::Failure;

/// Any bytes: a key, a field, a member.
pub(super) type Bytes = Vec<u8>;
/// A string, as a type of its own among the values.
pub(super) type Text = Vec<u8>;
/// Sorted by field, so that replies are the same every time.
pub(super) type Hash = BTreeMap<Bytes, Bytes>;
pub(super) type List = VecDeque<Bytes>;
pub(super) type Set = BTreeSet<Bytes>;

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Hash(Hash),
    List(List),
    Set(Set),
    Text(Text),
}

impl Value {
    /// Returns the reply to TYPE.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Hash(_) => "hash",
            Self::List(_) => "list",
            Self::Set(_) => "set",
            Self::Text(_) => "string",
        }
    }

    /// True for an empty collection, whose key does not exist; an empty string is a value.
    fn is_nothing(&self) -> bool {
        match self {
            Self::Hash(hash) => hash.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Set(set) => set.is_empty(),
            Self::Text(_) => false,
        }
    }
}

/// One of the types that a value can have.
pub(super) trait Kind: Default {
    /// Returns the value, if it has this type.
    fn of(value: &mut Value) -> Option<&mut Self>;
    /// Returns it as a value.
    fn wrap(self) -> Value;
}

macro_rules! kinds {
    ($($kind:ident),*) => {
        $(impl Kind for $kind {
            fn of(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$kind(inner) => Some(inner),
                    _ => None,
                }
            }

            fn wrap(self) -> Value {
                Value::$kind(self)
            }
        })*
    };
}

kinds!(Hash, List, Set, Text);

/// The value of a key, and its expiry.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    /// Milliseconds since 1970; `None` for a key without expiry.
    pub(super) expires_at_ms: Option<u64>,
}

/// Keys by their hash, which is the order of SCAN.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Expired keys stay until they are looked at, as in a real server.
    entries: BTreeMap<(u64, Bytes), Entry>,
    /// Version of each key: the value of `clock` at its last change. Keys that are gone are kept, so that
    /// their versions never repeat.
    changes: HashMap<Bytes, u64>,
    /// Number of changes so far.
    clock: u64,
}

impl Store {
    /// Returns the entry of a key that exists now; removes it if it has expired.
    pub(super) fn entry(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let place = place(key);
        let expired = self.entries.get(&place)?.is_expired(now_ms());
        if expired {
            self.entries.remove(&place);
            self.touched(key);
        }
        self.entries.get_mut(&place)
    }

    /// True if the key exists now.
    pub(super) fn contains(&mut self, key: &[u8]) -> bool {
        self.entry(key).is_some()
    }

    /// Returns the value of a key if it exists, or the error for one of another type.
    pub(super) fn view<K: Kind>(&mut self, key: &[u8]) -> Result<Option<&mut K>, Failure> {
        match self.entry(key) {
            None => Ok(None),
            Some(entry) => K::of(&mut entry.value).map(Some).ok_or(Failure::WRONG_TYPE),
        }
    }

    /// Returns the value of a key, added if it does not exist. [`touched`](Self::touched) must be called
    /// afterwards, even if nothing was put in: it removes an empty collection.
    pub(super) fn edit<K: Kind>(&mut self, key: &[u8]) -> Result<&mut K, Failure> {
        // Removes an expired value first, which must not be edited.
        self.entry(key);
        let entry = self.entries.entry(place(key)).or_insert_with(|| Entry {
            value: K::default().wrap(),
            expires_at_ms: None,
        });
        K::of(&mut entry.value).ok_or(Failure::WRONG_TYPE)
    }

    /// Replaces the value and expiry of a key, of whatever type.
    pub(super) fn put(&mut self, key: &[u8], value: Value, expires_at_ms: Option<u64>) {
        let entry = Entry {
            value,
            expires_at_ms,
        };
        self.entries.insert(place(key), entry);
        self.touched(key);
    }

    /// Removes a key. Returns its entry if it existed.
    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        self.entry(key)?;
        let entry = self.entries.remove(&place(key));
        self.touched(key);
        entry
    }

    /// Records a change of a key, and removes it if it is an empty collection now.
    pub(super) fn touched(&mut self, key: &[u8]) {
        let place = place(key);
        if self
            .entries
            .get(&place)
            .is_some_and(|entry| entry.value.is_nothing())
        {
            self.entries.remove(&place);
        }
        // After the removal of an empty collection, so that both are one change.
        self.clock += 1;
        self.changes.insert(key.to_vec(), self.clock);
    }

    /// Returns a number that grows with every change of the key, its expiry included.
    pub(super) fn version(&mut self, key: &[u8]) -> u64 {
        // A key that has expired since its last change gets a new version by this.
        self.entry(key);
        self.changes.get(key).copied().unwrap_or(0)
    }

    /// Removes all keys. Each counts as changed.
    pub(super) fn clear(&mut self) {
        // Taken out first: `touched` looks each key up, and must not find it.
        let entries = std::mem::take(&mut self.entries);
        entries.into_keys().for_each(|(_, key)| self.touched(&key));
    }

    /// Returns all keys, in the order of SCAN.
    pub(super) fn keys(&mut self) -> Vec<Bytes> {
        self.expire();
        self.entries.keys().map(|(_, key)| key.clone()).collect()
    }

    /// Number of keys.
    pub(super) fn len(&mut self) -> usize {
        self.expire();
        self.entries.len()
    }

    /// Number of keys with an expiry.
    pub(super) fn expiring(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.expires_at_ms.is_some())
            .count()
    }

    /// Returns about `count` keys from `cursor` on with their types, and the next cursor, 0 at the end.
    ///
    /// A cursor is the hash of a key, so a key that exists all the time is returned, whatever else is added
    /// or removed.
    pub(super) fn page(&self, cursor: u64, count: usize) -> (u64, Vec<(Bytes, &'static str)>) {
        let now = now_ms();
        let mut found: Vec<(Bytes, &'static str)> = Vec::new();
        let mut last = None;
        let from = Bound::Included((cursor, Bytes::new()));
        for ((hash, key), entry) in self.entries.range((from, Bound::Unbounded)) {
            // Keys with one hash are returned together, since a cursor cannot point between them.
            if found.len() >= count && last != Some(*hash) {
                return (*hash, found);
            }
            last = Some(*hash);
            if !entry.is_expired(now) {
                found.push((key.clone(), entry.value.kind()));
            }
        }
        (0, found)
    }

    /// Removes all keys that have expired.
    fn expire(&mut self) {
        let now = now_ms();
        let gone = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_expired(now));
        // Collected first: the map cannot be changed while it is iterated.
        let gone: Vec<Bytes> = gone.map(|((_, key), _)| key.clone()).collect();
        for key in gone {
            self.entries.remove(&place(&key));
            self.touched(&key);
        }
    }
}

impl Entry {
    /// True if it has expired at this time.
    fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }
}

/// Returns the time in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the key in the order of SCAN.
fn place(key: &[u8]) -> (u64, Bytes) {
    // FNV-1a cut to 40 bits; never zero, the cursor with which a scan begins and ends.
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    ((hash >> 24).max(1), key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_scan_returns_every_key_once_over_many_pages() {
        let mut store = Store::default();
        for number in 0..500 {
            store.put(
                format!("key:{number}").as_bytes(),
                Value::Text(vec![]),
                None,
            );
        }
        let (mut cursor, mut seen, mut pages) = (0, BTreeSet::new(), 0);
        loop {
            let (next, keys) = store.page(cursor, 10);
            keys.into_iter()
                .for_each(|(key, _)| assert!(seen.insert(key)));
            pages += 1;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        assert_eq!((seen.len(), pages), (500, 50));
    }

    #[test]
    fn expired_key_is_gone_and_counts_as_changed_for_watch() {
        let mut store = Store::default();
        store.put(b"k", Value::Text(vec![]), Some(now_ms() - 1));
        let before = store.changes[&b"k"[..]];
        assert!(!store.contains(b"k"));
        assert_eq!(store.len(), 0);
        assert!(store.version(b"k") > before);
    }

    #[test]
    fn empty_list_is_removed_from_the_store() {
        let mut store = Store::default();
        store.edit::<List>(b"k").unwrap().push_back(b"a".to_vec());
        store.touched(b"k");
        assert!(store.contains(b"k"));
        store.edit::<List>(b"k").unwrap().pop_back();
        store.touched(b"k");
        assert!(!store.contains(b"k"));
    }
}
