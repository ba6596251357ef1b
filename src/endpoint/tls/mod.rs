//! The TLS settings of a node.
//!
//! * [`TlsBackend`]: the library; [`TlsOptions`]: the user's choice for all nodes.
//! * [`Tls`]: the checked settings of one node, ready for any number of connections: a wrong certificate is
//!   reported when the client is built, not by its first command.
//! * `rustls` and `native_tls`: make a [`Config`] of their library.
//!
//! No socket is known here: `sync` and `aio` move the bytes.

#[cfg(feature = "tls-native-tls")]
mod native_tls;
#[cfg(feature = "tls-rustls")]
mod rustls;

use std::fmt;
use std::io;

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
use redis::TlsCertificates;
use redis::{ConnectionAddr, ConnectionInfo};

use crate::error::Error;
use crate::partition::NodeSpec;
use crate::policy::CertificateRefused;
use crate::topology::error_text;

/// Words of the alerts with which a server refuses a certificate, as rustls and OpenSSL write them.
const OF_CERTIFICATE: [&str; 5] = [
    "accessdenied",
    "access denied",
    "certificate",
    "unknown ca",
    "unknownca",
];

/// Words of the alert with which a server ends a handshake of TLS 1.2 that lacks a certificate.
const HANDSHAKE_FAILURE: [&str; 2] = ["handshake failure", "handshakefailure"];

/// The library that encrypts connections to `rediss://` nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsBackend {
    /// rustls, enabled by the feature `tls-rustls` and, for the async client and the proxy,
    /// `tokio-rustls-comp`. Uses the `CryptoProvider` that the program has installed, or else ring.
    Rustls,
    /// The system's library (OpenSSL, Schannel, Secure Transport), enabled by the feature `tls-native-tls`
    /// and, for the async client and the proxy, `tokio-native-tls-comp`.
    NativeTls,
}

/// The kind of client that moves the bytes; decides which features are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The blocking client.
    Blocking,
    /// The client on tokio, and the proxy.
    Tokio,
}

/// The user's settings for `rediss://` nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions {
    /// The library. `None` takes the first that is enabled.
    pub(crate) backend: Option<TlsBackend>,
    /// Certificates for all nodes that have none of their own.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub(crate) certificates: Option<TlsCertificates>,
    /// Certificates by name of the node. The last entry for a name counts.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub(crate) of_node: Vec<(String, TlsCertificates)>,
    /// The name that all certificates must have. `None` takes the host of each URL.
    pub(crate) server_name: Option<String>,
}

/// The TLS settings of one node.
#[derive(Clone)]
pub(crate) struct Tls {
    /// Settings of the library.
    pub(crate) config: Config,
    /// The name that the server's certificate must have.
    pub(crate) server_name: String,
    /// True if the client has a certificate to present.
    shows_certificate: bool,
    /// True if the name is that of the host, and not one for all nodes.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    is_host: bool,
}

/// Settings of one library. Cheap to clone. Empty without a TLS feature, so that code which would need one
/// does not exist.
#[derive(Clone)]
pub(crate) enum Config {
    #[cfg(feature = "tls-rustls")]
    Rustls(
        std::sync::Arc<::rustls::ClientConfig>,
        ::rustls::pki_types::ServerName<'static>,
    ),
    #[cfg(feature = "tls-native-tls")]
    NativeTls(::native_tls::TlsConnector),
}

impl TlsBackend {
    /// The feature of this crate that enables the library.
    fn feature(self, runtime: Runtime) -> &'static str {
        match (self, runtime) {
            (Self::Rustls, Runtime::Blocking) => "tls-rustls",
            (Self::Rustls, Runtime::Tokio) => "tokio-rustls-comp",
            (Self::NativeTls, Runtime::Blocking) => "tls-native-tls",
            (Self::NativeTls, Runtime::Tokio) => "tokio-native-tls-comp",
        }
    }

    /// True if that feature is enabled.
    fn is_there(self, runtime: Runtime) -> bool {
        match (self, runtime) {
            (Self::Rustls, Runtime::Blocking) => cfg!(feature = "tls-rustls"),
            (Self::Rustls, Runtime::Tokio) => cfg!(feature = "tokio-rustls-comp"),
            (Self::NativeTls, Runtime::Blocking) => cfg!(feature = "tls-native-tls"),
            (Self::NativeTls, Runtime::Tokio) => cfg!(feature = "tokio-native-tls-comp"),
        }
    }

    /// Returns the library if that feature is enabled, and else a text that names the feature.
    pub(crate) fn check(self, runtime: Runtime) -> Result<Self, String> {
        match self.is_there(runtime) {
            true => Ok(self),
            false => Err(format!(
                "TLS by {self:?} needs the feature `{}` of redis-sharding",
                self.feature(runtime)
            )),
        }
    }
}

