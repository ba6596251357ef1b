//! SCAN over a Redis Cluster: the requests of a [`SlotScan`] as exchanges, and their replies for it.
//!
//! ```text
//! owners   EXISTS probe · CLUSTER GETKEYSINSLOT · EXISTS probe     for each slot, one write for each server
//! targets  the same, each command behind ASKING                    of slots that rest half moved
//! ...
//! types    TYPE of each key                                        only for SCAN with TYPE
//! ```
//!
//! The redirects of all but the last, and of the search for an owner that cannot be reached, are a part of what is asked
//! for, and not followed by the exchange.

use redis::{ServerError, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::command::{Access, BlockingTime};
use crate::error::{Error, ErrorKind, is_temporary_code};
use crate::hash::slot_tag;
use crate::partition::NodeIndex;
use crate::plan::batch::{Batch, NodeRequest, ReplySlot, missing};
use crate::plan::operation::ReplyForm;
use crate::plan::redirects::{ClusterReport, ClusterRouting};
use crate::plan::scan::{
    Probe, ScanLimits, ScanOptions, ScanPage, ScanServer, ServerProcess, SlotCursor, SlotQuestion,
    SlotReply, SlotRequest, SlotScan, SlotScanStep,
};
use crate::plan::{Answers, Exchange, RoutedCommand, Router};
use crate::resp::info_field;
use crate::resp::{write_arg, write_header};
use crate::topology::{HostPort, LivingNodes};

/// What follows the braces of the key of a probe. No program has a key of this name; if one has, the number of the probe
/// is appended.
const PROBE_NAME: &[u8] = b"redis-sharding:scan";

/// A SCAN over a cluster under way.
#[derive(Debug)]
pub(in crate::plan) struct ScanInProgress {
    scan: SlotScan,
    /// The type of keys to return. `None` for all.
    type_name: Option<Vec<u8>>,
    sent: Sent,
}

/// The exchange under way.
#[derive(Debug)]
enum Sent {
    Nothing,
    /// For each of its node requests, what is asked.
    Asked(Vec<Vec<SlotRequest>>),
    /// The probes whose server is looked for.
    Locating(Vec<SlotRequest>),
    /// TYPE of each of these keys.
    Types(ScanPage),
}

/// The next step of a scan.
pub(in crate::plan) enum ScanProgress<R> {
    /// Send this exchange, and pass it on when it is done.
    Send(Exchange<R>),
    /// The reply to SCAN.
    Done(Result<Value, Error>),
}

impl ScanInProgress {
    /// The SCAN with these arguments. If `is_partial`, slots whose owners cannot be reached are left out.
    ///
    /// # Errors
    ///
    /// In the words of a server, for arguments that it would refuse.
    pub(in crate::plan) fn new(
        router: &Router,
        args: &[&[u8]],
        is_partial: bool,
    ) -> Result<Self, Error> {
        let [_, cursor, options @ ..] = args else {
            return Err(SlotCursor::invalid(b""));
        };
        let cursor = SlotCursor::parse(cursor)?;
        let mut options = ScanOptions::parse(options)?;
        let type_name = options.type_name.take();
        let nodes = router.topology().nodes().len();
        Ok(Self {
            scan: SlotScan::new(cursor, options, ScanLimits::CLIENT, nodes, is_partial),
            type_name,
            sent: Sent::Nothing,
        })
    }

    /// Takes the replies of the last exchange, and returns the next one or the result.
    pub(in crate::plan) fn next<R: ReplyForm>(
        &mut self,
        router: &Router,
        done: Exchange<R>,
    ) -> ScanProgress<R> {
        let Some(routing) = router.cluster() else {
            return ScanProgress::Done(Err(missing(None, "cluster")));
        };
        match std::mem::replace(&mut self.sent, Sent::Nothing) {
            Sent::Nothing => {}
            Sent::Asked(asked) => {
                for (requests, (request, answers)) in asked.iter().zip(done.into_parts()) {
                    let host = routing.address_of(&request).map(|at| at.host.clone());
                    let name = request.node_name(router);
                    let mut replies = Replies::new(answers, &name, host.as_deref());
                    for request in requests {
                        self.scan.handle(request.number, replies.next(request));
                    }
                }
            }
            Sent::Locating(requests) => self.located(&requests, router, routing, done),
            Sent::Types(page) => {
                return ScanProgress::Done(self.of_type(page, router, done).map(to_reply));
            }
        }
        match self.scan.poll() {
            SlotScanStep::Ask(requests) => ScanProgress::Send(self.ask(requests, router, routing)),
            SlotScanStep::Done(Ok(page)) if self.type_name.is_some() && !page.keys.is_empty() => {
                let exchange = types(&page, router);
                self.sent = Sent::Types(page);
                ScanProgress::Send(exchange)
            }
            SlotScanStep::Done(page) => ScanProgress::Done(page.map(to_reply)),
        }
    }

    /// The exchange of these requests.
    fn ask<R: ReplyForm>(
        &mut self,
        requests: Vec<SlotRequest>,
        router: &Router,
        routing: &ClusterRouting,
    ) -> Exchange<R> {
        if requests
            .iter()
            .any(|request| request.question == SlotQuestion::Locate)
        {
            let exchange = locate(&requests, router);
            self.sent = Sent::Locating(requests);
            return exchange;
        }
        let mut parts: Vec<(NodeRequest, Vec<SlotRequest>)> = Vec::new();
        for request in requests {
            let owner = routing.owner(request.slot);
            let part = match &request.server {
                ScanServer::Owner => NodeRequest::new(owner),
                ScanServer::Other => NodeRequest::new(routing.node_behind(owner)),
                ScanServer::At(address) => routing.request_to(address, owner, request.is_asking),
            };
            let same = |(other, _): &(NodeRequest, _)| {
                (other.node, other.server()) == (part.node, part.server())
            };
            let at = parts.iter().position(same).unwrap_or_else(|| {
                parts.push((part, Vec::new()));
                parts.len() - 1
            });
            self.write(&request, &mut parts[at].0);
            parts[at].1.push(request);
        }
        let moved = self.scan.take_moved().into_iter();
        let reports = moved
            .map(|(slot, to)| ClusterReport::Moved(slot, to))
            .collect();
        let (parts, asked): (Vec<NodeRequest>, Vec<_>) = parts.into_iter().unzip();
        self.sent = Sent::Asked(asked);
        Exchange::new(parts, BlockingTime::None, LivingNodes::none()).unfollowed(reports)
    }

    /// Appends the commands of a request.
    fn write(&self, request: &SlotRequest, to: &mut NodeRequest) {
        let probe = probe(request);
        let slot = request.slot.to_string();
        let mut push = |args: &[&[u8]]| {
            let slot = ReplySlot::whole(0, Access::Read);
            to.push(slot, |out| write_command(out, args));
        };
        let exists: &[&[u8]] = &[b"EXISTS", &probe];
        match request.question {
            SlotQuestion::Probe | SlotQuestion::Locate => push(exists),
            SlotQuestion::Keys { limit } => {
                let limit = limit.to_string();
                push(exists);
                push(&[
                    b"CLUSTER",
                    b"GETKEYSINSLOT",
                    slot.as_bytes(),
                    limit.as_bytes(),
                ]);
                push(exists);
            }
            SlotQuestion::Page { cursor, count } => {
                let (cursor, count) = (cursor.to_string(), count.to_string());
                let mut scan: Vec<&[u8]> =
                    vec![b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()];
                if let Some(pattern) = self.scan.options().pattern_of_servers() {
                    scan.extend([&b"MATCH"[..], pattern]);
                }
                push(exists);
                push(&[b"INFO", b"server"]);
                push(&scan);
                push(exists);
            }
        }
    }

    /// Passes on which servers have replied to probes.
    fn located<R: ReplyForm>(
        &mut self,
        requests: &[SlotRequest],
        router: &Router,
        routing: &ClusterRouting,
        done: Exchange<R>,
    ) {
        let mut outcomes: Vec<Option<SlotReply>> = requests.iter().map(|_| None).collect();
        // The last occurrence of a request that was redirected counts.
        for (request, answers) in done.into_parts() {
            let name = request.node_name(router);
            let at = routing.address_of(&request).cloned();
            let host = at.as_ref().map(|at| at.host.clone());
            let mut replies = Replies::new(answers, &name, host.as_deref());
            for slot in &request.slots {
                let reply = match (replies.next_probe(), &at) {
                    (Ok(Probe::Absent | Probe::Exists), Some(at)) => SlotReply::Located(at.clone()),
                    (Ok(_), _) => SlotReply::Failed(missing(None, &name)),
                    (Err(unusable), _) => unusable.into(),
                };
                if let Some(outcome) = outcomes.get_mut(slot.command as usize) {
                    *outcome = Some(reply);
                }
            }
        }
        for (request, outcome) in requests.iter().zip(outcomes) {
            let lost =
                || SlotReply::Failed(missing(None, router.name(routing.owner(request.slot))));
            self.scan
                .handle(request.number, outcome.unwrap_or_else(lost));
        }
    }

    /// The keys of a page that have the type. Those that are gone meanwhile have none.
    ///
    /// # Errors
    ///
    /// When the type of some key is not known.
    fn of_type<R: ReplyForm>(
        &self,
        mut page: ScanPage,
        router: &Router,
        done: Exchange<R>,
    ) -> Result<ScanPage, Error> {
        let mut types: Vec<Result<Value, Option<Error>>> =
            page.keys.iter().map(|_| Err(None)).collect();
        for (request, answers) in done.into_parts() {
            let name = request.node_name(router);
            let failure = answers.failure;
            let mut values = answers.values.into_values().into_iter();
            for (number, slot) in request.slots.iter().enumerate() {
                let outcome = values.next().ok_or_else(|| {
                    let failure = failure.as_ref();
                    failure.map(|failure| failure.error(&name, number, slot.access))
                });
                if let Some(place) = types.get_mut(slot.command as usize) {
                    *place = match outcome {
                        Ok(Value::ServerError(error)) => {
                            Err(Some(Error::from_server(&error, Some(&name))))
                        }
                        outcome => outcome,
                    };
                }
            }
        }
        let wanted = self.type_name.as_deref().unwrap_or_default();
        let is_wanted = |value: Value| match value {
            Value::SimpleString(name) => name.as_bytes().eq_ignore_ascii_case(wanted),
            Value::BulkString(name) => name.eq_ignore_ascii_case(wanted),
            _ => false,
        };
        let mut keep = Vec::with_capacity(types.len());
        for outcome in types {
            keep.push(is_wanted(
                outcome.map_err(|error| missing(error, "cluster"))?,
            ));
        }
        let mut keep = keep.into_iter();
        page.keys.retain(|_| keep.next().unwrap_or(false));
        Ok(page)
    }
}

/// The exchange that finds the servers of these slots.
fn locate<R: ReplyForm>(requests: &[SlotRequest], router: &Router) -> Exchange<R> {
    let mut batch = Batch::new(router, 0, 0);
    for request in requests {
        let node = router
            .cluster()
            .map_or(NodeIndex::new(0), |routing| routing.owner(request.slot));
        let mut packed = Vec::new();
        write_command(&mut packed, &[b"EXISTS", &probe(request)]);
        batch.add_at(node, &packed, RoutedCommand::read(node));
    }
    batch.exchange().for_router(router)
}

/// The exchange that asks for the types of the keys of a page.
fn types<R: ReplyForm>(page: &ScanPage, router: &Router) -> Exchange<R> {
    let mut batch = Batch::new(router, 0, 0);
    for key in &page.keys {
        let node = router.topology().locate(key).unwrap_or(NodeIndex::new(0));
        let mut packed = Vec::new();
        write_command(&mut packed, &[b"TYPE", key]);
        batch.add_at(node, &packed, RoutedCommand::read(node));
    }
    batch.exchange().for_router(router)
}

/// A page as the reply to SCAN.
fn to_reply(page: ScanPage) -> Value {
    let cursor = page.next.and_then(SlotCursor::pack).unwrap_or(0);
    let keys = page.keys.into_iter().map(Value::BulkString);
    Value::Array(vec![
        Value::BulkString(cursor.to_string().into_bytes()),
        Value::Array(keys.collect()),
    ])
}

/// The key of a probe.
fn probe(request: &SlotRequest) -> Vec<u8> {
    let tag = slot_tag(request.slot);
    let mut key = [b"{", &tag[..], b"}", PROBE_NAME].concat();
    if request.probe > 0 {
        key.extend_from_slice(format!(":{}", request.probe).as_bytes());
    }
    key
}

/// Appends a command in the wire format.
fn write_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    write_header(out, args.len());
    args.iter().for_each(|arg| write_arg(out, arg));
}

