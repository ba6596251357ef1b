//! The clients of all databases of the same nodes.

use redis::ConnectionInfo;

use crate::config::Builder;
use crate::topology::NodeAccess;

impl Builder {
    /// Sets the database of all nodes.
    pub(crate) fn with_database(mut self, db: i64) -> Self {
        for node in self.nodes.iter_mut().flatten() {
            let info = in_database(&node.access.info, db);
            node.access = NodeAccess {
                info,
                ..node.access.clone()
            };
        }
        for seed in self.cluster.iter_mut().flatten().flatten() {
            *seed = in_database(seed, db);
        }
        self
    }
}

fn in_database(info: &ConnectionInfo, db: i64) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_db(db);
    info.clone().set_redis_settings(settings)
}
