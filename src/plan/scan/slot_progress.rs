//! One slot of a scan by slots: what is asked about it next, and what a reply means.
//!
//! ```text
//!  Whole ── both probes 0 ─────────────────▶ Finished
//!    │ ── both ASK ──▶ Whole at the target ──▶ Confirm ──▶ Finished, with the keys of both
//!    │ ── MOVED, probes that differ ──▶ begun again; after some times: Locate, then begun again
//!    │ ── too many keys ──▶ Large: by pages
//!  Page ── there is more ──▶ Finished, with the cursor behind it
//!    │ ── the last of the owner ──▶ Finished; if keys were moving meanwhile, the pages of the target are next
//!    │ ── another process, a move that was cancelled ──▶ begun again
//! ```

use std::collections::HashSet;

use crate::error::{Error, server_error};
use crate::hash::{HashTag, SLOTS, slot};
use crate::plan::partial::is_out_of_reach;
use crate::plan::scan::slot_cursor::{
    FIRST_PAGE, PageCursor, Process, SlotCursor, Stage, Within, slot_at,
};
use crate::plan::scan::slot_scan::{
    Probe, ScanLimits, ScanServer, ServerProcess, SlotQuestion, SlotReply, SlotRequest,
};
use crate::topology::HostPort;

/// A number of keys that no slot exceeds: one less than the largest that a server accepts.
const ALL_KEYS: usize = i32::MAX as usize - 1;

/// A slot that is asked for.
#[derive(Debug)]
pub(super) struct SlotProgress {
    pub(super) position: u16,
    /// True if it is scanned by pages.
    pub(super) is_large: bool,
    pub(super) task: Task,
    /// The server that owns the slot as far as is known.
    server: ScanServer,
    /// Number of the probe.
    probe: u8,
    /// Number of times that it was asked for again.
    attempts: u8,
    /// The page to be found, if it is scanned by pages.
    page: PageCursor,
}

/// What is asked next about a slot.
#[derive(Debug)]
pub(super) enum Task {
    /// All keys, if there are no more than `limit`.
    Whole {
        limit: usize,
        /// The target of the slot, and the keys that were still at the source.
        target: Option<(HostPort, Vec<Vec<u8>>)>,
    },
    /// A page.
    Page { at: PageCursor, from: PageSource },
    /// Whether the slot still moves to this server, which had these keys besides. Between two writes it may have arrived
    /// there, and have gone on.
    Confirm {
        target: HostPort,
        keys: Vec<Vec<u8>>,
        more: Option<PageCursor>,
    },
    /// The owner, which is waited for.
    Locate,
    /// Another node: whether there is a new owner. If not, the slot is left out with this error.
    AskOther(Error),
    /// Nothing: these are the keys, and whether there is more.
    Finished(Vec<Vec<u8>>, Option<PageCursor>),
    /// Nothing: the slot has very many keys.
    Large,
    /// Nothing: the slot cannot be asked for.
    LeftOut(Error),
}

/// The server of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PageSource {
    /// The owner. In the last stage after the slot has arrived.
    Owner,
    /// The server that the owner names. For the last stage.
    Named,
    /// That server, while the slot moves there.
    Target(HostPort),
    /// That server, since the slot has moved there.
    NewOwner(HostPort),
}

/// What a reply means for a slot.
#[derive(Debug)]
pub(super) enum Next {
    /// This is asked.
    Task(Task),
    /// The same is asked of this server.
    Again(ScanServer),
    /// It is begun again.
    Restart,
    /// The key of the probe exists.
    OtherProbe,
    /// The server cannot be asked for the time being.
    Lost(Error),
    /// The owner was found.
    Located(ScanServer),
}

/// A page as it was received, with probes neither of which is MOVED.
struct FoundPage {
    server: ServerProcess,
    cursor: u64,
    keys: Vec<Vec<u8>>,
    /// The stage, by the probes.
    stage: Stage,
}

impl Task {
    /// The page at this cursor.
    pub(super) fn page(at: PageCursor) -> Self {
        let from = match at.stage {
            Stage::Owner | Stage::Source => PageSource::Owner,
            Stage::Target => PageSource::Named,
        };
        Self::Page { at, from }
    }
}

