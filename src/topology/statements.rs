//! What does a topology's text say?
//!
//! [`Statements`] reads the lines one by one and remembers the number of each, so that every refusal names a
//! line; [`topology`](Statements::topology) then makes the topology. Errors quote no word of a `node` line
//! that has not been checked for passwords.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::cluster::{ClusterMap, ClusterSeeds};
use super::url::{NodeEndpoint, NodeUrl};
use super::{HostPort, Topology};
use crate::partition::NodeSpec;
use crate::partition::line::{Line, Quoted, SyntaxError, Written, lines};
use crate::partition::password::{ADVICE, Shown, holds_password, option_holds_password};
use crate::partition::{Partitioner, PlacementError};

/// The words of the first line.
pub(super) const HEAD: &str = "redis-sharding topology";
/// Version of the text, after [`HEAD`]. It changes when the same text would be read differently.
pub(super) const VERSION: &str = "1";

/// The statements of a text, by kind.
#[derive(Default)]
pub(super) struct Statements {
    /// Line and name of the placement.
    placement: Option<(usize, String)>,
    /// Names and values, in their order.
    options: Vec<(String, String)>,
    /// For each of `options`, its line.
    option_lines: Vec<usize>,
    /// Line and value of the fingerprint that the text demands.
    fingerprint: Option<(usize, u64)>,
    /// In the order of the text, which is the order of the topology.
    nodes: Vec<NodeSpec>,
    /// For each of `nodes`, its URL if its address does not say all.
    urls: Vec<Option<NodeUrl>>,
    /// For each of `nodes`, its line.
    node_lines: Vec<usize>,
    /// Line and servers of the cluster.
    cluster: Option<(usize, ClusterSeeds, Vec<HostPort>)>,
}

impl Statements {
    /// Reads all statements.
    ///
    /// # Errors
    ///
    /// [`SyntaxError`] with the number of the line.
    pub(super) fn read(text: &str) -> Result<Self, SyntaxError> {
        let mut all = lines(text).peekable();
        head(all.next())?;
        let mut statements = Self::default();
        // A map, since a text may have as many nodes as it likes before `Topology::new` counts them.
        let mut names = HashMap::new();
        while let Some(mut line) = all.next() {
            if line.keyword("node") {
                statements.node(&line, &mut names)?;
            } else if line.keyword("placement") {
                statements.placement(&mut line)?;
            } else if line.keyword("fingerprint") {
                statements.fingerprint(&mut line)?;
            } else if line.keyword("option") {
                let name = option_name(&mut line)?;
                let value = match option_value(&mut line)? {
                    Some(value) => value,
                    None => {
                        // A value of several lines stands below, each line behind a `|`.
                        let mut block = Vec::new();
                        while let Some(text) = all.peek().and_then(Line::block) {
                            block.push(text);
                            all.next();
                        }
                        if block.is_empty() {
                            return Err(line.error("the value of the option is missing"));
                        }
                        block.join("\n")
                    }
                };
                statements.option(&line, name, value)?;
            } else if line.keyword("cluster") {
                statements.cluster(&line)?;
            } else {
                return Err(line.error(
                    "a line must begin with placement, option, node, fingerprint or cluster",
                ));
            }
        }
        Ok(statements)
    }

    /// Reads the rest of a `placement` line. There is only one.
    fn placement(&mut self, line: &mut Line<'_>) -> Result<(), SyntaxError> {
        if let Some((first, _)) = self.placement {
            return Err(line.error(format!("the placement was given in line {first} already")));
        }
        let (name, _) = line
            .token()?
            .ok_or_else(|| line.error("the name of the placement is missing"))?;
        // Refused here, with a line number, before the name appears in any other error.
        if holds_password(&name) {
            return Err(line.error(format!("the name of the placement {ADVICE}")));
        }
        line.end()?;
        self.placement = Some((line.number, name));
        Ok(())
    }

    /// Adds an option. It must follow the placement, whose meaning it has.
    fn option(&mut self, line: &Line<'_>, name: String, value: String) -> Result<(), SyntaxError> {
        if self.placement.is_none() {
            return Err(line.error("an option must follow its placement"));
        }
        if option_holds_password(&name) || option_holds_password(&value) {
            return Err(line.error(format!("the option {ADVICE}")));
        }
        self.options.push((name, value));
        self.option_lines.push(line.number);
        Ok(())
    }

    /// Reads the rest of a `fingerprint` line. There is only one.
    fn fingerprint(&mut self, line: &mut Line<'_>) -> Result<(), SyntaxError> {
        if let Some((first, _)) = self.fingerprint {
            return Err(line.error(format!("the fingerprint was given in line {first} already")));
        }
        let hex = |word: &&str| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let number = line
            .word()
            .filter(hex)
            .and_then(|word| u64::from_str_radix(word, 16).ok())
            .ok_or_else(|| line.error("a fingerprint must have 16 hexadecimal digits"))?;
        line.end()?;
        self.fingerprint = Some((line.number, number));
        Ok(())
    }