/// Why there is no reply to make use of.
enum Unusable {
    /// There is none, or one that passes by itself.
    Failed(Error),
    /// The server refuses what was asked.
    Refused(Error),
}

impl From<Unusable> for SlotReply {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Failed(error) => Self::Failed(error),
            Unusable::Refused(error) => Self::Refused(error),
        }
    }
}

/// The replies of one server, one after another.
struct Replies<'n> {
    values: std::vec::IntoIter<Value>,
    /// The error in the place of those that are missing.
    failure: Option<Error>,
    name: &'n str,
    /// The host of the server, which a redirect without a host means.
    host: Option<&'n str>,
}

impl<'n> Replies<'n> {
    fn new<R: ReplyForm>(answers: Answers<R>, name: &'n str, host: Option<&'n str>) -> Self {
        let count = answers.values.count();
        let failure = answers.failure;
        Self {
            values: answers.values.into_values().into_iter(),
            failure: failure.map(|failure| failure.error(name, count, Access::Read)),
            name,
            host,
        }
    }

    /// The reply to the next request.
    fn next(&mut self, request: &SlotRequest) -> SlotReply {
        let reply = match request.question {
            SlotQuestion::Probe | SlotQuestion::Locate => self.next_probe().map(SlotReply::Probe),
            SlotQuestion::Keys { .. } => self.next_keys(),
            SlotQuestion::Page { .. } => self.next_page(),
        };
        reply.unwrap_or_else(SlotReply::from)
    }

