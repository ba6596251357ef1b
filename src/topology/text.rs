//! A topology as text: [`Topology::parse`], and the text that it reads.
//!
//! Every word is written as it is if it would be read back as the same word, and in quotes otherwise; that is
//! tried, not predicted, so writer and reader cannot disagree.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use super::cluster::ClusterSeeds;
use super::statements::{HEAD, Statements, VERSION, option_name, option_value};
use super::url::NodeEndpoint;
use super::{Passwords, Topology};
use crate::error::Error;
use crate::partition::NodeSpec;
use crate::partition::line::{Line, Name, Quoted, SyntaxError, lines, split, without_mark};
use crate::partition::{Partitioner, PlacementError, by_name};

impl Topology {
    /// Parses the text that [`Display`](fmt::Display) writes: the nodes, how they are reached, and the rule
    /// that places the keys.
    ///
    /// One statement per line, words separated by white space, `#` before a comment. After the first line,
    /// in any order:
    ///
    /// - `placement NAME`: the frozen name of a built-in rule (see
    ///   [`catalogue`](crate::partition::catalogue)). After it `option NAME = VALUE` for each option that is
    ///   not to have its default, the hash tag rule (`hash-tag`) among them where it can be chosen. A value
    ///   of several lines stands below `option NAME =`, each line behind a `|`.
    /// - `node [NAME] ADDRESS [weight=N]`: the address is `host:port` (an IPv6 host in brackets), the path of
    ///   a unix socket, or a URL as redis-rs reads it, with user, password, database, `rediss` or protocol. A
    ///   node without a name is named after its host and port, or its path. A node whose address Sentinel knows
    ///   has a URL such as `redis-sentinel://user:password@s1:26379,s2:26379/0#mymaster`, with the user, the
    ///   password and the database of the primary; the parameters `sentinel_user` and `sentinel_password` are for
    ///   the Sentinels, `tls` and `sentinel_tls` (`no`, `yes`, `insecure`) for the certificates of each kind, and
    ///   `rediss-sentinel` has both. Without a name it is named after its master.
    /// - `cluster ADDRESS...`: the servers of a Redis Cluster that are asked for its nodes; each is an address or a URL, as
    ///   of a node. It stands alone: the servers name the nodes, and decide where keys live. The nodes of such a text are
    ///   the servers themselves, until a client has [asked](crate::Builder::cluster) them.
    /// - `fingerprint HEX`: the [`fingerprint`](Self::fingerprint) that the rest must have. Optional. With
    ///   it, an edit that is not meant to move keys cannot move any.
    ///
    /// Words with white space are quoted with `"`, inside which `\"`, `\\`, `\n`, `\r`, `\t` and `\xff`
    /// are one byte each. A quoted address that is not a URL is taken as it is, even if nothing can connect
    /// to it. A byte-order mark at the start is ignored.
    ///
    /// A password is allowed in the URL of its node only. The written text has none:
    /// [`Builder::password`](crate::Builder::password) gives a client its passwords, or
    /// [`text_with_passwords`](Self::text_with_passwords) writes them too.
    ///
    /// ```
    /// use redis_sharding::{ShardedClient, Topology};
    ///
    /// let text = r#"redis-sharding topology 1
    ///
    /// placement range/1
    /// option default = spare       # keys of no table
    /// option numeric "user:" =
    ///     | 0..=9999  a
    ///     | 10000..   b
    ///
    /// node a      10.0.0.1:6379
    /// node b      rediss://app@10.0.0.2:6380/
    /// node spare  /run/redis.sock
    /// "#;
    /// let topology = Topology::parse(text)?;
    /// assert_eq!(topology.locate(b"user:12345").map(|node| node.get()), Some(1));
    ///
    /// let client = ShardedClient::builder().topology(&Topology::parse(&text.replace("rediss", "redis"))?).build()?;
    /// assert_eq!(client.topology().fingerprint(), topology.fingerprint());
    ///
    /// let refusal = Topology::parse(&text.replace("placement range", "placement rnage")).unwrap_err();
    /// assert_eq!(
    ///     refusal.to_string(),
    ///     "line 3: no placement is called \"rnage/1\"; did you mean \"range/1\"? A rule of your own is read with \
    ///      Topology::parse_with"
    /// );
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) with the number of the line, if it cannot be parsed, and as for
    /// [`new`](Self::new). The message never contains a password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::parse_with(text, by_name)
    }

    /// Parses a text whose placement may be a rule of the application: `rule` returns it for its name and
    /// options. Otherwise like [`parse`](Self::parse).
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use redis_sharding::Topology;
    /// use redis_sharding::partition::{by_name, from_fn};
    ///
    /// let text = "redis-sharding topology 1\nplacement by-length/1\nnode a 10.0.0.1:6379\nnode b 10.0.0.2:6379\n";
    /// let topology = Topology::parse_with(text, |name, options| match name {
    ///     "by-length/1" => Ok(Arc::new(from_fn("by-length/1", |key, nodes| key.len() % nodes.len()))),
    ///     _ => by_name(name, options),
    /// })?;
    /// assert_eq!(topology.locate(b"abc").map(|node| node.get()), Some(1));
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`parse`](Self::parse), and those that `rule` returns.
    pub fn parse_with(
        text: &str,
        rule: impl FnOnce(&str, &[(String, String)]) -> Result<Arc<dyn Partitioner>, PlacementError>,
    ) -> Result<Self, Error> {
        let statements = Statements::read(without_mark(text)).map_err(error)?;
        statements.topology(rule).map_err(error)
    }

    /// Returns the topology as text, as [`Display`](fmt::Display) writes it, but with the passwords of its
    /// URLs. Store it like a password.
    pub fn text_with_passwords(&self) -> String {
        Text(self, Passwords::Shown).to_string()
    }
}