    /// Reads the rest of a `node` line. Errors do not quote its words, which may hold a password; only the name
    /// is quoted, once it has been checked.
    fn node(
        &mut self,
        line: &Line<'_>,
        names: &mut HashMap<String, usize>,
    ) -> Result<(), SyntaxError> {
        // A copy of the line: the errors below still need its number.
        let (mut rest, mut words) = (line.clone(), Vec::new());
        while let Some(word) = rest.token()? {
            words.push(word);
        }
        // Only a bare word at the end is a weight: in quotes, `"weight=2"` is an address.
        let weight = match words.last() {
            Some((word, Written::Bare)) if word.starts_with("weight=") => {
                let digits = word["weight=".len()..].to_owned();
                words.pop();
                weight(&digits).ok_or_else(|| {
                    line.error("the weight must be a whole number from 1 to 4294967295")
                })?
            }
            _ => NonZeroU32::MIN,
        };
        let (name, (address, written)) = match &words[..] {
            [address] => (None, address),
            [(name, _), address] => (Some(name), address),
            _ => {
                return Err(line.error(
                    "a node is an address, or a name and an address, and optionally weight=2 at the end",
                ));
            }
        };
        if name.is_some_and(|name| holds_password(name)) {
            return Err(line.error(format!("the name of the node {ADVICE}")));
        }
        let reach = match written {
            Written::Bare => NodeEndpoint::parse(address),
            Written::Quoted => NodeEndpoint::of_quoted(address),
        };
        let reach = reach.map_err(|cause| line.error(cause))?;
        // Checked once more when it has been parsed: a quoted address is not a URL, and may be anything.
        if holds_password(&reach.address) {
            return Err(line.error(format!("the address of the node {ADVICE}")));
        }
        let node = match (name, &reach.name) {
            (Some(name), _) => NodeSpec::new(name, reach.address),
            (None, Some(name)) => NodeSpec::new(name, reach.address),
            (None, None) => NodeSpec::unnamed(reach.address),
        };
        if let Some(first) = names.insert(node.name().to_owned(), line.number) {
            let name = node.name();
            return Err(line.error(format!(
                "the name {name:?} is taken by the node in line {first}"
            )));
        }
        self.nodes.push(node.with_weight(weight));
        self.urls.push(reach.url);
        self.node_lines.push(line.number);
        Ok(())
    }

    /// Reads the rest of a `cluster` line. There is only one, and its servers say all else. Errors do not quote its words,
    /// which may hold a password.
    fn cluster(&mut self, line: &Line<'_>) -> Result<(), SyntaxError> {
        if let Some((first, ..)) = &self.cluster {
            return Err(line.error(format!("the cluster was given in line {first} already")));
        }
        // A copy of the line: the errors below still need its number.
        let (mut rest, mut seeds) = (line.clone(), Vec::new());
        while let Some((word, _)) = rest.token()? {
            seeds.push(NodeEndpoint::parse(&word).map_err(|cause| line.error(cause))?);
        }
        let read = ClusterSeeds::of_endpoints(seeds);
        let (seeds, addresses) = read.map_err(|cause| line.error(cause))?;
        self.cluster = Some((line.number, seeds, addresses));
        Ok(())
    }

    /// Makes the topology of a cluster.
    fn of_cluster(
        &self,
        line: usize,
        seeds: &ClusterSeeds,
        addresses: &[HostPort],
    ) -> Result<Topology, SyntaxError> {
        let at = |line, cause: String| SyntaxError { line, cause };
        let others = [
            self.placement.as_ref().map(|(line, _)| *line),
            self.fingerprint.map(|(line, _)| line),
            self.node_lines.first().copied(),
        ];
        if let Some(other) = others.into_iter().flatten().next() {
            return Err(at(
                other,
                "the servers of a cluster name its nodes and decide where keys live: a text with a line `cluster` has no \
                 node, placement, option or fingerprint"
                    .into(),
            ));
        }
        let map = Arc::new(ClusterMap::provisional(addresses));
        let topology = map
            .topology()
            .map_err(|error| at(line, error.to_string()))?;
        Ok(topology.with_seeds(seeds.clone()))
    }