    fn next_keys(&mut self) -> Result<SlotReply, Unusable> {
        // All are taken, so that the next request finds its own.
        let (before, keys, after) = (self.next_probe(), self.next_value(), self.next_probe());
        Ok(SlotReply::Keys {
            before: before?,
            after: after?,
            keys: self.keys(keys?)?,
        })
    }

    fn next_page(&mut self) -> Result<SlotReply, Unusable> {
        let (before, info) = (self.next_probe(), self.next_value());
        let (page, after) = (self.next_value(), self.next_probe());
        let (before, after) = (before?, after?);
        let server = server_process(&info?).ok_or_else(|| self.unreadable("INFO"))?;
        let Value::Array(items) = page? else {
            return Err(self.unreadable("SCAN"));
        };
        let Ok([cursor, keys]) = <[Value; 2]>::try_from(items) else {
            return Err(self.unreadable("SCAN"));
        };
        let cursor = redis::from_redis_value(cursor).map_err(|_| self.unreadable("SCAN"))?;
        Ok(SlotReply::Page {
            before,
            server,
            cursor,
            keys: self.keys(keys)?,
            after,
        })
    }

    /// The next reply to a probe.
    fn next_probe(&mut self) -> Result<Probe, Unusable> {
        match self.next_raw()? {
            Value::Int(0) => Ok(Probe::Absent),
            Value::Int(_) => Ok(Probe::Exists),
            Value::ServerError(error) => self.redirect(&error),
            _ => Err(self.unreadable("EXISTS")),
        }
    }

