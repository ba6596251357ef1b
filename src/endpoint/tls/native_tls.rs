//! TLS settings for native-tls, the system's library.

use native_tls::{Certificate, Identity, TlsConnector};
use redis::TlsCertificates;

/// The settings of all connections to one node. `insecure` accepts any certificate, as redis-rs does for
/// `#insecure`.
pub(super) fn connector(
    certificates: Option<&TlsCertificates>,
    insecure: bool,
) -> Result<TlsConnector, String> {
    let mut builder = TlsConnector::builder();
    if insecure {
        builder
            .danger_accept_invalid_certs(true)
            .danger_accept_invalid_hostnames(true)
            // As redis-rs does: the name is not checked, and may be none.
            .use_sni(false);
    }
    let root = certificates.and_then(|certificates| certificates.root_cert.as_ref());
    if let Some(pem) = root {
        let roots = Certificate::stack_from_pem(pem)
            .map_err(|error| format!("TLS: a root certificate: {error}"))?;
        if roots.is_empty() {
            return Err("TLS: there is no root certificate in the PEM text".into());
        }
        // In place of the machine's issuers, as for rustls: a user who names an issuer trusts no other.
        builder.disable_built_in_roots(true);
        for root in roots {
            builder.add_root_certificate(root);
        }
    }
    if let Some(client) = certificates.and_then(|certificates| certificates.client_tls.as_ref()) {
        let identity = Identity::from_pkcs8(&client.client_cert, &client.client_key);
        let identity = identity.map_err(|error| format!("TLS: the client certificate: {error}"))?;
        builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| format!("TLS: the settings: {error}"))
}