impl SlotProgress {
    /// The slot at this position, of which this is asked first.
    pub(super) fn new(position: u16, task: Task) -> Self {
        let page = match &task {
            Task::Page { at, .. } => Some(*at),
            _ => None,
        };
        Self {
            position,
            is_large: page.is_some(),
            page: page.unwrap_or(FIRST_PAGE),
            task,
            server: ScanServer::Owner,
            probe: 0,
            attempts: 0,
        }
    }

    fn slot(&self) -> u16 {
        slot_at(self.position)
    }

    /// The request that its task needs, with this number; `None` if it is finished. `count` is COUNT of the scan.
    pub(super) fn request(
        &self,
        number: usize,
        count: usize,
        limits: &ScanLimits,
    ) -> Option<SlotRequest> {
        let owner = (self.server.clone(), false);
        let ((server, is_asking), question) = match &self.task {
            Task::Whole { limit, target } => {
                let target = target.as_ref().map(|(target, _)| target.clone());
                let server = target.map_or(owner, |target| (ScanServer::At(target), true));
                // One more, which shows that there are too many.
                (server, SlotQuestion::Keys { limit: limit + 1 })
            }
            Task::Page { at, from } => {
                let cursor = match at.is_of_slot {
                    true => at.cursor << SLOTS.ilog2() | u64::from(self.slot()),
                    false => at.cursor,
                };
                let count = count.max(limits.page_keys);
                let page = SlotQuestion::Page { cursor, count };
                match from {
                    PageSource::Owner => (owner, page),
                    PageSource::Named => (owner, SlotQuestion::Probe),
                    PageSource::Target(at) => ((ScanServer::At(at.clone()), true), page),
                    PageSource::NewOwner(at) => ((ScanServer::At(at.clone()), false), page),
                }
            }
            Task::Confirm { .. } => (owner, SlotQuestion::Probe),
            Task::Locate => (owner, SlotQuestion::Locate),
            Task::AskOther(_) => ((ScanServer::Other, false), SlotQuestion::Probe),
            Task::Finished(..) | Task::Large | Task::LeftOut(_) => return None,
        };
        Some(SlotRequest {
            number,
            slot: self.slot(),
            probe: self.probe,
            server,
            is_asking,
            question,
        })
    }

    /// What a reply to its request means.
    pub(super) fn next(&mut self, reply: SlotReply, limits: &ScanLimits) -> Next {
        match reply {
            SlotReply::Refused(error) => Next::Task(Task::LeftOut(error)),
            SlotReply::Failed(error) => Next::Lost(error),
            SlotReply::Located(server) => Next::Located(ScanServer::At(server)),
            SlotReply::Probe(probe) => self.after_probe(probe),
            SlotReply::Keys {
                before,
                keys,
                after,
            } => self.after_keys(before, keys, after, limits),
            SlotReply::Page {
                before,
                server,
                cursor,
                keys,
                after,
            } => {
                let stage = match self.stage(before, after) {
                    Ok(stage) => stage,
                    Err(next) => return next,
                };
                let page = FoundPage {
                    server,
                    cursor,
                    keys,
                    stage,
                };
                self.after_page(page, limits)
            }
        }
    }

    /// Goes on as a reply says. If the slot `may_be_left_out`, an owner that cannot be reached is not waited for.
    pub(super) fn go_on(&mut self, next: Next, limits: &ScanLimits, may_be_left_out: bool) {
        match next {
            Next::Task(task) => {
                self.is_large |= matches!(task, Task::Large);
                self.task = task;
            }
            Next::Located(server) => {
                self.server = server;
                self.task = self.beginning(limits);
            }
            Next::Again(server) => {
                self.server = server;
                self.ask_again(limits);
            }
            Next::Restart => {
                self.page = FIRST_PAGE;
                self.ask_again(limits);
            }
            Next::OtherProbe => {
                self.probe = self.probe.wrapping_add(1);
                if let Err(error) = self.count_attempt(limits) {
                    self.task = Task::LeftOut(error);
                }
            }
            Next::Lost(error) => {
                // The search for the owner waits as long as it may.
                let is_final =
                    matches!(self.task, Task::Locate) || self.count_attempt(limits).is_err();
                self.task = match std::mem::replace(&mut self.task, Task::Locate) {
                    Task::AskOther(first) => Task::LeftOut(first),
                    _ if is_final => Task::LeftOut(error),
                    _ if may_be_left_out && is_out_of_reach(error.kind()) => Task::AskOther(error),
                    _ => Task::Locate,
                };
            }
        }
    }