    /// The next reply, which is no error.
    fn next_value(&mut self) -> Result<Value, Unusable> {
        match self.next_raw()? {
            Value::ServerError(error) => Err(self.refused(&error)),
            value => Ok(value),
        }
    }

    fn next_raw(&mut self) -> Result<Value, Unusable> {
        self.values
            .next()
            .ok_or_else(|| Unusable::Failed(missing(self.failure.clone(), self.name)))
    }

    /// The redirect in reply to a probe.
    fn redirect(&self, error: &ServerError) -> Result<Probe, Unusable> {
        let to = || -> Option<HostPort> {
            let text = error.details()?.as_bytes();
            let (_, to) =
                crate::plan::redirects::parse_redirect(text, || self.host.map(str::to_owned))?;
            Some(to)
        };
        match (error.code(), to()) {
            ("MOVED", Some(to)) => Ok(Probe::Moved(to)),
            ("ASK", Some(to)) => Ok(Probe::Ask(to)),
            _ => Err(self.refused(error)),
        }
    }

    fn refused(&self, error: &ServerError) -> Unusable {
        let refusal = Error::from_server(error, Some(self.name));
        match is_temporary_code(error.code().as_bytes()) {
            true => Unusable::Failed(refusal),
            false => Unusable::Refused(refusal),
        }
    }

