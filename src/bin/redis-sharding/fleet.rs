//! Parses nodes and the fleet that they form. Shared with the examples `locate` and `proxy`.

use std::fs;
use std::num::NonZeroU32;
use std::sync::Arc;

use redis_sharding::partition::{Partitioner, by_name};
use redis_sharding::redis::{ConnectionAddr, IntoConnectionInfo, parse_redis_url};
use redis_sharding::{Builder, NodeSpec, ShardedClient, Topology};

use super::shown::{holds_password, shown};

/// First words of a topology text.
const TOPOLOGY: &str = "redis-sharding topology";

/// The name of the placement of a Redis Cluster.
const CLUSTER: &str = "cluster";

/// Nodes, their placement, and their names as given.
pub struct Fleet {
    pub topology: Topology,
    /// In node order.
    pub names: Vec<String>,
    /// `None` for the fleet of a topology, which can be connected to as it is.
    connect: Option<Connect>,
}

/// How to connect to what the command line names.
#[allow(dead_code, reason = "the example locate contacts no node")]
enum Connect {
    Nodes {
        partitioner: Arc<dyn Partitioner>,
        /// In node order, with passwords; `None` for an address that can only be hashed.
        urls: Vec<Option<String>>,
    },
    /// The URLs of servers of a Redis Cluster, with passwords.
    Cluster(Vec<String>),
}

impl Fleet {
    /// Reads a topology's text from a file.
    pub fn read_topology(file: &str) -> Result<Self, String> {
        Self::parse(&read(file)?, file)
    }

    /// Returns the description of a client of these nodes, which places keys as `topology` does.
    ///
    /// # Errors
    ///
    /// When an address can be hashed but not connected to as it is written, such as one without a port.
    #[allow(dead_code, reason = "the example locate contacts no node")]
    pub fn builder(&self) -> Result<Builder, String> {
        let builder = ShardedClient::builder();
        let (partitioner, urls) = match &self.connect {
            None => return Ok(builder.topology(&self.topology)),
            Some(Connect::Cluster(seeds)) => {
                return Ok(builder.cluster(seeds.iter().map(String::as_str)));
            }
            Some(Connect::Nodes { partitioner, urls }) => (partitioner, urls),
        };
        let urls = urls.iter().zip(&self.names).map(|(url, name)| {
            url.as_deref().ok_or_else(|| {
                format!(
                    "--node {name:?}: its address is neither host:port, nor the path of a unix socket, nor a URL"
                )
            })
        });
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        let nodes = self.topology.nodes().iter().zip(urls);
        let nodes = nodes.fold(builder, |builder, (node, url)| match node.is_named() {
            true => builder.weighted_node(node.name(), url, node.weight()),
            false => builder.weighted_unnamed_node(url, node.weight()),
        });
        Ok(nodes.shared_partitioner(Arc::clone(partitioner)))
    }

    /// The fleet of a Redis Cluster with these servers, each `host:port` or a URL. Its nodes are not known before a server
    /// was asked: see [`is_cluster`](Self::is_cluster).
    #[allow(dead_code, reason = "the example locate contacts no node")]
    pub fn cluster(seeds: &[String]) -> Result<Self, String> {
        let urls = seeds.iter().map(|seed| match seed.contains("://") {
            true => url(seed, "--cluster").map(|_| seed.clone()),
            false => url_of_address(seed)
                .filter(|url| url.starts_with("redis://"))
                .ok_or_else(|| {
                    format!(
                        "--cluster {}: it is neither host:port nor a URL",
                        shown(seed)
                    )
                }),
        });
        let urls = urls.collect::<Result<Vec<_>, _>>()?;
        let seeds = urls.iter().map(String::as_str);
        let client = ShardedClient::builder().cluster(seeds).build();
        let client = client.map_err(|error| error.to_string())?;
        Ok(Self {
            connect: Some(Connect::Cluster(urls)),
            ..Self::of(&client.topology())
        })
    }

    /// True if the servers of a Redis Cluster decide where keys live. They have to be asked for that, and for the nodes.
    pub fn is_cluster(&self) -> bool {
        self.topology.partitioner().name() == CLUSTER
    }

    /// The fleet of a topology that can be connected to as it is.
    pub fn of(topology: &Topology) -> Self {
        let names = topology.nodes().iter().map(|node| node.name().to_owned());
        Self {
            names: names.collect(),
            topology: topology.clone(),
            connect: None,
        }
    }

    /// The same fleet with the nodes of its cluster.
    #[allow(dead_code, reason = "the examples ask no cluster for its nodes")]
    pub fn with_topology(self, topology: &Topology) -> Self {
        Self {
            connect: self.connect,
            ..Self::of(topology)
        }
    }

    /// Reads the fleet of a file to compare with: a complete topology, or other nodes under the same placement.
    #[allow(dead_code, reason = "the example proxy compares no fleets")]
    pub fn second(&self, file: &str) -> Result<Self, String> {
        let text = read(file)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let is_comment = |line: &&str| line.trim().is_empty() || line.trim().starts_with('#');
        let mut lines = text.lines().filter(|line| !is_comment(line)).peekable();
        if lines
            .peek()
            .is_some_and(|line| line.trim().starts_with(TOPOLOGY))
        {
            let second = Self::parse(text, file)?;
            // Its slots are not in the text.
            return match second.is_cluster() {
                true => Err(format!(
                    "{file}: keys cannot be compared with those of a Redis Cluster"
                )),
                false => Ok(second),
            };
        }
        if self.is_cluster() {
            return Err(format!(
                "{file}: the servers of a Redis Cluster choose the nodes; give a topology's text to compare with"
            ));
        }
        let nodes: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
        let rule = self.topology.partitioner();
        Self::new(rule.name(), &rule.options(), &nodes).map_err(|error| format!("{file}: {error}"))
    }

