//! One slot of a scan by slots: what is asked about it next, and what a reply means.
//!
//! ```text
//!  Whole ── both probes 0 ─────────────────▶ Finished
//!    │ ── both ASK ──▶ Whole at the target ──▶ Finished, with the keys of both
//!    │ ── MOVED, probes that differ ──▶ begun again; after some times: Locate, then begun again
//!    │ ── too many keys ──▶ Large: by pages
//!  Page ── there is more ──▶ Finished, with the cursor behind it
//!    │ ── the last of the owner ──▶ Finished; if keys were moving meanwhile, the pages of the target are next
//!    │ ── another process, a move that was cancelled ──▶ begun again
//! ```

use std::collections::HashSet;

use crate::error::{Error, server_error};
use crate::hash::{HashTag, SLOTS, slot};
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
    /// Number of times that it was begun again.
    attempts: u8,
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
    Page {
        at: PageCursor,
        /// The target, once the source has named it. For [`Stage::Target`].
        target: Option<HostPort>,
    },
    /// The owner.
    Locate,
    /// Nothing: these are the keys, and whether there is more.
    Finished(Vec<Vec<u8>>, Option<PageCursor>),
    /// Nothing: the slot has very many keys.
    Large,
    /// Nothing: the slot cannot be asked for.
    LeftOut(Error),
}

/// What a reply means for a slot.
#[derive(Debug)]
pub(super) enum Next {
    /// This is asked.
    Task(Task),
    /// It is begun again, at this server.
    Again(ScanServer),
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

impl SlotProgress {
    /// The slot at this position, of which this is asked first.
    pub(super) fn new(position: u16, task: Task) -> Self {
        Self {
            position,
            is_large: matches!(task, Task::Page { .. }),
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
        let (target, question) = match &self.task {
            Task::Whole { limit, target } => {
                let target = target.as_ref().map(|(target, _)| target);
                // One more, which shows that there are too many.
                (target, SlotQuestion::Keys { limit: limit + 1 })
            }
            Task::Page { at, target: None } if at.stage == Stage::Target => {
                (None, SlotQuestion::Probe)
            }
            Task::Page { at, target } => {
                let cursor = match at.is_of_slot {
                    true => at.cursor << SLOTS.ilog2() | u64::from(self.slot()),
                    false => at.cursor,
                };
                let count = count.max(limits.page_keys);
                (target.as_ref(), SlotQuestion::Page { cursor, count })
            }
            Task::Locate => (None, SlotQuestion::Locate),
            Task::Finished(..) | Task::Large | Task::LeftOut(_) => return None,
        };
        Some(SlotRequest {
            number,
            slot: self.slot(),
            probe: self.probe,
            is_asking: target.is_some(),
            server: target.map_or_else(|| self.server.clone(), |at| ScanServer::At(at.clone())),
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

    /// Goes on as a reply says.
    pub(super) fn go_on(&mut self, next: Next, limits: &ScanLimits) {
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
                self.task = match self.count_attempt(limits) {
                    Err(error) => Task::LeftOut(error),
                    Ok(()) if self.attempts > limits.attempts_at_once => Task::Locate,
                    Ok(()) => self.beginning(limits),
                };
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
                self.task = match is_final {
                    true => Task::LeftOut(error),
                    false => Task::Locate,
                };
            }
        }
    }

    /// Counts that it is begun again.
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

    /// The task with which it is begun again.
    fn beginning(&self, limits: &ScanLimits) -> Task {
        match self.is_large {
            true => Task::Page {
                at: FIRST_PAGE,
                target: None,
            },
            false => Task::Whole {
                limit: limits.slot_keys,
                target: None,
            },
        }
    }

    /// After the probe of the source that tells where the target is.
    fn after_probe(&self, probe: Probe) -> Next {
        match (probe, &self.task) {
            (Probe::Exists, _) => Next::OtherProbe,
            (Probe::Ask(to) | Probe::Moved(to), &Task::Page { at, .. }) => {
                let target = Some(to);
                Next::Task(Task::Page { at, target })
            }
            // The move was cancelled.
            _ => Next::Again(self.server.clone()),
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
            return Next::Again(self.server.clone());
        };
        let limit = *limit;
        match (before, after) {
            (Probe::Exists, _) | (_, Probe::Exists) => Next::OtherProbe,
            (Probe::Moved(to), _) | (_, Probe::Moved(to)) => Next::Again(ScanServer::At(to)),
            (Probe::Absent, Probe::Absent) if keys.len() > limit => too_many(limit, limits),
            (Probe::Absent, Probe::Absent) => match target.take() {
                None => Next::Task(Task::Finished(keys, None)),
                Some((_, source)) => Next::Task(Task::Finished(union(source, keys), None)),
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
                    _ => Next::Again(self.server.clone()),
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
        let Task::Page { at, target } = &self.task else {
            return Err(Next::Again(self.server.clone()));
        };
        match (before, after, target) {
            (Probe::Exists, _, _) | (_, Probe::Exists, _) => Err(Next::OtherProbe),
            (Probe::Moved(to), _, _) | (_, Probe::Moved(to), _) => {
                Err(Next::Again(ScanServer::At(to)))
            }
            (Probe::Absent, Probe::Absent, Some(_)) => Ok(Stage::Target),
            // It owns the slot by now, which moves on.
            (_, _, Some(target)) => Err(Next::Again(ScanServer::At(target.clone()))),
            (Probe::Absent, Probe::Absent, None) if at.stage == Stage::Owner => Ok(Stage::Owner),
            (Probe::Ask(_), Probe::Ask(_), None) => Ok(Stage::Source),
            (Probe::Absent, Probe::Ask(_), None) if at.stage == Stage::Owner => Ok(Stage::Source),
            // The move was cancelled: keys may have come back to where the scan has been.
            _ => Err(Next::Again(self.server.clone())),
        }
    }

    /// After a page with good probes.
    fn after_page(&mut self, page: FoundPage, limits: &ScanLimits) -> Next {
        let Task::Page { at, target } = &mut self.task else {
            return Next::Again(self.server.clone());
        };
        let (at, target, position) = (*at, target.take(), self.position);
        let again = || Next::Again(self.server.clone());
        let is_first = at.cursor == 0;
        let within = Within::Pages(at);
        if !(SlotCursor { position, within }).is_of(page.server.id) {
            return again();
        }
        if at.is_of_slot != page.server.has_slot_cursors {
            return match (is_first, at.stage) {
                (true, Stage::Target) => {
                    let is_of_slot = !at.is_of_slot;
                    let at = PageCursor { is_of_slot, ..at };
                    Next::Task(Task::Page { at, target })
                }
                (true, _) if at.is_of_slot => whole(limits.slot_keys_without_cursor),
                _ => again(),
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
            _ => Next::Task(Task::Finished(keys, more)),
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
        false => Task::Page {
            at: PageCursor {
                is_of_slot: false,
                ..FIRST_PAGE
            },
            target: None,
        },
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
