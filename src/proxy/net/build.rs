//! Building a proxy.

use crate::config::Builder;
use crate::endpoint::tls::Runtime;
use crate::error::Error;
use crate::proxy::Proxy;

impl Builder {
    /// A proxy, for programs that speak the Redis protocol. Nothing is contacted, and no runtime is needed, before its
    /// first client's first command.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_proxy(self) -> Result<Proxy, Error> {
        Ok(Proxy::new(self.config(Runtime::Tokio)?))
    }
}
