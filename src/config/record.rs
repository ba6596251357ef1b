//! The setter of [`Builder`] for who knows the records of the nodes.

use std::sync::Arc;

use crate::config::Builder;
use crate::endpoint::RecordSource;

impl Builder {
    /// Has the client follow the records that its nodes keep of their fleet, as this source knows them.
    pub(crate) fn record_source(mut self, source: Arc<dyn RecordSource>) -> Self {
        self.record_source = Some(source);
        self
    }
}
