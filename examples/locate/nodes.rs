//! Parses nodes and the fleet that they form.

use std::fs;
use std::num::NonZeroU32;

use redis_sharding::partition::by_name;
use redis_sharding::redis::{ConnectionAddr, IntoConnectionInfo, parse_redis_url};
use redis_sharding::{NodeSpec, Topology};

use super::arguments::Arguments;
use super::shown::{holds_password, shown};

/// First words of a topology text.
const TOPOLOGY: &str = "redis-sharding topology";

/// Nodes, their placement, and their names as given.
pub struct Fleet {
    pub topology: Topology,
    /// In node order.
    pub names: Vec<String>,
}

impl Fleet {
    pub fn of(arguments: &Arguments) -> Result<Self, String> {
        if let Some(file) = &arguments.topology {
            return Self::parse(&read(file)?, file);
        }
        let placement = arguments.placement.as_deref().unwrap_or_default();
        Self::new(placement, &arguments.options, &arguments.nodes)
    }

    /// Reads the fleet of this file: a complete topology, or other nodes under the same placement.
    pub fn second(&self, file: &str) -> Result<Self, String> {
        let text = read(file)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let is_comment = |line: &&str| line.trim().is_empty() || line.trim().starts_with('#');
        let mut lines = text.lines().filter(|line| !is_comment(line)).peekable();
        if lines
            .peek()
            .is_some_and(|line| line.trim().starts_with(TOPOLOGY))
        {
            return Self::parse(text, file);
        }
        let nodes: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
        let rule = self.topology.partitioner();
        Self::new(rule.name(), &rule.options(), &nodes).map_err(|error| format!("{file}: {error}"))
    }

    fn new(
        placement: &str,
        options: &[(String, String)],
        nodes: &[String],
    ) -> Result<Self, String> {
        let rule = by_name(placement, options).map_err(|error| error.to_string())?;
        // redis-rb hashes the whole URL unless the node has a name.
        let urls_are_names = placement.starts_with("redis-rb-");
        let nodes = nodes.iter().map(|node| node_and_name(node, urls_are_names));
        let (nodes, names): (Vec<_>, _) = nodes.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let topology = Topology::new(nodes, rule).map_err(|error| error.to_string())?;
        Ok(Self { topology, names })
    }

    fn parse(text: &str, file: &str) -> Result<Self, String> {
        let topology = Topology::parse(text).map_err(|error| format!("{file}, {error}"))?;
        let names = topology.nodes().iter().map(|node| node.name().to_owned());
        Ok(Self {
            names: names.collect(),
            topology,
        })
    }
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", shown(file)))
}

/// Parses `[NAME=]ADDRESS[,weight=W]`. Also returns the name as given.
fn node_and_name(text: &str, urls_are_names: bool) -> Result<(NodeSpec, String), String> {
    let (node, weight) = weight(text)?;
    let (name, given) = name_and_address(node);
    if given.is_empty() {
        return Err("a --node has no address".into());
    }
    let (address, shown) = match given.contains("://") {
        true => url(given)?,
        false => (given.to_owned(), given.to_owned()),
    };
    let (spec, shown) = match name {
        Some("") => return Err(format!("--node {shown:?} has an empty name")),
        Some(name) => (NodeSpec::new(name, address), name.to_owned()),
        None if urls_are_names => (NodeSpec::new(shown.clone(), address), shown),
        None => (NodeSpec::unnamed(address), shown),
    };
    Ok((spec.with_weight(weight), shown))
}

/// Splits the weight off the end.
fn weight(text: &str) -> Result<(&str, NonZeroU32), String> {
    let behind = text.rsplit_once(",weight=");
    // If an address follows, this is part of a name.
    let Some((node, digits)) = behind.filter(|(_, digits)| !digits.contains('=')) else {
        return Ok((text, NonZeroU32::MIN));
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(weight) if plain => Ok((node, weight)),
        // The text after ,weight= may be part of a URL.
        _ if holds_password(text) => Err("the weight of a --node is no whole number".into()),
        _ => Err(format!(
            "the weight {digits:?} is no whole number from 1 to {}",
            u32::MAX
        )),
    }
}

/// The name ends at the last `=` that an address follows. If there is none, the text after the last `=` is
/// taken for the address: nothing is contacted here.
fn name_and_address(text: &str) -> (Option<&str>, &str) {
    let equals = text.rmatch_indices('=').map(|(at, _)| at);
    let split = |at: usize| (Some(&text[..at]), &text[at + 1..]);
    // An equals sign within a password does not end a name.
    let whole = |address: &str| !holds_password(text) || holds_password(address);
    let found = equals
        .map(split)
        .find(|(_, address)| is_address(address) && whole(address));
    if let Some(found) = found {
        return found;
    }
    match text.rfind('=') {
        Some(at) if !is_address(text) && whole(&text[at + 1..]) => split(at),
        _ => (None, text),
    }
}

fn is_address(text: &str) -> bool {
    let host_and_port = || {
        let (host, port) = text.rsplit_once(':')?;
        let odd = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | '=' | '?');
        (!host.is_empty() && !host.contains(odd) && port.parse::<u16>().is_ok()).then_some(())
    };
    text.starts_with('/') || parse_redis_url(text).is_some() || host_and_port().is_some()
}

/// Returns the address within a URL, and the URL without its password.
fn url(text: &str) -> Result<(String, String), String> {
    // The URL is not repeated: it may contain a password.
    let url = parse_redis_url(text).ok_or("the URL of a --node cannot be read")?;
    let mut shown = match url.password() {
        Some(_) => without_password(text),
        None => text.to_owned(),
    };
    if url.query_pairs().any(|(key, _)| key == "pass") {
        shown.truncate(shown.find('?').unwrap_or(shown.len()));
    }
    if holds_password(&shown) {
        return Err("the URL of a --node holds a password where none is read".into());
    }
    // The address does not depend on TLS, and this tool opens no connection.
    let mut plain = url.clone();
    if matches!(url.scheme(), "rediss" | "valkeys") && plain.set_scheme("redis").is_err() {
        return Err("the URL of a --node cannot be read".into());
    }
    let info = plain
        .into_connection_info()
        .map_err(|_| "the URL of a --node names no server")?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        address => address.to_string(),
    };
    Ok((address, shown))
}

/// Turns `redis://user:PASSWORD@host` into `redis://user@host`.
fn without_password(url: &str) -> String {
    let (start, rest) = url.split_once("://").unwrap_or(("", url));
    let authority = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(authority);
    let (user_info, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let user = user_info.split(':').next().unwrap_or_default();
    format!("{start}://{user}@{host}{behind}")
}