impl TlsOptions {
    /// Makes the settings of the node called `name`. `None` if its URL does not ask for TLS.
    ///
    /// # Errors
    ///
    /// If the node has certificates but no TLS, if the library is not enabled, or if a certificate cannot be
    /// read.
    pub(crate) fn for_node(
        &self,
        name: &str,
        info: &ConnectionInfo,
        runtime: Runtime,
    ) -> Result<Option<Tls>, Error> {
        let ConnectionAddr::TcpTls {
            host,
            insecure,
            tls_params,
            ..
        } = info.addr()
        else {
            return match self.has_certificates_of(name) {
                false => Ok(None),
                true => Err(Error::config(format!(
                    "node {name:?} was given TLS certificates, but its URL does not begin with rediss://"
                ))
                .at_node(name)),
            };
        };
        let failed = |why: String| Error::config(format!("node {name:?}: {why}")).at_node(name);
        // redis-rs does not make them readable. Ignoring them would connect without the client's certificate,
        // or trust other issuers.
        if tls_params.is_some() {
            return Err(failed(
                "certificates that were given to redis-rs cannot be read; give them to Builder::tls_certificates"
                    .into(),
            ));
        }
        let backend = self.backend(runtime).map_err(failed)?;
        let server_name = self.server_name.as_deref().unwrap_or(host);
        self.build(backend, name, server_name, *insecure)
            .map(Some)
            .map_err(failed)
    }

    /// Checks that every node with certificates of its own exists: a typing error would let it fall back to
    /// those for all.
    pub(crate) fn check(&self, nodes: &[NodeSpec]) -> Result<(), Error> {
        #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
        for (name, _) in &self.of_node {
            if !nodes.iter().any(|node| node.name() == name) {
                return Err(Error::config(format!(
                    "TLS certificates were given for node {name:?}, but no node has that name"
                ))
                .at_node(name));
            }
        }
        #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
        let _ = nodes;
        Ok(())
    }

    /// The library chosen, or the first that is enabled: rustls before native-tls, as in redis-rs.
    fn backend(&self, runtime: Runtime) -> Result<TlsBackend, String> {
        if let Some(chosen) = self.backend {
            return chosen.check(runtime);
        }
        [TlsBackend::Rustls, TlsBackend::NativeTls]
            .into_iter()
            .find(|backend| backend.is_there(runtime))
            .ok_or_else(missing_feature)
    }

    /// The node's own certificates, or those for all nodes.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    fn certificates_of(&self, name: &str) -> Option<&TlsCertificates> {
        // Backwards, so that a later call of the builder replaces an earlier one.
        let own = self.of_node.iter().rev().find(|(node, _)| node == name);
        own.map(|(_, certificates)| certificates)
            .or(self.certificates.as_ref())
    }

    /// True if the node has certificates of its own.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    fn has_certificates_of(&self, name: &str) -> bool {
        self.of_node.iter().any(|(node, _)| node == name)
    }

    /// Certificates cannot be given without a TLS library.
    #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
    fn has_certificates_of(&self, _: &str) -> bool {
        false
    }

    /// Makes the settings for one node.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    fn build(
        &self,
        backend: TlsBackend,
        node: &str,
        server_name: &str,
        insecure: bool,
    ) -> Result<Tls, String> {
        let certificates = self.certificates_of(node);
        let config = match backend {
            #[cfg(feature = "tls-rustls")]
            // Both are parsed now, so that connecting cannot fail for a reason that was known before.
            TlsBackend::Rustls => {
                let config = rustls::config(certificates, insecure)?;
                Config::Rustls(config.into(), rustls::server_name(server_name)?)
            }
            #[cfg(feature = "tls-native-tls")]
            TlsBackend::NativeTls => {
                Config::NativeTls(native_tls::connector(certificates, insecure)?)
            }
            #[cfg(not(all(feature = "tls-native-tls", feature = "tls-rustls")))]
            _ => return Err(missing_feature()),
        };
        Ok(Tls {
            config,
            server_name: server_name.to_owned(),
            shows_certificate: certificates.is_some_and(|all| all.client_tls.is_some()),
            is_host: self.server_name.is_none(),
        })
    }

    /// No library is enabled.
    #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
    fn build(&self, _: TlsBackend, _: &str, _: &str, _: bool) -> Result<Tls, String> {
        Err(missing_feature())
    }
}

