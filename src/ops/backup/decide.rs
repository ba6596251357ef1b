//! What follows from what was seen of a cut: whether it is one, and what to do if it is none.
//!
//! Knows no connection and no clock.

use std::fmt;
use std::time::Duration;

use super::report::CutKind;

/// Bytes of keys and values that a server reads one by one in a second, at least. Decides which data is small enough to be
/// read under a pause; measured were 40 MB.
const SCAN_BYTES_PER_SECOND: u64 = 20_000_000;

/// The share of the pause that reading under it may be expected to take: one part in this many.
const PAUSE_SHARE: u64 = 2;

/// The pause before the second attempt. It doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// What a server allows, as it has replied to a question for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// PSYNC.
    pub(super) may_sync: bool,
    /// CONFIG SET of the settings of diskless streams.
    pub(super) may_configure: bool,
    /// CLIENT PAUSE.
    pub(super) may_pause: bool,
}

/// A node that is to be read: its name, what it allows, and the bytes of its keys and values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'n> {
    pub(super) name: &'n str,
    pub(super) abilities: Abilities,
    pub(super) dataset: u64,
}

/// The kind of cut, and why it is not the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) kind: CutKind,
    pub(super) reason: Option<String>,
}

/// What was seen of a node under the pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenNode {
    pub(super) name: String,
    /// History and offset that `+FULLRESYNC` has named.
    pub(super) stream: (String, u64),
    /// History and offset that INFO has named afterwards.
    pub(super) now: (String, u64),
    /// History and offset of the primary, if the stream comes from a replica.
    pub(super) primary: Option<(String, u64)>,
}

/// What was seen of a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenCut {
    pub(super) nodes: Vec<SeenNode>,
    /// Time from before the first request to pause until behind the last reply under the pause.
    pub(super) taken: Duration,
    /// The pause that the servers were asked for.
    pub(super) pause: Duration,
}

/// Why a cut is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Void {
    /// It took longer than the pause.
    Late,
    /// The stream of this node is of an earlier or later moment.
    Stale(String),
    /// This node is busy with a save, so that it did not begin in time.
    Silent(String),
    /// The connection to a node broke, or it became the replica of another one.
    Lost(String),
    /// The record of the fleet, or the map of the cluster, has changed meanwhile.
    Changed(String),
    /// This node does not allow PSYNC, and why.
    Refused(String, String),
}

/// What to do about a cut that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after this time.
    Again(Duration),
    /// Look for another kind of cut: that of this node is not allowed.
    FallBack,
    /// Fail.
    GiveUp,
}

/// Judges a cut by what was seen of it.
///
/// The offset shows whether a stream is of the moment of the pause: a server that is saving for another replica gives its
/// earlier data to the next one as well, and says so by the offset alone.
pub(super) fn judge(seen: &SeenCut) -> Result<(), Void> {
    if seen.taken >= seen.pause {
        return Err(Void::Late);
    }
    for node in &seen.nodes {
        let is_of_primary = node.primary.as_ref().is_none_or(|of| *of == node.stream);
        if node.stream != node.now || !is_of_primary {
            return Err(Void::Stale(node.name.clone()));
        }
    }
    Ok(())
}

/// Says what to do about a cut that is none. `attempt` counts from 1.
pub(super) fn next(void: &Void, attempt: u32, attempts: u32) -> Next {
    match void {
        Void::Refused(..) => Next::FallBack,
        _ if attempt >= attempts => Next::GiveUp,
        _ => Next::Again(FIRST_DELAY * (1 << (attempt - 1).min(6))),
    }
}

