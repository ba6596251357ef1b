//! What programs are told that ask for a Redis Cluster: [`ClusterMode`].
//!
//! A proxy is one server for its clients, whatever is behind it. Programs with a client for one server need
//! [`Disabled`](ClusterMode::Disabled), also if the nodes are those of a cluster: INFO must not say otherwise. Clients for
//! Redis Cluster ask for the map first, and connect to nothing that has none. For those there is
//! [`Emulated`](ClusterMode::Emulated): the map names the proxy as the only node, the owner of all slots.

use std::fmt::Write;

use crate::command::{CommandSpec, Route};
use crate::hash::{HashTag, SLOTS, slot};
use crate::proxy::client_info::ClientInfo;
use crate::proxy::refusal::{Refusal, not_here};
use crate::resp::{Protocol, write_bulk, write_int, write_line, write_status};

/// What a proxy tells programs that ask for a Redis Cluster, whether or not its nodes are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClusterMode {
    /// It looks like one server without cluster support: CLUSTER, READONLY, READWRITE and ASKING are refused, and INFO
    /// has `cluster_enabled:0`.
    #[default]
    Disabled,
    /// It looks like a Redis Cluster of one node, itself, that owns all slots, so that clients for Redis Cluster can use
    /// it: CLUSTER SLOTS, SHARDS, NODES, INFO, MYID, KEYSLOT and the like are answered, READONLY, READWRITE and ASKING are
    /// accepted, and INFO has `cluster_enabled:1`.
    Emulated,
}

/// The only node of an emulated cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct EmulatedNode {
    pub(crate) mode: ClusterMode,
    /// 40 hexadecimal digits.
    pub(crate) id: String,
    /// Host and port at which clients reach it. `None` for the address that a client has connected to.
    pub(crate) announced: Option<(String, u16)>,
}

/// What becomes of a command about the cluster.
pub(super) enum ClusterReply {
    /// Its reply was written.
    Written,
    /// The nodes reply.
    Forward,
}

/// Host, if it is known, and port of the node, as one client is told.
struct Address {
    host: Option<String>,
    port: u16,
}

/// The port that is named if it is not known: clients that cannot be told another host use it with their own.
const DEFAULT_PORT: u16 = 6379;

impl EmulatedNode {
    /// True if the proxy looks like a cluster.
    pub(super) fn is_shown(&self) -> bool {
        self.mode == ClusterMode::Emulated
    }

    /// Runs a command that a server carries out only as a part of a cluster. `in_cluster` is true if the nodes are those of
    /// one.
    pub(super) fn run(
        &self,
        command: &CommandSpec,
        args: &[&[u8]],
        client: &ClientInfo,
        in_cluster: bool,
        out: &mut Vec<u8>,
    ) -> Result<ClusterReply, Refusal> {
        if !self.is_shown() {
            return Err(Refusal::new("This instance has cluster support disabled"));
        }
        let protocol = client.protocol;
        let first = args.get(2).copied().unwrap_or_default();
        match command.name() {
            // Every key is served on every connection.
            "ASKING" | "READONLY" | "READWRITE" => write_status(out, "OK"),
            "CLUSTER|COUNT-FAILURE-REPORTS" => {
                self.check_id(first)?;
                write_int(out, 0);
            }
            "CLUSTER|INFO" => protocol.write_text(out, &info()),
            "CLUSTER|KEYSLOT" => write_int(out, slot(HashTag::Braces.of(first)).into()),
            "CLUSTER|LINKS" => write_line(out, b'*', 0),
            "CLUSTER|MYID" | "CLUSTER|MYSHARDID" => write_bulk(out, self.id.as_bytes()),
            "CLUSTER|NODES" => protocol.write_text(out, &self.nodes(client)),
            "CLUSTER|REPLICAS" | "CLUSTER|SLAVES" => {
                self.check_id(first)?;
                write_line(out, b'*', 0);
            }
            "CLUSTER|SHARDS" => self.write_shards(client, out),
            "CLUSTER|SLOTS" => self.write_slots(client, out),
            "CLUSTER|COUNTKEYSINSLOT" | "CLUSTER|GETKEYSINSLOT" if in_cluster => {
                debug_assert!(matches!(command.route(), Route::Slot { .. }));
                return Ok(ClusterReply::Forward);
            }
            _ => return Err(not_here(command)),
        }
        Ok(ClusterReply::Written)
    }

    /// Checks that an argument names this node.
    fn check_id(&self, id: &[u8]) -> Result<(), Refusal> {
        match id == self.id.as_bytes() {
            true => Ok(()),
            false => Err(Refusal::quoting("Unknown node ", id, "")),
        }
    }

