//! How do the answers of several nodes become one?

/// How the answers of several nodes become one.
///
/// The built-in rows give an answer of the shape that a single server gives, in RESP2 as in RESP3. Where nodes differ and
/// their answers cannot be added, the one answer says `name=value` for each of them; `client.node(name)` asks one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Merge {
    /// All must succeed; the answer is the first node's.
    AllSucceeded,
    /// One of the answers that are not nil, by chance: RANDOMKEY.
    AnyNonNil,
    /// Arrays (or sets, or maps) one after another, in node order.
    Concat,
    /// DEBUG DIGEST: the digest of all keys together, as if they lay on one server, in database 0 alone.
    Digest,
    /// MEMORY STATS: numbers are added; of ratios and percentages the largest.
    Figures,
    /// The first answer that is not nil, in node order.
    FirstNonNil,
    /// LATENCY HISTOGRAM: calls and histograms are added, command by command.
    Histograms,
    /// INFO: one text. Counters are added, what is alike is said once, what differs by node; then a section per node.
    Info,
    /// Each key's element goes back to the key's place in the question.
    KeyOrder,
    /// LATENCY LATEST: event by event, the latest spike, and the worst ever.
    LatestEvents,
    /// Texts one after another as they are: CLIENT LIST.
    Lines,
    /// Entries of a log, newest first, as many as were asked for: SLOWLOG GET, COMMANDLOG GET, ACL LOG.
    LogEntries,
    /// Element by element, true where every node says true.
    LogicalAnd,
    /// The largest number, element by element for arrays.
    Max,
    /// The smallest number, element by element for arrays.
    Min,
    /// One node's success is enough.
    OneSucceeded,
    /// A map from node name to that node's answer.
    PerNode,
    /// ROLE: the first node's, with the replicas of all; an error when the nodes have different roles.
    Role,
    /// FUNCTION STATS: the first script that runs, the first node's engines.
    RunningScript,
    /// LATENCY HISTORY: samples of all nodes by time, of one second the worst.
    Samples,
    /// CONFIG GET: one map; a value that differs is said by node, `name=value,name=value`.
    Settings,
    /// The sum of the numbers.
    Sum,
    /// Name and number in turn (PUBSUB NUMSUB): the numbers of equal names are added.
    SumByName,
    /// Texts one after another, each under its node's name. An error of some nodes stands in the place of their texts.
    Texts,
    /// Arrays one after another, without the elements that were there before.
    Union,
}

impl Merge {
    /// The rule for people to read, after "all nodes, ".
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