impl FromStr for Topology {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// The text that [`Topology::parse`] reads. It holds no password.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text(self, Passwords::Hidden).fmt(f)
    }
}

/// An error with the number of the line in its text.
fn error(refusal: SyntaxError) -> Error {
    Error::config(refusal.to_string())
}

/// A topology about to be written, with or without passwords.
struct Text<'t>(&'t Topology, Passwords);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(topology, passwords) = self;
        // While keys move, the topology in force is the one that the reshard has begun with.
        if let Some(moving) = topology.moving() {
            return Text(moving.from(), *passwords).fmt(f);
        }
        writeln!(f, "{HEAD} {VERSION}")?;
        if let Some(seeds) = topology.seeds() {
            return write_cluster(f, topology, seeds, *passwords);
        }
        writeln!(f, "fingerprint {:016x}\n", topology.fingerprint())?;
        writeln!(f, "placement {}", Name(topology.partitioner().name()))?;
        for (name, value) in options(topology.partitioner()) {
            write_option(f, &name, &value)?;
        }
        writeln!(f)?;
        let name = |node: &NodeSpec| match node.is_named() {
            true => format!("{} ", Name(node.name())),
            false => String::new(),
        };
        let names: Vec<String> = topology.nodes().iter().map(name).collect();
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or_default().min(NAME_COLUMN_MAX);
        for ((node, name), url) in topology.nodes().iter().zip(names).zip(&*topology.urls) {
            write!(f, "node {name:width$}")?;
            match url.as_ref().and_then(|url| url.text(*passwords)) {
                Some(url) => write!(f, "{url}")?,
                None => write_address(f, node.address())?,
            }
            // 1 is the default, and is not written, so that the text of equal nodes stays short.
            if node.weight() != NonZeroU32::MIN {
                write!(f, " weight={}", node.weight())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Writes the servers of a cluster that were given, and the primaries for the reader: they are asked for, not read.
fn write_cluster(
    f: &mut fmt::Formatter<'_>,
    topology: &Topology,
    seeds: &ClusterSeeds,
    passwords: Passwords,
) -> fmt::Result {
    write!(f, "\ncluster")?;
    for seed in seeds.endpoints() {
        f.write_str(" ")?;
        match seed.url.as_ref().and_then(|url| url.text(passwords)) {
            Some(url) => write!(f, "{url}")?,
            None => write_address(f, &seed.address)?,
        }
    }
    writeln!(f)?;
    if !topology.is_provisional() {
        for node in topology.nodes() {
            writeln!(f, "# primary {}", node.address())?;
        }
    }
    Ok(())
}

/// Writes an address, in quotes if it would not be read back as it is, such as one without a port.
fn write_address(f: &mut fmt::Formatter<'_>, address: &str) -> fmt::Result {
    let name = Name(address).to_string();
    let is_same = |reach: NodeEndpoint| reach.url.is_none() && reach.address == address;
    let bare = name == address && !address.starts_with("weight=");
    match bare && NodeEndpoint::parse(address).is_ok_and(is_same) {
        true => f.write_str(address),
        false => write!(f, "{}", Quoted(address.as_bytes())),
    }
}

/// Maximum width in characters of the column of names. Longer names push their own address to the right.
const NAME_COLUMN_MAX: usize = 32;

/// Returns the options to be written, tables with one statement per line, if they are read back the same.
fn options(partitioner: &dyn Partitioner) -> Vec<(String, String)> {
    let options = partitioner.options();
    let long = options
        .iter()
        .map(|(name, value)| (name.clone(), split(value)));
    let long: Vec<_> = long.collect();
    // A rule of the application may depend on line ends; then its options are written as they are.
    let again = by_name(partitioner.name(), &long);
    match again.is_ok_and(|again| again.options() == options) {
        true => long,
        false => options,
    }
}

/// Writes an option: name and value as they are if they are read back so, otherwise the value as a block of
/// lines, or in quotes.
fn write_option(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    let bare = format!("{name} =");
    let is_same = |mut line: Line<'_>| {
        option_name(&mut line).is_ok_and(|read| read == name) && line.end().is_ok()
    };
    match only_line(&bare).is_some_and(is_same) {
        true => write!(f, "option {bare}")?,
        false => write!(f, "option {} =", Quoted(name.as_bytes()))?,
    }
    let is_same = |mut line: Line<'_>| {
        option_value(&mut line).is_ok_and(|read| read.as_deref() == Some(value))
    };
    if only_line(value).is_some_and(is_same) {
        return writeln!(f, " {value}");
    }
    let block: String = value
        .split('\n')
        .map(|line| format!("\n    | {line}"))
        .collect();
    let read: Option<Vec<&str>> = lines(&block).map(|line| line.block()).collect();
    let plain = !value.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
    // A block shows lines as they are; a value with control characters would be unreadable in it, and goes
    // into quotes.
    match plain && value.contains('\n') && read.is_some_and(|read| read.join("\n") == value) {
        true => writeln!(f, "{block}"),
        false => writeln!(f, " {}", Quoted(value.as_bytes())),
    }
}

/// Parses a text as one line; `None` if it has control characters, which a line cannot show.
fn only_line(text: &str) -> Option<Line<'_>> {
    let plain = !text.contains(char::is_control);
    lines(text).next().filter(|_| plain)
}
