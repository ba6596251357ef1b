//! The exclusive connection of WATCH: how it is taken, what is sent over it, and whether its watch still holds.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::aio::exclusive_pool::Lease;
use crate::aio::{LeaseOfServer, Shared};
use crate::endpoint::Endpoint;
use crate::observe::Stopwatch;
use crate::partition::NodeIndex;
use crate::plan::{
    Answers, AttemptKind, Cause, ExpectedEnd, Failure, MOVING_PAUSE, NodeRequest, RawReplies,
    RequestOutcome, ServerOf,
};
use crate::proxy::net::connection::ClientConnection;
use crate::topology::NodeRef;

/// An exclusive connection, and the server that it leads to.
pub(super) struct LeasedConnection {
    pub(super) lease: Lease,
    server: LeasedServer,
}

/// The server of an exclusive connection.
enum LeasedServer {
    /// A node, and how it was reached.
    Node(NodeRef, Arc<Endpoint>),
    /// A server of a Redis Cluster.
    OfCluster {
        /// How it was found.
        server: ServerOf,
        /// How it was reached.
        endpoint: Arc<Endpoint>,
        /// How the owner of the watched keys was reached. Another one while their slot moves.
        owner: Arc<Endpoint>,
    },
}

impl LeasedConnection {
    /// The requests as they are sent to the server.
    fn request(&self, packed: &[u8], replies: usize, ending: ExpectedEnd) -> NodeRequest {
        let server = match &self.server {
            LeasedServer::Node(..) => ServerOf::node(NodeIndex::new(0)),
            LeasedServer::OfCluster { server, .. } => server.clone(),
        };
        NodeRequest::over_lease(server, packed, replies, ending)
    }

    /// The epoch of the record that the placement follows at the server.
    fn epoch(&self, shared: &Shared) -> u64 {
        match &self.server {
            LeasedServer::Node(node, _) => {
                let node = shared.router.locate_node(node).ok();
                node.map_or(0, |node| shared.executor.epoch(node))
            }
            LeasedServer::OfCluster { .. } => 0,
        }
    }

    /// Why requests must not be sent: one of their keys is not at the node any more, or is about to leave it.
    fn refusal(&self, shared: &Shared, packed: &[u8]) -> Option<Cause> {
        match &self.server {
            LeasedServer::Node(node, _) => {
                let node = shared.router.locate_node(node).ok()?;
                shared.router.refuses_at(packed, node)
            }
            LeasedServer::OfCluster { .. } => None,
        }
    }