    fn address(&self, client: &ClientInfo) -> Address {
        if let Some((host, port)) = &self.announced {
            return Address {
                host: Some(host.clone()),
                port: *port,
            };
        }
        let local = split_address(&client.local_address);
        Address {
            host: local.map(|(host, _)| host.to_owned()),
            port: local.map_or(DEFAULT_PORT, |(_, port)| port),
        }
    }

    fn nodes(&self, client: &ClientInfo) -> String {
        let Address { host, port } = self.address(client);
        let host = host.unwrap_or_default();
        let (id, last) = (&self.id, SLOTS - 1);
        format!("{id} {host}:{port}@0 myself,master - 0 0 1 connected 0-{last}\n")
    }

    fn write_slots(&self, client: &ClientInfo, out: &mut Vec<u8>) {
        let address = self.address(client);
        write_line(out, b'*', 1);
        write_line(out, b'*', 3);
        write_int(out, 0);
        write_int(out, i64::from(SLOTS) - 1);
        write_line(out, b'*', 4);
        match address.host {
            Some(host) => write_bulk(out, host.as_bytes()),
            // The host that the client has connected to.
            None => client.protocol.write_nil(out),
        }
        write_int(out, address.port.into());
        write_bulk(out, self.id.as_bytes());
        client.protocol.write_map(out, 0);
    }

    fn write_shards(&self, client: &ClientInfo, out: &mut Vec<u8>) {
        let address = self.address(client);
        let host = address.host.unwrap_or_default();
        let protocol = client.protocol;
        write_line(out, b'*', 1);
        protocol.write_map(out, 2);
        write_bulk(out, b"slots");
        write_line(out, b'*', 2);
        write_int(out, 0);
        write_int(out, i64::from(SLOTS) - 1);
        write_bulk(out, b"nodes");
        write_line(out, b'*', 1);
        protocol.write_map(out, 7);
        let texts: [(&str, &str); 5] = [
            ("id", &self.id),
            ("ip", &host),
            ("endpoint", &host),
            ("role", "master"),
            ("health", "online"),
        ];
        for (name, text) in texts {
            write_bulk(out, name.as_bytes());
            write_bulk(out, text.as_bytes());
        }
        for (name, number) in [("port", address.port.into()), ("replication-offset", 0)] {
            write_bulk(out, name.as_bytes());
            write_int(out, number);
        }
    }

    /// The reply to INFO that a client of this protocol gets instead of that of the nodes.
    pub(super) fn shown_info(&self, reply: &[u8], protocol: Protocol) -> Vec<u8> {
        let (mode, enabled) = match self.mode {
            ClusterMode::Disabled => ("standalone", "0"),
            ClusterMode::Emulated => ("cluster", "1"),
        };
        let Some(text) = text_of(reply) else {
            return reply.to_vec();
        };
        let mut shown = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let field = line.split_once(':').map(|(field, _)| field);
            let value = match field {
                Some("redis_mode" | "server_mode") => mode,
                Some("cluster_enabled") => enabled,
                _ => {
                    shown.push_str(line);
                    continue;
                }
            };
            // Writing to a string does not fail.
            let _ = write!(shown, "{}:{value}\r\n", field.unwrap_or_default());
        }
        let mut out = Vec::with_capacity(shown.len() + 16);
        match reply.first() {
            Some(b'=') => protocol.write_text(&mut out, &shown),
            _ => write_bulk(&mut out, shown.as_bytes()),
        }
        out
    }
}

/// Host and port of `127.0.0.1:7000` or `[::1]:7000`. `None` for what is no such address, such as the path of a socket.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let port = port.parse().ok()?;
    (!host.is_empty()).then_some((host, port))
}

/// The text of a bulk string or a verbatim string. `None` for another reply, such as an error.
fn text_of(reply: &[u8]) -> Option<&str> {
    let header = reply.iter().position(|&byte| byte == b'\n')? + 1;
    let text = reply.get(header..)?.strip_suffix(b"\r\n")?;
    let text = match reply.first()? {
        b'$' => text,
        b'=' => text.strip_prefix(b"txt:")?,
        _ => return None,
    };
    str::from_utf8(text).ok()
}

