//! [`Clients`]: a client of the target for each database.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::config::Builder;
use crate::error::Error;
use crate::sync::ShardedClient;

/// The clients of all databases, each made when it is needed first.
pub(super) struct Clients {
    builder: Builder,
    reply_within: Duration,
    by_database: Mutex<BTreeMap<u32, ShardedClient>>,
}

impl Clients {
    /// Clients of these nodes, which wait so long for a reply.
    pub(super) fn new(builder: Builder, reply_within: Duration) -> Self {
        Self {
            builder,
            reply_within,
            by_database: Mutex::default(),
        }
    }

    /// The client of a database.
    ///
    /// # Errors
    ///
    /// As for [`Builder::build`].
    pub(super) fn of(&self, db: u32) -> Result<ShardedClient, Error> {
        let mut clients = self.by_database.lock();
        if let Some(client) = clients.get(&db) {
            return Ok(client.clone());
        }
        let client = self.builder.clone().with_database(i64::from(db)).build()?;
        let client = client.with_timeout(self.reply_within);
        clients.insert(db, client.clone());
        Ok(client)
    }

    /// The client of the database that the description names, once the nodes are known.
    ///
    /// # Errors
    ///
    /// As for [`Builder::build`]; and if the servers of a cluster do not say which nodes there are.
    pub(super) fn first(&self) -> Result<ShardedClient, Error> {
        let client = self
            .builder
            .clone()
            .build()?
            .with_timeout(self.reply_within);
        client.shared().ready()?;
        Ok(client)
    }
}