    /// The keys of a list.
    fn keys(&self, list: Value) -> Result<Vec<Vec<u8>>, Unusable> {
        let Value::Array(items) = list else {
            return Err(self.unreadable("SCAN"));
        };
        let key = |item| match item {
            Value::BulkString(key) => Ok(key),
            _ => Err(self.unreadable("SCAN")),
        };
        items.into_iter().map(key).collect()
    }

    /// For a reply that is not that of a server of a cluster.
    fn unreadable(&self, command: &str) -> Unusable {
        let text = format!(
            "node {}: the reply to {command}, which was sent for SCAN, is not that of a Redis Cluster server",
            self.name
        );
        Unusable::Refused(Error::new(ErrorKind::Redis, text).at_node(self.name))
    }
}

/// The process that has replied so to INFO.
fn server_process(info: &Value) -> Option<ServerProcess> {
    let text: String = redis::from_redis_value_ref(info).ok()?;
    let field = |name: &str| info_field(&text, name);
    let version = |text: &str| -> Option<(u16, u16)> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    // Valkey 7.2 has `server_name` and `valkey_version` as well, but no such cursors.
    let has_slot_cursors = match field("valkey_version").and_then(version) {
        Some(version) => version >= (8, 0),
        None => version(field("redis_version")?)? >= (7, 4),
    };
    Some(ServerProcess {
        id: xxh3_64(field("run_id")?.as_bytes()),
        has_slot_cursors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_with_cursors_of_single_slots_are_known_by_their_versions() {
        for (text, expected) in [
            ("redis_version:7.0.15\r\nrun_id:abc\r\n", Some(false)),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\nrun_id:abc\r\n",
                Some(true),
            ),
            (
                "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.8\r\nrun_id:abc\r\n",
                Some(false),
            ),
            (
                "# Server\r\nredis_version:8.2.3\r\nrun_id:abc\r\n",
                Some(true),
            ),
            ("redis_version:7.4.0\r\nrun_id:abc\r\n", Some(true)),
            ("redis_version:7.4.0\r\n", None),
            ("", None),
        ] {
            let process = server_process(&Value::BulkString(text.into()));
            assert_eq!(
                process.map(|process| process.has_slot_cursors),
                expected,
                "{text}"
            );
        }
    }
}