/// The reply to CLUSTER INFO.
fn info() -> String {
    let fields = [
        ("cluster_state", "ok"),
        ("cluster_slots_assigned", "16384"),
        ("cluster_slots_ok", "16384"),
        ("cluster_slots_pfail", "0"),
        ("cluster_slots_fail", "0"),
        ("cluster_known_nodes", "1"),
        ("cluster_size", "1"),
        ("cluster_current_epoch", "1"),
        ("cluster_my_epoch", "1"),
        ("cluster_stats_messages_sent", "0"),
        ("cluster_stats_messages_received", "0"),
        ("total_cluster_links_buffer_limit_exceeded", "0"),
    ];
    let lines = fields.map(|(field, value)| format!("{field}:{value}\r\n"));
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::CommandTable;

    fn node(mode: ClusterMode) -> EmulatedNode {
        EmulatedNode {
            mode,
            id: "0123456789".repeat(4),
            announced: None,
        }
    }

    fn reply(node: &EmulatedNode, words: &str, client: &ClientInfo) -> String {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let command = CommandTable::built_in().find(&args).unwrap();
        let mut out = Vec::new();
        if let Err(refusal) = node.run(command, &args, client, false, &mut out) {
            refusal.write(&mut out);
        }
        String::from_utf8(out).unwrap()
    }

    fn client(local_address: &str) -> ClientInfo {
        ClientInfo {
            local_address: local_address.into(),
            ..ClientInfo::default()
        }
    }

    #[test]
    fn cluster_commands_are_refused_as_by_a_server_unless_a_cluster_is_emulated() {
        let off = node(ClusterMode::Disabled);
        for words in ["CLUSTER SLOTS", "CLUSTER INFO", "READONLY", "ASKING"] {
            assert_eq!(
                reply(&off, words, &client("")),
                "-ERR This instance has cluster support disabled\r\n"
            );
        }
        let on = node(ClusterMode::Emulated);
        for words in ["READONLY", "READWRITE", "ASKING"] {
            assert_eq!(reply(&on, words, &client("")), "+OK\r\n");
        }
        assert!(reply(&on, "CLUSTER MEET h 1", &client("")).starts_with("-UNROUTABLE "));
        assert_eq!(reply(&on, "CLUSTER KEYSLOT {b}a", &client("")), ":3300\r\n");
        let other = reply(&on, "CLUSTER REPLICAS abc", &client(""));
        assert_eq!(other, "-ERR Unknown node abc\r\n");
    }

    #[test]
    fn cluster_slots_name_the_address_that_the_client_has_connected_to_or_the_announced_one() {
        let mut on = node(ClusterMode::Emulated);
        let slots = |node: &EmulatedNode, local: &str| {
            let reply = reply(node, "CLUSTER SLOTS", &client(local));
            reply.replace("\r\n", " ")
        };
        let id = &on.id.clone();
        let begin = "*1 *3 :0 :16383 *4";
        assert_eq!(
            slots(&on, "127.0.0.1:7000"),
            format!("{begin} $9 127.0.0.1 :7000 $40 {id} *0 ")
        );
        assert_eq!(
            slots(&on, "[::1]:7000"),
            format!("{begin} $3 ::1 :7000 $40 {id} *0 ")
        );
        assert_eq!(
            slots(&on, "/tmp/socket"),
            format!("{begin} $-1 :6379 $40 {id} *0 ")
        );
        on.announced = Some(("proxy.example".into(), 6380));
        assert_eq!(
            slots(&on, "127.0.0.1:7000"),
            format!("{begin} $13 proxy.example :6380 $40 {id} *0 ")
        );
    }

    #[test]
    fn info_tells_of_a_cluster_only_if_one_is_emulated() {
        let info = "# Server\r\nredis_mode:cluster\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n";
        let reply = format!("${}\r\n{info}\r\n", info.len());
        let shown = node(ClusterMode::Disabled).shown_info(reply.as_bytes(), Protocol::Resp2);
        let off = "# Server\r\nredis_mode:standalone\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n";
        assert_eq!(
            String::from_utf8(shown.clone()).unwrap(),
            format!("${}\r\n{off}\r\n", off.len())
        );
        let again = node(ClusterMode::Emulated).shown_info(&shown, Protocol::Resp2);
        assert_eq!(String::from_utf8(again).unwrap(), reply);
        let verbatim = format!("={}\r\ntxt:{info}\r\n", info.len() + 4);
        let shown = node(ClusterMode::Disabled).shown_info(verbatim.as_bytes(), Protocol::Resp3);
        assert_eq!(
            String::from_utf8(shown).unwrap(),
            format!("={}\r\ntxt:{off}\r\n", off.len() + 4)
        );
        let error = b"-NOPERM no\r\n";
        assert_eq!(
            node(ClusterMode::Disabled).shown_info(error, Protocol::Resp2),
            error
        );
    }
}
