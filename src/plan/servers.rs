//! The servers of one node, asked one after another: the primary and its replicas.
//!
//! [`ReadFrom::order`](crate::ReadFrom) gives the order; [`ServerQueue`] says after each attempt whether the same server,
//! the next one, or none is asked. The requests are reads, so any of them may be repeated, and each server is sent all of
//! them: their replies come from one server.
//!
//! ```text
//! order: replica 2, primary          attempt      reply                        next
//! GET a, GET b                       replica 2    the connection broke         replica 2, new connection
//!                                    replica 2    connection refused           primary
//!                                    primary      1, 2                         none
//! ```
//!
//! In a cluster a replica is not believed if it lacks a key: see [`doubt`](crate::plan::doubt).
//!
//! What becomes of a failure at the last server is decided as for a node without replicas (`retries`).

use crate::command::{BlockingTime, CommandSpec};
use crate::error::is_temporary_code;
use crate::plan::batch::NodeRequest;
use crate::plan::doubt::shows_missing_keys;
use crate::plan::{Answers, Cause, ReadsAs, ReplyBuffer, Router};
use crate::policy::{Target, TargetOrder};

/// The error code of a replica that lacks a script: EVAL and SCRIPT LOAD are not replicated.
const NO_SCRIPT: &[u8] = b"NOSCRIPT";

/// The servers that are left for one node's requests. The first is the one being asked.
#[derive(Clone, Debug)]
pub(in crate::plan) struct ServerQueue {
    order: TargetOrder,
    /// Number of the current server within `order`.
    current: usize,
    /// True if the requests were sent to the current server twice, because the first connection broke.
    was_resent: bool,
    /// True until the current server has been asked.
    is_new: bool,
}

impl Router {
    /// Sets whether reads by key may go to replicas of their nodes. Defaults to false.
    pub(crate) fn with_replica_reads(mut self, replica_reads: bool) -> Self {
        self.replica_reads = replica_reads;
        self
    }

    /// The router of a handle while it watches keys, if it is another one: neither a miss that stands for a node out
    /// of reach nor the old value of a replica must decide what EXEC writes.
    pub(crate) fn while_watching(&self) -> Option<Self> {
        (self.missing_nodes() != ReadsAs::Error || self.replica_reads).then(|| {
            self.clone()
                .with_missing_nodes(ReadsAs::Error)
                .with_replica_reads(false)
        })
    }

    /// True if a replica of its node may serve a command that the server may hold back for `blocking`. One that
    /// blocks waits for a write, of which the primary knows first.
    #[inline]
    pub(in crate::plan) fn may_use_replica(
        &self,
        command: &CommandSpec,
        blocking: BlockingTime,
    ) -> bool {
        self.replica_reads
            && blocking == BlockingTime::None
            && command.may_use_replica()
            && (self.cluster().is_none() || shows_missing_keys(command))
    }
}

impl ServerQueue {
    /// A queue that begins with the first server of `order`.
    pub(in crate::plan) fn new(order: TargetOrder) -> Self {
        Self {
            order,
            current: 0,
            was_resent: false,
            is_new: true,
        }
    }

    /// The server to ask now.
    pub(in crate::plan) fn current(&self) -> Target {
        self.order.get(self.current).copied().unwrap_or_default()
    }

    /// The server to ask after the current one.
    pub(in crate::plan) fn next(&self) -> Option<Target> {
        self.order.get(self.current + 1).copied()
    }

    /// True if the primary is one of the servers.
    pub(in crate::plan) fn has_primary(&self) -> bool {
        self.order.contains(&Target::Primary)
    }

    /// Number of servers that can be asked, the current one included.
    pub(in crate::plan) fn left(&self) -> u32 {
        // At most as many as replicas, of which there are few.
        (self.order.len() - self.current.min(self.order.len())) as u32
    }

    /// True until the current server has been asked.
    pub(in crate::plan) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Turns to the primary, behind which no other server is asked.
    pub(in crate::plan) fn turn_to_primary(&mut self) -> Target {
        self.order.truncate(self.current + 1);
        self.order.push(Target::Primary);
        self.advance();
        Target::Primary
    }

    /// Turns to the next server.
    pub(in crate::plan) fn advance(&mut self) {
        self.current += 1;
        self.was_resent = false;
        self.is_new = true;
    }