/// The message for TLS without a library.
fn missing_feature() -> String {
    let feature = TlsBackend::feature;
    let [rustls, native] = [TlsBackend::Rustls, TlsBackend::NativeTls];
    format!(
        "rediss:// needs TLS: enable the feature `{}` or `{}` of redis-sharding, for the async client and the \
         proxy `{}` or `{}`",
        feature(rustls, Runtime::Blocking),
        feature(native, Runtime::Blocking),
        feature(rustls, Runtime::Tokio),
        feature(native, Runtime::Tokio),
    )
}

/// Why redis-rs refused a URL, without any part of the URL, which may contain a password. redis-rs does not
/// name the feature that TLS needs, so this does.
pub(crate) fn refused_url(error: &redis::RedisError) -> String {
    let has_tls = cfg!(any(feature = "tls-native-tls", feature = "tls-rustls"));
    // redis-rs has no kind for this error, only its text.
    match has_tls || !error.to_string().contains("TLS") {
        true => error_text(error),
        false => missing_feature(),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// The library that encrypts.
    #[cfg(feature = "tokio-comp")]
    pub(crate) fn backend(&self) -> TlsBackend {
        match self.config {
            #[cfg(feature = "tls-rustls")]
            Config::Rustls(..) => TlsBackend::Rustls,
            #[cfg(feature = "tls-native-tls")]
            Config::NativeTls(_) => TlsBackend::NativeTls,
        }
    }

    /// The settings for another host of the same node, whose certificate must have its name.
    ///
    /// # Errors
    ///
    /// A description, if no certificate could have this name.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub(super) fn for_host(&self, host: &str) -> Result<Self, String> {
        if !self.is_host {
            return Ok(self.clone());
        }
        let config = match self.config {
            #[cfg(feature = "tls-rustls")]
            Config::Rustls(ref config, _) => {
                Config::Rustls(std::sync::Arc::clone(config), rustls::server_name(host)?)
            }
            #[cfg(feature = "tls-native-tls")]
            Config::NativeTls(ref connector) => Config::NativeTls(connector.clone()),
        };
        Ok(Self {
            config,
            server_name: host.to_owned(),
            ..self.clone()
        })
    }

    /// Without a TLS library there are no settings.
    #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
    pub(super) fn for_host(&self, _: &str) -> Result<Self, String> {
        Err(missing_feature())
    }

    /// Text to add to the error when the server closes the connection during the handshake.
    ///
    /// The alert of a server that refuses the client's certificate may be lost when it closes, so a missing
    /// certificate can look like any other closed connection.
    pub(crate) fn hint(&self) -> &'static str {
        match self.shows_certificate {
            true => "",
            false => {
                "; the server may want a certificate of the client, which Builder::tls_certificates takes"
            }
        }
    }

    /// The error of a failed TLS handshake, with what to do about it.
    pub(crate) fn handshake_error(&self, error: &io::Error) -> io::Error {
        let text = error.to_string();
        self.certificate_error(&text).unwrap_or_else(|| {
            let kind = match error.kind() {
                // The error of a library: the connection is given up because of what came over it.
                io::ErrorKind::InvalidData | io::ErrorKind::Other => {
                    io::ErrorKind::ConnectionAborted
                }
                kind => kind,
            };
            io::Error::new(kind, format!("TLS: the handshake failed: {text}"))
        })
    }

    /// The error for a certificate that one of the sides refused, if that is what the text of a library says.
    ///
    /// The libraries have no common error type, but both name the certificate if it is the reason, and the
    /// alert if it was the other side that found fault.
    pub(crate) fn certificate_error(&self, text: &str) -> Option<io::Error> {
        let lower = text.to_ascii_lowercase();
        let names = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        let said = match names(&["alert"]) {
            false if names(&["certificate"]) => format!(
                "TLS: the certificate of the server was refused, as {:?}: {text}; \
                 Builder::tls_certificates takes the certificates of its issuer, Builder::tls_server_name another name",
                self.server_name
            ),
            true if names(&OF_CERTIFICATE) && self.shows_certificate => format!(
                "TLS: the server refused the certificate of this client: {text}; Builder::tls_certificates takes one that \
                 an issuer known to the server has signed"
            ),
            true if names(&OF_CERTIFICATE)
                || !self.shows_certificate && names(&HANDSHAKE_FAILURE) =>
            {
                format!(
                    "TLS: the server requires a certificate of the client: {text}; Builder::tls_certificates takes it"
                )
            }
            _ => return None,
        };
        let kind = io::ErrorKind::PermissionDenied;
        Some(io::Error::new(kind, CertificateRefused(said)))
    }
}