    /// Places nodes, each `[NAME=]ADDRESS[,weight=W]`, by a placement of the catalogue.
    pub fn new(
        placement: &str,
        options: &[(String, String)],
        nodes: &[String],
    ) -> Result<Self, String> {
        let rule = by_name(placement, options).map_err(|error| error.to_string())?;
        // redis-rb hashes the whole URL unless the node has a name.
        let urls_are_names = placement.starts_with("redis-rb-");
        let nodes = nodes
            .iter()
            .map(|node| NodeWord::parse(node, urls_are_names));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let specs = nodes.iter().map(|node| node.spec.clone()).collect();
        let partitioner = Arc::clone(&rule);
        let topology = Topology::new(specs, rule).map_err(|error| error.to_string())?;
        let (names, urls) = nodes.into_iter().map(|node| (node.name, node.url)).unzip();
        Ok(Self {
            topology,
            names,
            connect: Some(Connect::Nodes { partitioner, urls }),
        })
    }

    fn parse(text: &str, file: &str) -> Result<Self, String> {
        let topology = Topology::parse(text).map_err(|error| format!("{file}, {error}"))?;
        Ok(Self::of(&topology))
    }
}

/// Reads a text file that the command line names.
pub fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", shown(file)))
}

/// Splits `K=V`, an option of the placement, where K may contain quoted text, such as `numeric "user=":`.
pub fn placement_option(text: &str) -> Result<(String, String), String> {
    let (mut quoted, mut escaped) = (false, false);
    let equals = text.char_indices().find(|&(_, c)| {
        if c == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && c == '\\' && !escaped;
        c == '=' && !quoted
    });
    match equals {
        Some((at, _)) if at > 0 => Ok((text[..at].to_owned(), text[at + 1..].to_owned())),
        _ if holds_password(text) => Err("an --option is not of the form K=V".into()),
        _ => Err(format!("--option {text:?} is not of the form K=V")),
    }
}

/// A node of the command line.
struct NodeWord {
    spec: NodeSpec,
    /// As given, without a password.
    name: String,
    /// Where to connect to, with the password; `None` if the address can only be hashed.
    url: Option<String>,
}

impl NodeWord {
    /// Parses `[NAME=]ADDRESS[,weight=W]`.
    fn parse(text: &str, urls_are_names: bool) -> Result<Self, String> {
        let (node, weight) = weight(text)?;
        let (name, given) = name_and_address(node);
        if given.is_empty() {
            return Err("a --node has no address".into());
        }
        let is_url = given.contains("://");
        let (address, shown) = match is_url {
            true => url(given, "--node")?,
            false => (given.to_owned(), given.to_owned()),
        };
        let (spec, shown) = match name {
            Some("") => return Err(format!("--node {shown:?} has an empty name")),
            Some(name) => (NodeSpec::new(name, address), name.to_owned()),
            None if urls_are_names => (NodeSpec::new(shown.clone(), address), shown),
            None => (NodeSpec::unnamed(address), shown),
        };
        Ok(Self {
            spec: spec.with_weight(weight),
            name: shown,
            url: match is_url {
                true => Some(given.to_owned()),
                false => url_of_address(given),
            },
        })
    }
}

/// The URL of an address, if it leads to that very address: it places the keys of a node without a name.
fn url_of_address(given: &str) -> Option<String> {
    let scheme = if given.starts_with('/') {
        "unix"
    } else {
        "redis"
    };
    let text = format!("{scheme}://{given}");
    let (reached, _) = url(&text, "--node").ok()?;
    (reached == given).then_some(text)
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

/// Returns the address within the URL that `flag` gives, and the URL without its password.
fn url(text: &str, flag: &str) -> Result<(String, String), String> {
    // The URL is not repeated: it may contain a password.
    let url = parse_redis_url(text).ok_or_else(|| format!("the URL of a {flag} cannot be read"))?;
    let mut shown = match url.password() {
        Some(_) => without_password(text),
        None => text.to_owned(),
    };
    if url.query_pairs().any(|(key, _)| key == "pass") {
        shown.truncate(shown.find('?').unwrap_or(shown.len()));
    }
    if holds_password(&shown) {
        return Err(format!(
            "the URL of a {flag} holds a password where none is read"
        ));
    }
    // The address does not depend on TLS, and this tool opens no connection.
    let mut plain = url.clone();
    if matches!(url.scheme(), "rediss" | "valkeys") && plain.set_scheme("redis").is_err() {
        return Err(format!("the URL of a {flag} cannot be read"));
    }
    let info = plain
        .into_connection_info()
        .map_err(|_| format!("the URL of a {flag} names no server"))?;
    Ok((address(info.addr()), shown))
}

/// `host:port`, with an IPv6 host in brackets, or the path of a unix socket.
fn address(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        address => address.to_string(),
    }
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
