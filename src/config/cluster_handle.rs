//! [`ClusterHandle`]: who knows the map of a cluster, for those who are made before it.

use std::sync::{Arc, OnceLock, Weak};

use crate::cluster::ClusterMonitor;
use crate::replication::ListedReplicas;

/// The monitor of a cluster, once there is one. Weak, as the monitor is made from what holds this.
#[derive(Clone, Default)]
pub(super) struct ClusterHandle(Arc<OnceLock<Weak<ClusterMonitor>>>);

impl ClusterHandle {
    /// Sets the monitor. The first one stays.
    pub(super) fn set(&self, monitor: &Arc<ClusterMonitor>) {
        let _ = self.0.set(Arc::downgrade(monitor));
    }

    /// The replicas of primaries as the map knows them.
    pub(super) fn listed_replicas(&self) -> ListedReplicas {
        let handle = self.clone();
        Arc::new(move |primary| handle.0.get()?.upgrade()?.replicas_of(primary))
    }
}
