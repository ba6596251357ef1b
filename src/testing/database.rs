//! The data that all connections of one node share, behind one lock.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::channels::Channels;
use super::store::Store;

/// Data, channels and configuration of one node.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) address: SocketAddr,
    /// Password of the default user; `None` if clients need none.
    pub(super) password: Option<String>,
    pub(super) store: Store,
    pub(super) channels: Channels,
    /// Parameters of CONFIG, by their names in lower case. None of them has an effect.
    pub(super) config: BTreeMap<String, Vec<u8>>,
    /// Number of open connections, for INFO.
    pub(super) clients: usize,
}

impl Database {
    /// Returns an empty database.
    pub(super) fn new(address: SocketAddr, password: Option<String>) -> Self {
        let config = [
            ("appendonly", "no"),
            ("databases", "1"),
            ("maxmemory", "0"),
            ("maxmemory-policy", "noeviction"),
            ("save", ""),
            ("timeout", "0"),
        ];
        let config = config.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
        Self {
            address,
            password,
            store: Store::default(),
            channels: Channels::default(),
            config: BTreeMap::from(config),
            clients: 0,
        }
    }
}
