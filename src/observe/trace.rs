//! Spans and events for subscribers of the crate `tracing`, under the target `redis_sharding`.
//!
//! | what | level |
//! |---|---|
//! | a node is down | WARN |
//! | it is up again | INFO |
//! | a node was ejected, or cannot be flushed | WARN |
//! | it was readmitted; the topology changed | INFO |
//! | a connection was replaced, opened or closed | DEBUG |
//! | span `redis_request`: one call of the program | DEBUG |
//! | the requests to one node have ended | TRACE |
//!
//! Attributes have the names of OpenTelemetry's conventions for Redis where there are such names. No key and
//! no value is ever an attribute: of a command only its name in the command table is known here.
//!
//! Without the feature `tracing` all of this is empty.

use crate::error::Error;
use crate::plan::{RoutedCommand, Router, Selection};

/// The span of one request of the program, from its plan to its reply.
#[derive(Clone, Debug)]
pub(crate) struct RequestSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
pub(super) use enabled::{event, finished};

#[cfg(feature = "tracing")]
mod enabled {
    #[cfg(feature = "tokio-comp")]
    use tracing::Instrument;
    use tracing::field::Empty;
    use tracing::{Span, debug, info, span_enabled, trace, warn};

    use super::*;
    use crate::error::ErrorKind;
    use crate::observe::ClientEvent;
    use crate::partition::{NodeIndex, NodeSpec};
    use crate::plan::{Plan, RequestOutcome};

    /// The target of all spans and events, for filters.
    macro_rules! target {
        () => {
            "redis_sharding"
        };
    }

