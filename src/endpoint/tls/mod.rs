//! How is a connection to a node encrypted?
//!
//! [`TlsBackend`]: the library that does it. [`TlsOptions`]: what the user chose. [`Tls`]: what a connection of one
//! node is made with, checked and ready, so that nothing of the settings can fail later. `rustls` and `native_tls` make
//! it. No socket is known here: `sync` and `aio` move the bytes.

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
use crate::topology::error_text;

/// The library that encrypts connections to `rediss://` nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsBackend {
    /// rustls, by the features `tls-rustls` and, for the async client and the proxy, `tokio-rustls-comp`. Its
    /// cryptography is that of the `CryptoProvider` that the program has installed, or else of ring.
    Rustls,
    /// The system's own (OpenSSL, Schannel, Secure Transport), by the features `tls-native-tls` and, for the async
    /// client and the proxy, `tokio-native-tls-comp`.
    NativeTls,
}

/// Which connections are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Blocking,
    Tokio,
}

/// What the user chose for `rediss://` nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct TlsOptions {
    pub(crate) backend: Option<TlsBackend>,
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub(crate) certificates: Option<TlsCertificates>,
    /// By the name of the node.
    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    pub(crate) of_node: Vec<(String, TlsCertificates)>,
    pub(crate) server_name: Option<String>,
}

/// What encrypts the connections to one node.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) config: Config,
    /// The name that the server's certificate must have.
    pub(crate) server_name: String,
    /// Whether the client has a certificate to show.
    shows_certificate: bool,
}

/// Settings of a library, ready for any number of connections.
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
    /// The feature that brings it.
    fn feature(self, runtime: Runtime) -> &'static str {
        match (self, runtime) {
            (Self::Rustls, Runtime::Blocking) => "tls-rustls",
            (Self::Rustls, Runtime::Tokio) => "tokio-rustls-comp",
            (Self::NativeTls, Runtime::Blocking) => "tls-native-tls",
            (Self::NativeTls, Runtime::Tokio) => "tokio-native-tls-comp",
        }
    }

    fn is_there(self, runtime: Runtime) -> bool {
        match (self, runtime) {
            (Self::Rustls, Runtime::Blocking) => cfg!(feature = "tls-rustls"),
            (Self::Rustls, Runtime::Tokio) => cfg!(feature = "tokio-rustls-comp"),
            (Self::NativeTls, Runtime::Blocking) => cfg!(feature = "tls-native-tls"),
            (Self::NativeTls, Runtime::Tokio) => cfg!(feature = "tokio-native-tls-comp"),
        }
    }
}

impl TlsOptions {
    /// What encrypts connections to the node called `name`; `None` where nothing does.
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

    /// Whether every node that was given certificates of its own is there.
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

    fn backend(&self, runtime: Runtime) -> Result<TlsBackend, String> {
        if let Some(chosen) = self.backend {
            return match chosen.is_there(runtime) {
                true => Ok(chosen),
                false => Err(format!(
                    "TLS by {chosen:?} needs the feature `{}` of redis-sharding",
                    chosen.feature(runtime)
                )),
            };
        }
        [TlsBackend::Rustls, TlsBackend::NativeTls]
            .into_iter()
            .find(|backend| backend.is_there(runtime))
            .ok_or_else(missing_feature)
    }

    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    fn certificates_of(&self, name: &str) -> Option<&TlsCertificates> {
        let own = self.of_node.iter().rev().find(|(node, _)| node == name);
        own.map(|(_, certificates)| certificates)
            .or(self.certificates.as_ref())
    }

    #[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
    fn has_certificates_of(&self, name: &str) -> bool {
        self.of_node.iter().any(|(node, _)| node == name)
    }

    #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
    fn has_certificates_of(&self, _: &str) -> bool {
        false
    }

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
        })
    }

    #[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
    fn build(&self, _: TlsBackend, _: &str, _: &str, _: bool) -> Result<Tls, String> {
        Err(missing_feature())
    }
}

/// TLS is asked for and not compiled in.
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

/// Why redis-rs did not take a URL, without what may repeat a part of it. redis-rs does not say which feature brings TLS.
pub(crate) fn refused_url(error: &redis::RedisError) -> String {
    let has_tls = cfg!(any(feature = "tls-native-tls", feature = "tls-rustls"));
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
    /// What to add when a server hangs up instead of giving its first answer. In TLS 1.3 it refuses a client behind the
    /// handshake, and it may be gone before its reason is read.
    pub(crate) fn hint(&self) -> &'static str {
        match self.shows_certificate {
            true => "",
            false => {
                "; the server may want a certificate of the client, which Builder::tls_certificates takes"
            }
        }
    }

    /// A handshake that failed, in words that say what is to be done.
    pub(crate) fn handshake_error(&self, error: io::Error) -> io::Error {
        let text = error.to_string();
        // Both libraries say why, each in its own words.
        let text = match text.to_ascii_lowercase().contains("certificate") {
            true => format!(
                "TLS: the certificate of the server was refused, as {:?}: {text}; \
                 Builder::tls_certificates takes the certificates of its issuer",
                self.server_name
            ),
            false => format!("TLS: the handshake failed: {text}"),
        };
        io::Error::new(error.kind(), text)
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