/// Chooses the kind of cut: the best one that all nodes allow, or the one that is demanded.
///
/// # Errors
///
/// Why the kind that is demanded cannot be taken.
pub(super) fn choose(
    nodes: &[Candidate<'_>],
    demanded: Option<CutKind>,
    pause: Duration,
) -> Result<Choice, String> {
    let kinds = CutKind::ALL.into_iter();
    let mut reason = None;
    for kind in kinds {
        let missing = obstacle(nodes, kind, pause);
        match (missing, demanded) {
            (None, None) => return Ok(Choice { kind, reason }),
            (None, Some(demanded)) if demanded == kind => {
                return Ok(Choice { kind, reason: None });
            }
            (Some(text), Some(demanded)) if demanded == kind => return Err(text),
            (Some(text), _) => reason = Some(text),
            (None, _) => {}
        }
    }
    Err("no kind of cut is possible".to_owned())
}

/// What stands against a kind of cut.
fn obstacle(nodes: &[Candidate<'_>], kind: CutKind, pause: Duration) -> Option<String> {
    let lacks = |may: fn(&Abilities) -> bool, what: &str| {
        let node = nodes.iter().find(|node| !may(&node.abilities))?;
        Some(format!("node {:?} does not allow {what}", node.name))
    };
    let pauses = || lacks(|node| node.may_pause, "CLIENT PAUSE");
    let syncs = || lacks(|node| node.may_sync, "PSYNC");
    match kind {
        CutKind::Stream => pauses()
            .or_else(syncs)
            .or_else(|| lacks(|node| node.may_configure, "CONFIG SET")),
        CutKind::Disk => pauses().or_else(syncs),
        CutKind::PausedScan => pauses().or_else(|| {
            let limit = paused_scan_bytes(pause);
            let large = nodes.iter().find(|node| node.dataset > limit)?;
            Some(format!(
                "node {:?} has more data than can be read within the limit of the pause",
                large.name
            ))
        }),
        CutKind::Scan => None,
    }
}

/// How much data of a node may be read under a pause.
pub(super) fn paused_scan_bytes(pause: Duration) -> u64 {
    let bytes = u128::from(SCAN_BYTES_PER_SECOND) * pause.as_millis() / 1000;
    u64::try_from(bytes).unwrap_or(u64::MAX) / PAUSE_SHARE
}

impl fmt::Display for Void {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late => f.write_str(
                "the cut took longer than the limit of the pause; raise it, or take the backup when the servers are less \
                 busy",
            ),
            Self::Stale(node) => write!(
                f,
                "the stream of node {node:?} is not of the moment of the pause, as after a save for another replica"
            ),
            Self::Silent(node) => write!(
                f,
                "node {node:?} has not begun with its stream within the pause; it may be saving or forking"
            ),
            Self::Lost(text) => f.write_str(text),
            Self::Changed(text) => write!(f, "{text} during the cut"),
            Self::Refused(node, text) => write!(f, "node {node:?} does not allow PSYNC: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(offset: u64) -> (String, u64) {
        ("abc".into(), offset)
    }

    fn cut() -> SeenCut {
        let node = |name: &str, offset| SeenNode {
            name: name.into(),
            stream: at(offset),
            now: at(offset),
            primary: None,
        };
        SeenCut {
            nodes: vec![node("a", 0), node("b", 70)],
            taken: Duration::from_millis(12),
            pause: SECOND,
        }
    }

    #[test]
    fn cut_is_good_if_all_streams_are_of_the_moment_of_the_pause() {
        assert_eq!(judge(&cut()), Ok(()));
        let mut replica = cut();
        replica.nodes[0].primary = Some(at(0));
        assert_eq!(judge(&replica), Ok(()));
    }

    #[test]
    fn cut_with_a_stale_stream_or_a_pause_that_has_ended_is_void() {
        let mut stale = cut();
        stale.nodes[1].stream.1 = 14;
        let other = Err(Void::Stale("b".into()));
        assert_eq!(judge(&stale), other);
        let mut failed_over = cut();
        failed_over.nodes[1].now.0 = "def".into();
        assert_eq!(judge(&failed_over), other);
        let mut behind = cut();
        behind.nodes[1].primary = Some(at(84));
        assert_eq!(judge(&behind), other);
        let mut late = cut();
        late.taken = SECOND;
        assert_eq!(judge(&late), Err(Void::Late));
    }

    #[test]
    fn void_cut_is_tried_again_a_few_times_with_growing_delays() {
        let delays: Vec<Next> = (1..=5)
            .map(|attempt| next(&Void::Late, attempt, 5))
            .collect();
        let expected = [100, 200, 400, 800].map(|ms| Next::Again(Duration::from_millis(ms)));
        assert_eq!(delays[..4], expected);
        assert_eq!(delays[4], Next::GiveUp);
        let refused = Void::Refused("a".into(), "NOPERM".into());
        assert_eq!(next(&refused, 1, 1), Next::FallBack);
        assert!(matches!(next(&Void::Late, 100, 200), Next::Again(_)));
    }

    #[test]
    fn best_cut_that_all_nodes_allow_is_chosen() {
        let all = Abilities {
            may_sync: true,
            may_configure: true,
            may_pause: true,
        };
        let kind = |abilities: Abilities, dataset, demanded| {
            let node = |name, abilities, dataset| Candidate {
                name,
                abilities,
                dataset,
            };
            let nodes = [node("a", all, 0), node("b", abilities, dataset)];
            choose(&nodes, demanded, SECOND)
        };
        let chosen = |abilities, dataset| kind(abilities, dataset, None).unwrap();
        let best = Choice {
            kind: CutKind::Stream,
            reason: None,
        };
        assert_eq!(chosen(all, u64::MAX), best);
        let no_config = Abilities {
            may_configure: false,
            ..all
        };
        let disk = chosen(no_config, u64::MAX);
        assert_eq!(disk.kind, CutKind::Disk);
        let reason = disk.reason.unwrap();
        assert_eq!(reason, "node \"b\" does not allow CONFIG SET");
        let no_sync = Abilities {
            may_sync: false,
            ..all
        };
        assert_eq!(chosen(no_sync, 1000).kind, CutKind::PausedScan);
        let large = chosen(no_sync, 100_000_000);
        assert_eq!(large.kind, CutKind::Scan);
        assert!(large.reason.unwrap().contains("more data"));
        let no_pause = Abilities {
            may_pause: false,
            ..all
        };
        assert_eq!(chosen(no_pause, 0).kind, CutKind::Scan);
        let demanded = kind(no_pause, 0, Some(CutKind::Disk));
        assert_eq!(
            demanded.unwrap_err(),
            "node \"b\" does not allow CLIENT PAUSE"
        );
        let poorer = kind(all, 0, Some(CutKind::Scan)).unwrap();
        assert_eq!(poorer.kind, CutKind::Scan);
    }
}
