//! [`Builder::build_proxy`], beside the proxy because the configuration must not know it.

use crate::config::Builder;
use crate::endpoint::tls::Runtime;
use crate::error::Error;
use crate::proxy::Proxy;

impl Builder {
    /// Builds a proxy, for programs that use the Redis protocol in any language. Connects to no node, and
    /// needs no runtime, before the first command of the first client.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_proxy(self) -> Result<Proxy, Error> {
        Proxy::new(self.config(Runtime::Tokio)?)
    }
}