    /// Asks again, or looks for the owner if that was done too often.
    fn ask_again(&mut self, limits: &ScanLimits) {
        self.task = match self.count_attempt(limits) {
            Err(error) => Task::LeftOut(error),
            Ok(()) if self.attempts > limits.attempts_at_once => Task::Locate,
            Ok(()) => self.beginning(limits),
        };
    }

    /// Counts that it is asked for again.
    ///
    /// # Errors
    ///
    /// When that was too often.
    fn count_attempt(&mut self, limits: &ScanLimits) -> Result<(), Error> {
        self.attempts += 1;
        if self.attempts <= limits.attempts {
            return Ok(());
        }
        let text = format!(
            "slot {} moved while it was scanned, again and again; repeat SCAN with the same cursor",
            self.slot()
        );
        Err(Error::from_server(&server_error("TRYAGAIN", &text), None))
    }

    /// The task of finding its keys, or its next page.
    fn beginning(&self, limits: &ScanLimits) -> Task {
        match self.is_large {
            true => Task::page(self.page),
            false => Task::Whole {
                limit: limits.slot_keys,
                target: None,
            },
        }
    }

    /// After a probe of the owner that is about its target.
    fn after_probe(&mut self, probe: Probe) -> Next {
        match (probe, &mut self.task) {
            (Probe::Exists, _) => Next::OtherProbe,
            (Probe::Moved(to), Task::AskOther(error)) => {
                let to = ScanServer::At(to);
                match self.server == to {
                    true => Next::Task(Task::LeftOut(error.clone())),
                    false => Next::Again(to),
                }
            }
            (_, Task::AskOther(_)) => Next::Again(ScanServer::Other),
            (Probe::Ask(to), &mut Task::Page { at, .. }) => Next::Task(Task::Page {
                at,
                from: PageSource::Target(to),
            }),
            (Probe::Moved(to), &mut Task::Page { at, .. }) => Next::Task(Task::Page {
                at,
                from: PageSource::NewOwner(to),
            }),
            (Probe::Ask(to), Task::Confirm { target, keys, more }) if to == *target => {
                Next::Task(Task::Finished(std::mem::take(keys), more.take()))
            }
            // It is the former target, if the cursor is one of its own.
            (Probe::Absent, &mut Task::Page { at, .. }) if at.cursor != 0 => {
                Next::Task(Task::Page {
                    at,
                    from: PageSource::Owner,
                })
            }
            (Probe::Moved(to), _) => Next::Again(ScanServer::At(to)),
            // The move was cancelled.
            _ => Next::Restart,
        }
    }

    /// After the keys of the whole slot.
    fn after_keys(
        &mut self,
        before: Probe,
        keys: Vec<Vec<u8>>,
        after: Probe,
        limits: &ScanLimits,
    ) -> Next {
        let Task::Whole { limit, target } = &mut self.task else {
            return Next::Restart;
        };
        let limit = *limit;
        match (before, after) {
            (Probe::Exists, _) | (_, Probe::Exists) => Next::OtherProbe,
            (Probe::Moved(to), _) | (_, Probe::Moved(to)) => Next::Again(ScanServer::At(to)),
            (Probe::Absent, Probe::Absent) if keys.len() > limit => too_many(limit, limits),
            (Probe::Absent, Probe::Absent) => match target.take() {
                None => Next::Task(Task::Finished(keys, None)),
                Some((target, source)) => Next::Task(Task::Confirm {
                    target,
                    keys: union(source, keys),
                    more: None,
                }),
            },
            (before, after) => match target {
                // It owns the slot by now, which moves on.
                Some((target, _)) => Next::Again(ScanServer::At(target.clone())),
                None => match (before, after) {
                    (Probe::Ask(to), Probe::Ask(also)) if to == also => match keys.len() > limit {
                        true => too_many(limit, limits),
                        false => Next::Task(Task::Whole {
                            limit,
                            target: Some((to, keys)),
                        }),
                    },
                    _ => Next::Restart,
                },
            },
        }
    }

