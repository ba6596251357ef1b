//! TLS settings for rustls.

use std::sync::Arc;

use redis::TlsCertificates;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// The settings of all connections to one node. `insecure` accepts any certificate, as redis-rs does for
/// `#insecure`.
pub(super) fn config(
    certificates: Option<&TlsCertificates>,
    insecure: bool,
) -> Result<ClientConfig, String> {
    // Chosen here and not by rustls, which panics if its features enable more than one provider or none.
    let provider = match CryptoProvider::get_default() {
        Some(installed) => Arc::clone(installed),
        None => Arc::new(rustls::crypto::ring::default_provider()),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: the installed CryptoProvider of rustls: {error}"))?;
    let builder = match insecure {
        true => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        false => builder.with_root_certificates(roots(certificates)?),
    };
    let client = certificates.and_then(|certificates| certificates.client_tls.as_ref());
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = all_certificates(&client.client_cert, "client")?;
            let key = PrivateKeyDer::from_pem_slice(&client.client_key)
                .map_err(|error| format!("TLS: the key of the client certificate: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("TLS: the client certificate: {error}"))?
        }
    };
    // As redis-rs does: the name is not checked, and may be none.
    config.enable_sni = !insecure;
    Ok(config)
}

/// Parses the name that a certificate must have: a DNS name or an IP address.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| format!("TLS: {host:?} is no name that a certificate could have"))
}

/// The issuers that are trusted: the user's, or else the common ones.
fn roots(certificates: Option<&TlsCertificates>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = certificates.and_then(|certificates| certificates.root_cert.as_ref()) {
        for certificate in all_certificates(pem, "root")? {
            roots
                .add(certificate)
                .map_err(|error| format!("TLS: a root certificate: {error}"))?;
        }
        // Without the common ones: a user who names an issuer trusts no other.
        return Ok(roots);
    }
    add_common_roots(&mut roots);
    // Without any issuer every handshake would fail, with a message that does not name the reason.
    match roots.is_empty() {
        false => Ok(roots),
        true => Err("TLS: this machine has no root certificates; give some to Builder::tls_certificates, or enable the \
                     feature `tls-rustls-webpki-roots`"
            .into()),
    }
}

/// Adds Mozilla's issuers.
#[cfg(feature = "tls-rustls-webpki-roots")]
fn add_common_roots(roots: &mut RootCertStore) {
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
}

/// Adds the machine's issuers. Some machines have a few that cannot be parsed; they are skipped, and a server
/// that needs one is refused when it presents its certificate.
#[cfg(not(feature = "tls-rustls-webpki-roots"))]
fn add_common_roots(roots: &mut RootCertStore) {
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
}

/// All certificates of a PEM text. No certificate at all is an error: the text is probably something else.
fn all_certificates(pem: &[u8], whose: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("TLS: a {whose} certificate: {error}"))?;
    match all.is_empty() {
        false => Ok(all),
        true => Err(format!(
            "TLS: there is no {whose} certificate in the PEM text"
        )),
    }
}

/// Accepts any certificate: the connection is encrypted, but the server is not authenticated.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Without a trusted certificate a valid signature proves nothing.
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