    /// The server to ask after these replies of the current one, which may be the current one again if `resends`;
    /// `None` if the replies are final, or nobody else is left.
    pub(in crate::plan) fn after<R: ReplyBuffer>(
        &mut self,
        request: &NodeRequest,
        answers: &Answers<R>,
        resends: bool,
    ) -> Option<Target> {
        self.is_new = false;
        let next = self.next()?;
        match &answers.failure {
            Some(failure) => {
                // A connection that was closed while it was idle says little about the server.
                let is_broken = matches!(failure.cause, Cause::Dropped(_));
                if is_broken && resends && !self.was_resent {
                    self.was_resent = true;
                    return Some(self.current());
                }
            }
            None => {
                let codes = (0..answers.values.count())
                    .filter_map(|number| answers.values.error_code(number));
                let is_replica = self.current() != Target::Primary;
                let is_refusal = |code: &[u8]| {
                    is_temporary_code(code)
                        || is_replica && code == NO_SCRIPT && !request.repairs_noscript
                };
                codes.into_iter().find(|code| is_refusal(code))?;
            }
        }
        self.advance();
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use redis::Value;

    use super::*;
    use crate::command::{Access, BlockingTime, CommandTable};
    use crate::error::server_error;
    use crate::partition::{NodeIndex, NodeSpec, Rendezvous};
    use crate::plan::batch::ReplySlot;
    use crate::plan::request::PlannedPipeline;
    use crate::plan::{
        Exchange, ExchangeStep, Failure, PipelineKind, Router, ScriptCache, SplitWrites,
    };
    use crate::policy::{Candidate, ReadFrom, ReplicaId, RequestOptions, RetryPolicy, Unusable};
    use crate::topology::{LivingNodes, Topology};

    const REPLICA: Target = Target::Replica(ReplicaId(7));

    fn request() -> NodeRequest {
        let slot = ReplySlot::whole(0, Access::Read);
        NodeRequest::single(NodeIndex::new(0), b"*1\r\n$4\r\nPING\r\n".to_vec(), slot)
    }

    fn queue(order: &[Target]) -> ServerQueue {
        ServerQueue::new(order.iter().copied().collect())
    }

    fn failed(cause: Cause) -> Answers {
        Answers::failed(Failure { cause, sent: 1 })
    }

    fn refused(code: &str) -> Answers {
        Answers {
            values: vec![Value::Nil, Value::ServerError(server_error(code, "no"))],
            failure: None,
        }
    }

    fn router() -> Router {
        let nodes = vec![NodeSpec::new("a", "a:1"), NodeSpec::new("b", "b:1")];
        let topology = Topology::new(nodes, Arc::new(Rendezvous::default())).unwrap();
        Router::new(
            Arc::new(topology),
            std::borrow::Cow::Borrowed(CommandTable::built_in()),
            SplitWrites::Allowed,
        )
        .with_replica_reads(true)
    }

    fn words(request: &str) -> Vec<&[u8]> {
        request.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn only_reads_by_key_that_neither_block_nor_depend_on_the_server_may_use_a_replica() {
        let router = router();
        let may = |request: &str| {
            let routed = router.route(&words(request), &ScriptCache::empty);
            routed.unwrap().may_use_replica
        };
        for request in [
            "GET k",
            "MGET k l m n",
            "EXISTS k",
            "HGETALL k",
            "SRANDMEMBER k",
            "XREAD STREAMS s 0",
            "EVAL_RO x 1 k",
            "EVALSHA_RO x 1 k",
            "FCALL_RO f 1 k",
            "SORT_RO k",
            "TTL k",
        ] {
            assert!(may(request), "{request}");
        }
        for request in [
            "SET k v",
            "GETEX k",
            "GETDEL k",
            "PFCOUNT k",
            "EVAL x 1 k",
            "FCALL f 1 k",
            "SORT k",
            "XREAD BLOCK 9 STREAMS s 0",
            "BLPOP k 1",
            "HSCAN k 0",
            "SSCAN k 0",
            "ZSCAN k 0",
            "SCAN 0",
            "TOUCH k",
            "OBJECT FREQ k",
            "OBJECT IDLETIME k",
            "OBJECT ENCODING k",
            "MEMORY USAGE k",
            "DEBUG OBJECT k",
            "XINFO CONSUMERS k g",
            "DBSIZE",
            "KEYS *",
            "PING",
            "TIME",
            "WAIT 1 0",
            "INFO",
        ] {
            assert!(!may(request), "{request}");
        }
        let node = NodeIndex::new(0);
        let get = words("GET k");
        assert!(router.route_at(node, &get).unwrap().may_use_replica);
        let scan = words("HSCAN k 0");
        assert!(!router.route_at(node, &scan).unwrap().may_use_replica);
        // Dedicated connections, handles that watch keys, and clients without replicas.
        let owner = router.owner(b"k").unwrap();
        let private = router.route_private(owner, &get, None).unwrap();
        assert!(!private.may_use_replica);
        for router in [
            router.while_watching().unwrap(),
            router.clone().with_replica_reads(false),
        ] {
            let routed = router.route(&get, &ScriptCache::empty).unwrap();
            assert!(!routed.may_use_replica);
        }
    }

    #[test]
    fn pipeline_reads_from_replicas_at_the_nodes_to_which_it_sends_such_reads_only() {
        let router = router();
        // Keys of either node.
        let key_of = |node: u16| {
            let keys = (0..).map(|number| format!("k{number}"));
            let owned =
                |key: &String| router.owner(key.as_bytes()).unwrap() == NodeIndex::new(node);
            keys.into_iter().find(owned).unwrap()
        };
        let (a, b) = (key_of(0), key_of(1));
        let may = |requests: &[String]| {
            let packed: Vec<u8> = requests
                .iter()
                .flat_map(|request| {
                    let args: Vec<Vec<u8>> =
                        words(request).iter().map(|arg| arg.to_vec()).collect();
                    redis::pack_command(&args)
                })
                .collect();
            let planned =
                router.route_pipeline(&packed, PipelineKind::Plain, &ScriptCache::empty, 0);
            let Ok(PlannedPipeline::Batch { mut batch, .. }) = planned else {
                panic!("a batch");
            };
            let exchange: Exchange = batch.exchange();
            let attempts = exchange.attempts();
            attempts
                .map(|attempt| attempt.request.may_use_replica)
                .collect::<Vec<_>>()
        };
        let get = |key: &str| format!("GET {key}");
        assert_eq!(
            may(&[get(&a), get(&b), format!("MGET {a} {b}")]),
            [true, true]
        );
        assert_eq!(
            may(&[get(&a), get(&b), format!("SET {b} 1")]),
            [true, false]
        );
        assert_eq!(
            may(&[format!("SET {a} 1"), get(&a), get(&b)]),
            [false, true]
        );
        assert_eq!(may(&[get(&a), get(&b), "DBSIZE".into()]), [false, false]);
        assert_eq!(may(&[get(&b), format!("HSCAN {b} 0")]), [false]);
    }

    /// The candidates of a node with one usable replica.
    fn candidates() -> [Candidate<'static>; 2] {
        let primary = Candidate {
            target: Target::Primary,
            address: "p:1",
            usable: Ok(()),
            latency: None,
            is_down: false,
        };
        let replica = Candidate {
            target: REPLICA,
            address: "r:1",
            ..primary
        };
        [primary, replica]
    }

    /// Sends GET under `read_from`, and returns the servers that were asked, with the replies that they gave.
    fn asked(
        read_from: ReadFrom,
        candidates: &[Candidate<'_>],
        mut replies: Vec<Answers>,
    ) -> (Vec<Target>, Answers) {
        let mut request = request();
        request.may_use_replica = true;
        let mut exchange = Exchange::new([request], BlockingTime::None, LivingNodes::none());
        let options = RequestOptions {
            response_timeout: None,
            blocking_timeout: None,
            retry: RetryPolicy::READS,
            usual_timeout: None,
            read_from,
            hedge_after: None,
        };
        let now = Instant::now();
        exchange.begin(now, &options, 0);
        let mut asked = Vec::new();
        while exchange.poll(now) == ExchangeStep::Send {
            for node in exchange.nodes_mut() {
                if node.needs_server(&options).is_some() {
                    node.choose_server(&options, candidates, 0);
                }
            }
            asked.extend(exchange.attempts().map(|attempt| attempt.request.target));
            let answers = exchange.attempts().map(|_| replies.remove(0));
            let answers = answers.collect();
            exchange.handle(answers);
        }
        assert!(replies.is_empty(), "not asked for: {replies:?}");
        (asked, exchange.into_last().unwrap().1)
    }

    fn value() -> Answers {
        Answers {
            values: vec![Value::Okay],
            failure: None,
        }
    }

    #[test]
    fn read_is_sent_to_one_server_after_another_until_one_replies() {
        let both = candidates();
        let down = || failed(Cause::Connect("refused".into()));
        let (servers, answers) = asked(ReadFrom::PreferReplica, &both, vec![value()]);
        assert_eq!(servers, [REPLICA]);
        assert_eq!(answers.values, [Value::Okay]);
        let (servers, answers) = asked(ReadFrom::PreferReplica, &both, vec![down(), value()]);
        assert_eq!(servers, [REPLICA, Target::Primary]);
        assert!(answers.failure.is_none() && answers.values == [Value::Okay]);
        let refused = refused("LOADING");
        let (servers, answers) = asked(ReadFrom::PreferPrimary, &both, vec![refused, value()]);
        assert_eq!(servers, [Target::Primary, REPLICA]);
        assert_eq!(answers.values, [Value::Okay], "the refusal is gone");
        let (servers, answers) = asked(ReadFrom::Replica, &both, vec![down()]);
        assert_eq!(servers, [REPLICA]);
        assert!(answers.failure.is_some());
        let (servers, _) = asked(ReadFrom::Primary, &both, vec![value()]);
        assert_eq!(servers, [Target::Primary]);
    }

    #[test]
    fn read_from_replica_without_a_usable_one_fails_and_names_the_reasons() {
        let mut servers = candidates();
        servers[1].usable = Err(Unusable::LinkBroken);
        let (asked, answers) = asked(ReadFrom::Replica, &servers, Vec::new());
        assert_eq!(asked, []);
        let error = answers.failure.unwrap().error("users-a", 0, Access::Read);
        assert_eq!(error.kind(), crate::ErrorKind::NodeDown);
        let text = error.to_string();
        assert!(
            text.starts_with(
                "node users-a: no connection: no replica can be read: r:1 has lost its link"
            ),
            "{text}"
        );
    }

    #[test]
    fn each_failure_or_refusal_of_a_replica_leads_to_the_next_server() {
        for answers in [
            failed(Cause::Connect("refused".into())),
            failed(Cause::no_reply()),
            refused("LOADING"),
            refused("MASTERDOWN"),
            refused("BUSY"),
            refused("NOSCRIPT"),
        ] {
            let mut queue = queue(&[REPLICA, Target::Primary]);
            let next = queue.after(&request(), &answers, true);
            assert_eq!(next, Some(Target::Primary), "{answers:?}");
            let last = queue.after(&request(), &answers, true);
            assert_eq!(last, None, "{answers:?}");
        }
    }

    #[test]
    fn replies_of_a_replica_are_final_unless_one_refuses_for_the_time_being() {
        let answers = Answers {
            values: vec![Value::Nil],
            failure: None,
        };
        for answers in [answers, refused("WRONGTYPE"), refused("NOPERM")] {
            let mut queue = queue(&[REPLICA, Target::Primary]);
            assert_eq!(queue.after(&request(), &answers, true), None);
            assert_eq!(queue.current(), REPLICA);
        }
    }

    #[test]
    fn noscript_of_the_primary_or_of_a_replica_that_is_repaired_is_final() {
        let mut from_primary = queue(&[Target::Primary, REPLICA]);
        let answers = refused("NOSCRIPT");
        assert_eq!(from_primary.after(&request(), &answers, true), None);
        let mut repaired = request();
        repaired.repairs_noscript = true;
        let mut from_replica = queue(&[REPLICA, Target::Primary]);
        assert_eq!(from_replica.after(&repaired, &answers, true), None);
    }

    #[test]
    fn broken_connection_is_replaced_once_before_the_next_server_is_asked() {
        let broken = failed(Cause::Dropped("gone".into()));
        let mut queue = queue(&[REPLICA, Target::Primary]);
        let asked: Vec<Target> =
            std::iter::from_fn(|| queue.after(&request(), &broken, true)).collect();
        assert_eq!(asked, [REPLICA, Target::Primary]);
        let mut queue = self::queue(&[REPLICA, Target::Primary]);
        assert_eq!(
            queue.after(&request(), &broken, false),
            Some(Target::Primary),
            "a policy without resends"
        );
    }
}