#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    fn info(url: &str) -> ConnectionInfo {
        url.into_connection_info().unwrap()
    }

    #[test]
    fn tls_backend_defaults_to_rustls_and_each_can_be_chosen() {
        let mut options = TlsOptions::default();
        for runtime in [Runtime::Blocking, Runtime::Tokio] {
            let there = |backend: TlsBackend| backend.is_there(runtime);
            let expected = match there(TlsBackend::Rustls) {
                true => Some(TlsBackend::Rustls),
                false if there(TlsBackend::NativeTls) => Some(TlsBackend::NativeTls),
                false => None,
            };
            options.backend = None;
            assert_eq!(options.backend(runtime).ok(), expected);
            for backend in [TlsBackend::Rustls, TlsBackend::NativeTls] {
                options.backend = Some(backend);
                match there(backend) {
                    true => assert_eq!(options.backend(runtime).unwrap(), backend),
                    false => {
                        let why = options.backend(runtime).unwrap_err();
                        assert!(why.contains(backend.feature(runtime)), "{why}");
                    }
                }
            }
        }
    }

    #[test]
    fn invalid_tls_certificates_are_refused_when_the_client_is_built() {
        for backend in [TlsBackend::Rustls, TlsBackend::NativeTls] {
            if !backend.is_there(Runtime::Blocking) {
                continue;
            }
            let with = |certificates| TlsOptions {
                backend: Some(backend),
                certificates: Some(certificates),
                ..TlsOptions::default()
            };
            let root = with(TlsCertificates {
                client_tls: None,
                root_cert: Some(b"hunter2".to_vec()),
            });
            let client = with(TlsCertificates {
                client_tls: Some(redis::ClientTlsConfig {
                    client_cert: b"hunter2".to_vec(),
                    client_key: b"hunter2".to_vec(),
                }),
                root_cert: None,
            });
            for (options, word) in [(root, "root"), (client, "client")] {
                let made = options.for_node("n", &info("rediss://h:1"), Runtime::Blocking);
                let error = made.unwrap_err().to_string();
                assert!(error.contains("\"n\"") && error.contains(word), "{error}");
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn node_tls_certificates_are_refused_for_a_node_without_tls() {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: None,
        };
        let options = TlsOptions {
            of_node: vec![("a".into(), certificates)],
            ..TlsOptions::default()
        };
        let made = options.for_node("a", &info("redis://h:1"), Runtime::Blocking);
        assert!(made.unwrap_err().to_string().contains("rediss://"));
        let node = |name: &str| NodeSpec::new(name, "h:1");
        assert!(options.check(&[node("b")]).is_err());
        assert!(options.check(&[node("b"), node("a")]).is_ok());
    }

    #[test]
    fn tls_certificates_inside_a_redis_rs_client_are_refused() {
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: None,
        };
        let client = redis::Client::build_with_tls("rediss://h:1", certificates).unwrap();
        let made =
            TlsOptions::default().for_node("n", client.get_connection_info(), Runtime::Blocking);
        assert!(made.unwrap_err().to_string().contains("tls_certificates"));
    }
}