    /// What is known of a request when its span begins.
    struct Attributes<'r> {
        /// Name of the command, or of the form of the pipeline.
        operation: &'r str,
        plan: &'static str,
        /// Number of commands of a pipeline.
        batch: Option<u64>,
        /// The node, if there is only one.
        node: Option<&'r NodeSpec>,
        database: i64,
    }

    impl Attributes<'_> {
        fn span(&self) -> Span {
            let address = self.node.map(|node| server(node.address()));
            tracing::debug_span!(
                target: target!(),
                "redis_request",
                otel.kind = "client",
                otel.name = self.operation,
                db.system.name = "redis",
                db.namespace = self.database,
                db.operation.name = self.operation,
                db.operation.batch.size = self.batch,
                db.response.status_code = Empty,
                error.type = Empty,
                server.address = address.map(|(host, _)| host),
                server.port = address.and_then(|(_, port)| port),
                redis_sharding.node = self.node.map(NodeSpec::name),
                redis_sharding.plan = self.plan,
            )
        }
    }

    /// Host and port of `host:port`; the path of a unix socket has no port.
    fn server(address: &str) -> (&str, Option<u16>) {
        let split = address.rsplit_once(':');
        match split.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    }

    impl RequestSpan {
        fn none() -> Self {
            Self { span: Span::none() }
        }

        /// The span of a command with this plan. A command that is refused has a span as well.
        #[inline]
        pub(crate) fn command(
            router: &Router,
            database: i64,
            args: &[&[u8]],
            routed: Result<&RoutedCommand, &Error>,
        ) -> Self {
            if !span_enabled!(target: target!(), tracing::Level::DEBUG) {
                return Self::none();
            }
            let found = router.lookup(args).ok();
            let plan = routed.ok().map(|routed| &routed.plan);
            let attributes = Attributes {
                // Whatever is not in the table may be anything, so it is not shown.
                operation: found.map_or("unknown", |command| command.name()),
                plan: plan.map_or("refused", Plan::kind),
                batch: None,
                node: match plan {
                    Some(&Plan::One(node)) => Some(spec(router, node)),
                    _ => None,
                },
                database,
            };
            Self {
                span: attributes.span(),
            }
        }

        /// The span of a pipeline, for one node if there is a `node`.
        pub(crate) fn pipeline(
            router: &Router,
            database: i64,
            selection: &Selection,
            node: Option<NodeIndex>,
        ) -> Self {
            if !span_enabled!(target: target!(), tracing::Level::DEBUG) {
                return Self::none();
            }
            let (operation, commands) = selection.form();
            let attributes = Attributes {
                operation,
                plan: "pipeline",
                batch: Some(commands as u64),
                node: node.map(|node| spec(router, node)),
                database,
            };
            Self {
                span: attributes.span(),
            }
        }

        /// Enters the span, for requests that block the thread.
        #[inline]
        pub(crate) fn enter(&self) -> tracing::span::Entered<'_> {
            self.span.enter()
        }

        /// Enters the span whenever the future is polled.
        #[cfg(feature = "tokio-comp")]
        #[inline]
        pub(crate) fn instrument<F: Future>(
            &self,
            future: F,
        ) -> tracing::instrument::Instrumented<F> {
            future.instrument(self.span.clone())
        }

        /// Records the error of the result, if it is one.
        #[inline]
        pub(crate) fn end<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
            if let Err(error) = &result
                && !self.span.is_disabled()
            {
                match error.server_reply() {
                    Some(reply) => {
                        self.record("db.response.status_code", reply.code());
                        self.record("error.type", reply.code());
                    }
                    None => self.record("error.type", error.kind().label()),
                }
            }
            result
        }

        fn record(&self, field: &str, value: &str) {
            self.span.record(field, value);
        }
    }

    fn spec(router: &Router, node: NodeIndex) -> &NodeSpec {
        &router.topology().nodes()[node.get()]
    }

    /// The requests to a node have ended.
    #[inline]
    pub(in crate::observe) fn finished(node: &NodeSpec, outcome: &RequestOutcome) {
        trace!(
            target: target!(),
            {
                redis_sharding.node = node.name(),
                server.address = node.address(),
                error_replies = outcome.error_replies,
                error.type = outcome.failure.map(ErrorKind::code),
            },
            "requests to a node have ended"
        );
    }

    /// Something has happened that concerns no single node.
    fn topology_event(event: &ClientEvent) {
        match event {
            ClientEvent::TopologyChanged { from, to } => {
                info!(target: target!(), { from, to }, "topology changed");
            }
            ClientEvent::TopologyRefused { error } => {
                warn!(target: target!(), { error = %error }, "topology refused");
            }
            _ => {}
        }
    }

    /// Something has happened to a node.
    pub(in crate::observe) fn event(event: &ClientEvent) {
        let Some(node) = event.node() else {
            return topology_event(event);
        };
        let (name, address) = (node.name(), node.address());
        macro_rules! log {
            ($level:ident, $text:literal $(, $($field:tt)*)?) => {
                $level!(
                    target: target!(),
                    {
                        redis_sharding.node = name,
                        server.address = address,
                        $($($field)*,)?
                    },
                    $text
                )
            };
        }
        match event {
            ClientEvent::NodeDown { error, .. } => log!(warn, "node is down", error = %error),
            ClientEvent::NodeUp { outage, .. } => {
                log!(
                    info,
                    "node is up again",
                    outage_seconds = outage.as_secs_f64()
                );
            }
            ClientEvent::ReplicaDown { error, .. } => log!(warn, "replica is down", error = %error),
            ClientEvent::ReplicaUp { outage, .. } => {
                log!(info, "replica is up", outage_seconds = outage.as_secs_f64())
            }
            ClientEvent::Ejected { failures, .. } => {
                log!(warn, "node was ejected", failures = *failures);
            }
            ClientEvent::Readmitted { absence, .. } => {
                log!(
                    info,
                    "node was readmitted",
                    absence_seconds = absence.as_secs_f64()
                );
            }
            ClientEvent::FlushFailed { error, .. } => {
                log!(warn, "node cannot be flushed", error = %error);
            }
            ClientEvent::TopologyChanged { .. } | ClientEvent::TopologyRefused { .. } => {}
            ClientEvent::RecordLost { .. } => log!(warn, "record of the fleet was lost"),
            ClientEvent::RecordRepaired { .. } => log!(info, "record of the fleet was repaired"),
            ClientEvent::Reconnected { .. } => log!(debug, "reconnected"),
            ClientEvent::PrimaryChanged { from, to, .. } => {
                log!(info, "primary changed", from = &**from, to = &**to);
            }
            ClientEvent::ConnectionOpened { pool, .. } => {
                log!(debug, "connection opened", pool = pool.name());
            }
            ClientEvent::ConnectionClosed { pool, .. } => {
                log!(debug, "connection closed", pool = pool.name());
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod disabled {
    use super::*;
    use crate::partition::NodeIndex;

    impl RequestSpan {
        pub(crate) fn command(
            _: &Router,
            _: i64,
            _: &[&[u8]],
            _: Result<&RoutedCommand, &Error>,
        ) -> Self {
            Self {}
        }

        pub(crate) fn pipeline(_: &Router, _: i64, _: &Selection, _: Option<NodeIndex>) -> Self {
            Self {}
        }

        pub(crate) fn enter(&self) -> impl Sized {}

        #[cfg(feature = "tokio-comp")]
        pub(crate) fn instrument<F: Future>(&self, future: F) -> F {
            future
        }

        pub(crate) fn end<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
            result
        }
    }
}
