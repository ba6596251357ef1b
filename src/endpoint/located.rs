//! [`Located`]: an endpoint at the address that it has now.

use std::borrow::Cow;

use redis::ConnectionAddr;

use crate::endpoint::{Deadline, Endpoint, PrimaryVersion};
use crate::policy::ConnectError;
use crate::topology::{HostPort, at_host};

/// An endpoint with an address, for one connection.
pub(crate) struct Located<'e> {
    pub(crate) endpoint: Cow<'e, Endpoint>,
    /// The version of the address, if it may change.
    pub(crate) primary: Option<PrimaryVersion>,
}

impl Endpoint {
    /// The endpoint at its current address. Blocks until that is known, but not beyond the deadline.
    ///
    /// # Errors
    ///
    /// Why the address is not known.
    pub(crate) fn locate(&self, deadline: &Deadline) -> Result<Located<'_>, ConnectError> {
        match &self.primary {
            None => Ok(self.fixed()),
            Some(primary) => self.at(primary.wait(deadline)?),
        }
    }

    /// The endpoint at its current address, once that is known.
    ///
    /// # Errors
    ///
    /// Why the address is not known.
    #[cfg(feature = "tokio-comp")]
    pub(crate) async fn locate_async(&self) -> Result<Located<'_>, ConnectError> {
        match &self.primary {
            None => Ok(self.fixed()),
            Some(primary) => self.at(primary.wait_async().await?),
        }
    }

    /// The error of an attempt whose time is over.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn timed_out(&self) -> ConnectError {
        let reason = self
            .primary
            .as_ref()
            .and_then(|primary| primary.late_reason());
        reason.unwrap_or_else(|| {
            let current = self.primary.as_ref().and_then(|primary| primary.address());
            let address = current.map_or_else(|| self.address.clone(), |found| found.to_string());
            ConnectError::timed_out(&address)
        })
    }

    fn fixed(&self) -> Located<'_> {
        Located {
            endpoint: Cow::Borrowed(self),
            primary: None,
        }
    }

    fn at(
        &self,
        (found, version): (HostPort, PrimaryVersion),
    ) -> Result<Located<'static>, ConnectError> {
        Ok(Located {
            endpoint: Cow::Owned(self.at_host(&found)?),
            primary: Some(version),
        })
    }

    /// The endpoint at another address, with the same user, database, TLS and options.
    ///
    /// # Errors
    ///
    /// If no certificate could have the name of the host.
    pub(crate) fn at_host(&self, found: &HostPort) -> Result<Self, ConnectError> {
        let tls = self.tls.as_ref().map(|tls| tls.for_host(&found.host));
        let tls = tls.transpose().map_err(ConnectError::Certificate)?;
        Ok(Self {
            info: at_host(self.info.clone(), &found.host, found.port),
            address: found.to_string(),
            tls,
            ..self.clone()
        })
    }

    /// The host and the port. `None` for a socket.
    pub(crate) fn host_and_port(&self) -> Option<HostPort> {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(HostPort {
                    host: host.clone(),
                    port: *port,
                })
            }
            _ => None,
        }
    }
}
