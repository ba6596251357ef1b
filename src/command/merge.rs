//! How do the replies of several nodes become one?
//!
//! The rules by name; `plan::merge` carries them out, with an example of each in its module documentation.

/// The rule by which the replies of several nodes become one.
///
/// The built-in rows give a reply of the kind that a single server gives, in RESP2 as in RESP3. Where nodes
/// differ and their replies cannot be added, the one reply lists `name=value` for each of them;
/// `client.node(name)` asks one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merge {
    /// All nodes must succeed; the reply is the first node's: MSET, FLUSHALL.
    AllSucceeded,
    /// One of the replies that are not nil, chosen at random: RANDOMKEY.
    AnyNonNil,
    /// Arrays (or sets, or maps) one after another, in node order: KEYS.
    Concat,
    /// DEBUG DIGEST: the digest of all keys together, as if they lay on one server, in database 0 alone.
    Digest,
    /// MEMORY STATS: counts and sizes are added; ratios and percentages have their largest value.
    Figures,
    /// The first reply that is not nil, in node order.
    FirstNonNil,
    /// LATENCY HISTOGRAM: calls and histograms are added, command by command.
    Histograms,
    /// INFO: one text. Counters are added, equal values appear once, others by node; then a section for each
    /// node.
    Info,
    /// Each key's element in the place of the key in the request: MGET.
    KeyOrder,
    /// LATENCY LATEST: for each event the latest spike, and the worst ever.
    LatestEvents,
    /// Texts one after another as they are: CLIENT LIST.
    Lines,
    /// Entries of a log, newest first, as many as were asked for: SLOWLOG GET, COMMANDLOG GET, ACL LOG.
    LogEntries,
    /// Element by element, true where it is true for every node: SCRIPT EXISTS.
    LogicalAnd,
    /// The largest number, element by element for arrays.
    Max,
    /// The smallest number, element by element for arrays.
    Min,
    /// The success of one node is enough: SCRIPT KILL.
    OneSucceeded,
    /// A map from the name of each node to its reply.
    PerNode,
    /// ROLE: the first node's reply, with the replicas of all; an error if the nodes have different roles.
    Role,
    /// FUNCTION STATS: the first running script, and the first node's engines.
    RunningScript,
    /// LATENCY HISTORY: samples of all nodes by time, the worst of each second.
    Samples,
    /// CONFIG GET: one map; a value that differs appears by node, `name=value,name=value`.
    Settings,
    /// The sum of the numbers: DEL, DBSIZE.
    Sum,
    /// Name and number in turn (PUBSUB NUMSUB): the numbers of equal names are added.
    SumByName,
    /// Texts one after another, each under its node's name. The error of a node appears in the place of its
    /// text: MEMORY DOCTOR.
    Texts,
    /// Arrays one after another, without elements that were there before: PUBSUB CHANNELS.
    Union,
}

impl Merge {
    /// Describes the rule, to follow "all nodes, ": for `explain` and for `docs/commands.md`.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AllSucceeded => "all must succeed",
            Self::AnyNonNil => "one of the answers that are not nil, by chance",
            Self::Concat => "answers one after another",
            Self::Digest => "the digest of all keys together",
            Self::Figures => "numbers added, of ratios the largest",
            Self::FirstNonNil => "the first answer that is not nil",
            Self::Histograms => "histograms added",
            Self::Info => {
                "one text: counters added, what differs by node, then each node in a section"
            }
            Self::KeyOrder => "answers in the order of the keys",
            Self::LatestEvents => "the latest of each event, and its worst",
            Self::Lines => "texts one after another",
            Self::LogEntries => "entries of all, newest first, as many as asked for",
            Self::LogicalAnd => "true where every node says so",
            Self::Max => "the largest answer",
            Self::Min => "the smallest answer",
            Self::OneSucceeded => "one must succeed",
            Self::PerNode => "answers by node",
            Self::Role => "the role all nodes have, with the replicas of all",
            Self::RunningScript => "the first script that runs",
            Self::Samples => "samples of all by time, of one second the worst",
            Self::Settings => "one map, what differs by node",
            Self::Sum => "the sum of the answers",
            Self::SumByName => "the sums by name",
            Self::Texts => "texts one after another, each under its node's name",
            Self::Union => "answers without repetition",
        }
    }
}
