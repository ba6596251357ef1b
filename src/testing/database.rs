//! Everything the connections of one node share.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::channels::Channels;
use super::store::Store;

/// Everything the connections of one node share.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) address: SocketAddr,
    pub(super) password: Option<String>,
    pub(super) store: Store,
    pub(super) channels: Channels,
    pub(super) config: BTreeMap<String, Vec<u8>>,
    /// Open connections, for INFO.
    pub(super) clients: usize,
}

impl Database {
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