    /// True if the server still owns the watched keys, as far as is known. In a cluster also while it is about to get them.
    fn leads_to_owner(&self, shared: &Shared, watched: Option<&[u8]>) -> bool {
        match (&self.server, watched) {
            (LeasedServer::Node(node, endpoint), _) => shared.leads_to(node, endpoint),
            (LeasedServer::OfCluster { .. }, None) => true,
            (
                LeasedServer::OfCluster {
                    endpoint, owner, ..
                },
                Some(key),
            ) => shared.router.owner(key).is_ok_and(|node| {
                let now = shared.executor.endpoint(node);
                Arc::ptr_eq(now, endpoint) || Arc::ptr_eq(now, owner)
            }),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ClientConnection<'_, S> {
    /// Takes notice of a topology in which watched keys, or those of a transaction, live elsewhere.
    pub(super) fn check_placement(&mut self, shared: &Shared) {
        // The transaction of a cluster goes where its slot is then.
        let is_moved = self.placed_by.as_ref().is_some_and(|former| {
            !shared.router.is_cluster() && !former.places_like(shared.router.topology())
        });
        if is_moved {
            self.session.keys_moved();
            self.lose_lease();
            self.placed_by = None;
        }
        let watched = self.session.watched_key();
        if let Some(leased) = &self.lease
            && !leased.leads_to_owner(shared, watched)
        {
            self.session.watch_failed();
            self.lose_lease();
        }
    }

    /// Closes the exclusive connection, if there is one. The session must know: the next WATCH takes another one.
    fn lose_lease(&mut self) {
        self.session.end_lease();
        self.lease = None;
    }

    /// Takes an exclusive connection and keeps it.
    pub(super) async fn lease(&mut self, node: NodeIndex) -> Result<(), Cause> {
        let mut shared = self.shared();
        let deadline = self.deadline(&shared);
        let lease = loop {
            match shared.executor.lease(node, deadline).await {
                // The epoch of the record was not known yet. If keys have moved since, the node may be another one.
                Err(Cause::Superseded) if !deadline.is_over() => {
                    tokio::time::sleep(MOVING_PAUSE).await;
                    let newest = self.proxy.snapshot(self.session.protocol());
                    if !shared
                        .router
                        .topology()
                        .places_like(newest.router.topology())
                    {
                        return Err(Cause::Superseded);
                    }
                    shared = newest;
                }
                lease => break lease?,
            }
        };
        let endpoint = Arc::clone(shared.executor.endpoint(node));
        self.lease = Some(LeasedConnection {
            lease,
            server: LeasedServer::Node(shared.router.node_ref(node), endpoint),
        });
        // What is sent over the connection is checked by the snapshot whose record it has presented.
        self.current = Some((self.session.protocol(), shared));
        Ok(())
    }

    /// Sends the first WATCH over an exclusive connection, which is kept: to the server that serves its keys. Returns its
    /// name, and the reply.
    pub(super) async fn lease_in_cluster(
        &mut self,
        node: NodeIndex,
        packed: Vec<u8>,
    ) -> io::Result<(String, Answers<RawReplies>)> {
        let shared = self.shared();
        let held = self.proxy.registry.pause_time();
        let owner = Arc::clone(shared.executor.endpoint(node));
        let mut requests = shared.router.watch_exchange(node, packed, held);
        let meter = self.meter();
        requests.set_meter(|| Arc::clone(&meter));
        let mut taken: Option<LeaseOfServer> = None;
        let deadline = shared.executor.begin_all(&mut requests);
        while let Some(pause) = shared
            .executor
            .exchange_on_lease(&mut requests, &mut taken, deadline)
            .await
        {
            if Box::pin(self.io.pause(pause, &self.session)).await? {
                requests.stop();
            }
        }
        let Some((request, answers)) = requests.into_last() else {
            return Ok((String::new(), Answers::default()));
        };
        let name = request.node_name(&shared.router).into_owned();
        self.lease = taken.map(|(lease, endpoint)| LeasedConnection {
            lease,
            server: LeasedServer::OfCluster {
                server: request.into_server(),
                endpoint,
                owner,
            },
        });
        Ok((name, answers))
    }

    /// Sends requests on the exclusive connection.
    pub(super) async fn send_on_lease(
        &mut self,
        packed: &[u8],
        replies: usize,
        expected_end: ExpectedEnd,
    ) -> Answers<RawReplies> {
        let shared = self.shared();
        let deadline = self.deadline(&shared);
        let replies_so_far = RawReplies::with_meter(Some(self.meter()));
        // Unreachable while session and connection agree. Without replies the action reports a failed watch.
        let Some(leased) = &self.lease else {
            return Answers::default();
        };
        if let Some(cause) = leased.refusal(&shared, packed) {
            let replies = RawReplies::with_meter(Some(self.meter()));
            let failure = Some(Box::new(Failure::not_sent(cause)));
            return Answers {
                values: replies,
                failure,
            };
        }
        let mut request = leased.request(packed, replies, expected_end);
        if shared.executor.follows_records() {
            request.keep_record();
        }
        let sent = request.for_sending();
        let sent = sent.as_ref().unwrap_or(&request);
        let observer = Arc::clone(leased.lease.observer());
        observer.started(AttemptKind::First);
        let stopwatch = Stopwatch::since(self.proxy.registry.pause_time(), deadline.start);
        let connection = &leased.lease.connection;
        let mut answers = connection
            .exchange_into(
                (&sent.packed, leased.epoch(&shared)),
                sent.slots.len(),
                expected_end,
                deadline,
                replies_so_far,
            )
            .await;
        request.drop_asking(&mut answers);
        observer.finished(stopwatch, || RequestOutcome::of_answers(&answers, &[]));
        answers
    }

    /// True if a server of a cluster has discarded the transaction because it does not serve the slot of its keys.
    pub(super) fn is_discarded_by_cluster(
        &self,
        shared: &Shared,
        (packed, replies): (&[u8], usize),
        answers: &Answers<RawReplies>,
    ) -> bool {
        let Some(leased) = &self.lease else {
            return false;
        };
        let request = leased.request(packed, replies, ExpectedEnd::Exec);
        let reports = shared.router.after_discarded(&request, answers);
        let is_discarded = reports.is_some();
        shared.executor.report(reports.unwrap_or_default());
        is_discarded
    }
}