    /// Makes the topology. `rule` returns the partitioner for a name and options.
    ///
    /// # Errors
    ///
    /// [`SyntaxError`] with the line that the refusal is about.
    pub(super) fn topology(
        self,
        rule: impl FnOnce(&str, &[(String, String)]) -> Result<Arc<dyn Partitioner>, PlacementError>,
    ) -> Result<Topology, SyntaxError> {
        if let Some((line, seeds, addresses)) = &self.cluster {
            return self.of_cluster(*line, seeds, addresses);
        }
        let at = |line, cause: String| SyntaxError { line, cause };
        let (line, name) = self
            .placement
            .as_ref()
            .ok_or_else(|| at(1, "the line with the placement is missing".into()))?;
        let partitioner = rule(name, &self.options).map_err(|refusal| {
            let cause = match &refusal {
                PlacementError::UnknownPlacement { .. } => format!(
                    "{refusal}{} A rule of your own is read with Topology::parse_with",
                    if refusal.to_string().ends_with('?') {
                        ""
                    } else {
                        "."
                    }
                ),
                _ => refusal.to_string(),
            };
            at(self.line_of(&refusal), cause)
        })?;
        // A rule of the application may return another partitioner by mistake, whose text could not be read
        // back.
        if partitioner.name() != name {
            let found = partitioner.name();
            let found = Shown(found);
            return Err(at(*line, format!("{name:?} was made into {found}")));
        }
        let topology = Topology::new(self.nodes.clone(), Arc::clone(&partitioner));
        let topology = topology.map_err(|refusal| {
            // `Topology::new` returns an error without its structure; placing again shows which node or
            // option is meant.
            let line = match partitioner.place(&self.nodes) {
                Err(refusal) => self.line_of(&refusal),
                Ok(_) => *line,
            };
            at(line, refusal.to_string())
        })?;
        match self.fingerprint {
            // Last, when the text is otherwise valid: the fingerprint guards against edits that move keys.
            Some((line, stated)) if stated != topology.fingerprint() => {
                let found = topology.fingerprint();
                Err(at(
                    line,
                    format!(
                        "the fingerprint should be {stated:016x}, but the nodes and the placement have {found:016x}: keys \
                         would move. If they are meant to, change this line or leave it out"
                    ),
                ))
            }
            _ => Ok(topology.with_urls(self.urls)),
        }
    }

    /// Returns the line that a refusal is about; that of the placement if it is about none in particular.
    fn line_of(&self, refusal: &PlacementError) -> usize {
        let option = |name: &str| self.options.iter().rposition(|(option, _)| option == name);
        let node = |name: &str| self.nodes.iter().rposition(|node| node.name() == name);
        let line = match refusal {
            PlacementError::OptionTwice { option: name, .. }
            | PlacementError::OptionValue { option: name, .. }
            | PlacementError::UnknownOption { option: name, .. } => {
                option(name).map(|at| self.option_lines[at])
            }
            PlacementError::OptionOutOfBounds { option: name, .. } => {
                option(name).map(|at| self.option_lines[at])
            }
            PlacementError::DuplicateName { name }
            | PlacementError::NameTooLong { name, .. }
            | PlacementError::Weighted { name, .. } => node(name).map(|at| self.node_lines[at]),
            _ => None,
        };
        let placement = self.placement.as_ref().map_or(1, |(line, _)| *line);
        line.unwrap_or(placement)
    }
}

/// Checks the first line.
fn head(line: Option<Line<'_>>) -> Result<(), SyntaxError> {
    let missing = |number| SyntaxError {
        line: number,
        cause: format!("the first line must be \"{HEAD} {VERSION}\""),
    };
    let Some(mut line) = line else {
        return Err(missing(1));
    };
    if !HEAD.split(' ').all(|word| line.keyword(word)) {
        return Err(missing(line.number));
    }
    match line.word() {
        Some(VERSION) => line.end(),
        _ => Err(line.error(format!(
            "this version of the topology text is unknown; only version {VERSION} can be read"
        ))),
    }
}

/// Parses a weight. Digits only, since `str::parse` accepts a plus sign.
fn weight(digits: &str) -> Option<NonZeroU32> {
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Reads the name of an option and the equals sign: a word, a word and a text in quotes, or all of it in
/// quotes.
pub(super) fn option_name(line: &mut Line<'_>) -> Result<String, SyntaxError> {
    let name = match line.token()? {
        Some((word, Written::Bare)) if word != "=" => match line.quoted()? {
            Some(bytes) => format!("{word} {}", Quoted(&bytes)),
            None => word,
        },
        Some((name, Written::Quoted)) => name,
        _ => return Err(line.error("the name of the option is missing")),
    };
    line.space();
    if !line.keyword("=") {
        return Err(line.error("an option is written as name = value, with space around the ="));
    }
    Ok(name)
}

/// Reads the value on this line; `None` if there is none.
pub(super) fn option_value(line: &mut Line<'_>) -> Result<Option<String>, SyntaxError> {
    match line.quoted_text()? {
        Some(value) => {
            line.end()?;
            Ok(Some(value))
        }
        None => Ok(line.statement().map(str::to_owned)),
    }
}
