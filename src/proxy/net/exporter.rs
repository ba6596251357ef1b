//! Metrics as Prometheus text over HTTP: [`serve_metrics`].

use std::net::SocketAddr;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use crate::error::Error;

/// Upper bounds, in seconds, of the buckets of a duration.
const DURATION_BUCKETS: [f64; 15] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// Upper bounds of the buckets of a number of nodes.
const NODE_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Serves all metrics of this process as Prometheus text, to GET requests of any path at `address`: those of
/// proxies and clients that are built afterwards, and of everything else that uses the crate `metrics`.
///
/// Installs the process' recorder, so it works once, and runs on a thread of its own, or on the current tokio
/// runtime if there is one. Anyone who can reach the address can read the metrics; they contain names of nodes,
/// but no keys, values or passwords.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) when the address cannot be listened on, or the process has a recorder
/// already.
pub fn serve_metrics(address: SocketAddr) -> Result<(), Error> {
    let suffix = |name: &str| Matcher::Suffix(name.to_owned());
    PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(suffix("_seconds"), &DURATION_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_nodes"), &NODE_BUCKETS))
        .and_then(PrometheusBuilder::install)
        .map_err(|error| Error::config(format!("metrics cannot be served at {address}: {error}")))
}