    /// The stage that these probes around a page show.
    ///
    /// # Errors
    ///
    /// With what is done instead, if the page is not to be used.
    fn stage(&self, before: Probe, after: Probe) -> Result<Stage, Next> {
        let Task::Page { at, from } = &self.task else {
            return Err(Next::Restart);
        };
        match (before, after, from) {
            (Probe::Exists, _, _) | (_, Probe::Exists, _) => Err(Next::OtherProbe),
            (Probe::Moved(to), _, _) | (_, Probe::Moved(to), _) => {
                Err(Next::Again(ScanServer::At(to)))
            }
            (before, after, PageSource::Owner) => match (before, after, at.stage) {
                (Probe::Absent, Probe::Absent, Stage::Owner) => Ok(Stage::Owner),
                (Probe::Absent, Probe::Absent, Stage::Target) => Ok(Stage::Target),
                (Probe::Absent, Probe::Ask(_), Stage::Owner)
                | (Probe::Ask(_), Probe::Ask(_), _) => Ok(Stage::Source),
                // The move was cancelled: keys may have come back to where the scan has been.
                _ => Err(Next::Restart),
            },
            (Probe::Absent, Probe::Absent, _) => Ok(Stage::Target),
            // It owns the slot by now, which moves on.
            _ => Err(Next::Restart),
        }
    }

    /// After a page with good probes.
    fn after_page(&self, page: FoundPage, limits: &ScanLimits) -> Next {
        let Task::Page { at, from } = &self.task else {
            return Next::Restart;
        };
        let (at, from, position) = (*at, from.clone(), self.position);
        let is_first = at.cursor == 0;
        let within = Within::Pages(at);
        if !(SlotCursor { position, within }).is_of(page.server.id) {
            return Next::Restart;
        }
        if at.is_of_slot != page.server.has_slot_cursors {
            return match (is_first, at.stage) {
                (true, Stage::Target) => {
                    let is_of_slot = !at.is_of_slot;
                    let at = PageCursor { is_of_slot, ..at };
                    Next::Task(Task::Page { at, from })
                }
                (true, _) if at.is_of_slot => whole(limits.slot_keys_without_cursor),
                _ => Next::Restart,
            };
        }
        let number = slot_at(position);
        let next = match at.is_of_slot {
            true if page.cursor % u64::from(SLOTS) == u64::from(number) => {
                page.cursor >> SLOTS.ilog2()
            }
            // Not what such a server would return: the slot has many more keys.
            true if is_first && page.stage == Stage::Owner => {
                return whole(limits.slot_keys_without_cursor);
            }
            true => 0,
            false => page.cursor,
        };
        let mut keys = page.keys;
        keys.retain(|key| slot(HashTag::Braces.of(key)) == number);
        let (stage, is_of_slot) = (page.stage, at.is_of_slot);
        let more = match (next, stage) {
            (0, Stage::Owner | Stage::Target) => None,
            (0, Stage::Source) => Some(PageCursor {
                stage: Stage::Target,
                is_of_slot,
                ..FIRST_PAGE
            }),
            (cursor, _) => Some(PageCursor {
                stage,
                is_of_slot,
                cursor,
                process: Process::Known(page.server.id),
            }),
        };
        let cursor = more.map(|page| SlotCursor {
            position,
            within: Within::Pages(page),
        });
        match cursor {
            // Too large for a cursor below 2^53.
            Some(cursor) if cursor.pack().is_none() => whole(ALL_KEYS),
            _ => Next::Task(match from {
                PageSource::Target(target) => Task::Confirm { target, keys, more },
                _ => Task::Finished(keys, more),
            }),
        }
    }
}

/// Asks for all keys of a slot at once, if they are no more than `limit`.
fn whole(limit: usize) -> Next {
    Next::Task(Task::Whole {
        limit,
        target: None,
    })
}

/// After more than `limit` keys were found in a slot.
fn too_many(limit: usize, limits: &ScanLimits) -> Next {
    Next::Task(match limit <= limits.slot_keys {
        true => Task::Large,
        // The server has no cursors of single slots.
        false => Task::page(PageCursor {
            is_of_slot: false,
            ..FIRST_PAGE
        }),
    })
}

/// The keys of the source, and those of the target that were not found there.
fn union(source: Vec<Vec<u8>>, target: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let seen: HashSet<&[u8]> = source.iter().map(Vec::as_slice).collect();
    let new: Vec<bool> = target
        .iter()
        .map(|key| !seen.contains(key.as_slice()))
        .collect();
    let more = target.into_iter().zip(new);
    let more: Vec<Vec<u8>> = more
        .filter(|(_, is_new)| *is_new)
        .map(|(key, _)| key)
        .collect();
    let mut keys = source;
    keys.extend(more);
    keys
}
