//! One step of a scan over a Redis Cluster, slot by slot.
//!
//! A server lists the keys of a slot, CLUSTER GETKEYSINSLOT, whether it owns the slot or not, and does not tell whether
//! these are all of them. It tells in reply to a command with a key of the slot. So a slot is asked for by three commands
//! in one write, of which the two around the list are about a key that does not exist, a *probe*:
//!
//! | both probes | the keys are |
//! |---|---|
//! | 0 | complete |
//! | MOVED | those of no owner: that server is asked |
//! | ASK | a part; the others are at that server, which is asked next, behind ASKING |
//! | different | of unknown meaning: the server is asked again |
//!
//! A key that leaves the source after it was asked arrives at the target before that is asked, and a key that moves
//! between the two lists is in both, but returned once. The source confirms behind that by a last probe that the move is
//! still the same. So a key that exists all the time is returned exactly once,
//! whatever moves, and also while a slot rests half moved. A slot that moves there and back again between two of the three
//! commands of one write is the one thing that is not noticed.
//!
//! A slot with very many keys would block its server and fill a reply. It is scanned by pages of SCAN, with the same
//! probes around each page, first at the owner and, if keys were moving meanwhile, then at the target. The guarantee is that of
//! SCAN: no key is missed, but some are returned twice. A cursor means nothing to another server, nor to the same one after
//! a restart: then the slot is begun again.
//!
//! Servers of Redis 7.4 and Valkey 8 on have cursors of single slots. Before that a page comes from the whole keyspace of
//! the server and is filtered here, so a slot is fetched as a whole up to a higher limit.

use crate::error::Error;
use crate::hash::SLOTS;
use crate::plan::partial::is_out_of_reach;
use crate::plan::scan::options::ScanOptions;
use crate::plan::scan::slot_cursor::{
    Density, FIRST_PAGE, PageCursor, SlotCursor, Within, position_of, slot_at,
};
use crate::plan::scan::slot_progress::{Next, SlotProgress, Task};
use crate::topology::HostPort;

/// Limits of one step.
#[derive(Clone, Copy, Debug)]
pub(in crate::plan) struct ScanLimits {
    /// Maximum number of keys of a slot that are fetched at once from a server with cursors of single slots.
    pub(in crate::plan) slot_keys: usize,
    /// Maximum number of keys of a slot that are fetched at once from any other server, unless its cursors are too large.
    pub(in crate::plan) slot_keys_without_cursor: usize,
    /// Minimum number of keys that a server examines for a page.
    pub(in crate::plan) page_keys: usize,
    /// Maximum number of slots asked for at once, for each node: 0.2 ms of a server's time.
    pub(in crate::plan) slots_of_node: usize,
    /// Number of keys above which no more slots are asked for at once.
    pub(in crate::plan) round_keys: usize,
    /// Maximum number of slots in a step, so that it ends soon if there are no keys.
    pub(in crate::plan) step_slots: usize,
    /// Number of times that a slot is asked for without a pause after the first, before its owner is looked for.
    pub(in crate::plan) attempts_at_once: u8,
    /// Maximum number of times that a slot is asked for.
    pub(in crate::plan) attempts: u8,
    /// Number of positions, from 0 on. Less than that of all slots in tests.
    pub(in crate::plan) positions: u16,
}

impl ScanLimits {
    /// Those of a client.
    pub(in crate::plan) const CLIENT: Self = Self {
        slot_keys: 10_000,
        slot_keys_without_cursor: 100_000,
        page_keys: 1000,
        slots_of_node: 128,
        round_keys: 10_000,
        step_slots: 4096,
        attempts_at_once: 5,
        attempts: 16,
        positions: SLOTS,
    };
}

/// The server of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum ScanServer {
    /// The owner of the slot by the map.
    Owner,
    /// The node behind that.
    Other,
    /// The server at this address.
    At(HostPort),
}

/// A request about one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) struct SlotRequest {
    /// Identifies it among those of one round.
    pub(in crate::plan) number: usize,
    pub(in crate::plan) slot: u16,
    /// Number of the probe, from 0; another one is used if its key exists.
    pub(in crate::plan) probe: u8,
    pub(in crate::plan) server: ScanServer,
    /// True if ASKING goes before each command.
    pub(in crate::plan) is_asking: bool,
    pub(in crate::plan) question: SlotQuestion,
}

/// What is asked about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) enum SlotQuestion {
    /// Probe, this many keys, probe: [`SlotReply::Keys`].
    Keys { limit: usize },
    /// Probe, server, SCAN, probe: [`SlotReply::Page`].
    Page { cursor: u64, count: usize },
    /// Probe: [`SlotReply::Probe`].
    Probe,
    /// Which server replies to a probe, with redirects followed: [`SlotReply::Located`].
    Locate,
}

/// The reply to a [`SlotRequest`].
#[derive(Clone, Debug)]
pub(in crate::plan) enum SlotReply {
    Keys {
        before: Probe,
        keys: Vec<Vec<u8>>,
        after: Probe,
    },
    Page {
        before: Probe,
        server: ServerProcess,
        cursor: u64,
        keys: Vec<Vec<u8>>,
        after: Probe,
    },
    Probe(Probe),
    Located(HostPort),
    /// There is no reply, or one that passes by itself.
    Failed(Error),
    /// The server refuses what was asked.
    Refused(Error),
}

/// The reply to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) enum Probe {
    /// The slot is served, and the key does not exist.
    Absent,
    /// The key exists, which says nothing about the slot.
    Exists,
    /// ASK: the slot moves there.
    Ask(HostPort),
    /// MOVED: that is the owner.
    Moved(HostPort),
}

/// The process of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::plan) struct ServerProcess {
    /// A number made of its run id.
    pub(in crate::plan) id: u64,
    /// True if it has cursors of single slots.
    pub(in crate::plan) has_slot_cursors: bool,
}

/// The keys found in a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::plan) struct ScanPage {
    /// Where the next step begins. `None` if this was the last.
    pub(in crate::plan) next: Option<SlotCursor>,
    pub(in crate::plan) keys: Vec<Vec<u8>>,
}

/// What is done next.
#[derive(Debug)]
pub(in crate::plan) enum SlotScanStep {
    /// Send these requests, and pass each reply to [`SlotScan::handle`].
    Ask(Vec<SlotRequest>),
    /// The step is over.
    Done(Result<ScanPage, Error>),
}

/// One step of a scan, from a cursor to the next.
#[derive(Debug)]
pub(in crate::plan) struct SlotScan {
    options: ScanOptions,
    limits: ScanLimits,
    /// Number of nodes of the cluster.
    nodes: usize,
    /// True if slots whose owners cannot be reached are left out.
    is_partial: bool,
    /// The slots under way, in the order of their positions.
    window: Vec<SlotProgress>,
    /// Number of slots of the last window.
    last_width: usize,
    /// The position behind the window.
    next: u16,
    /// The position behind the last.
    end: u16,
    /// How many keys a slot had in earlier steps.
    density: Density,
    /// What is found so far.
    keys: Vec<Vec<u8>>,
    /// Number of keys found, before any filter, and of the slots that had them.
    examined: usize,
    answered: usize,
    /// True if some server has replied in an earlier step.
    was_answered: bool,
    /// Number of slots begun in this step.
    begun: usize,
    /// The last error of a slot that was left out.
    left_out: Option<Error>,
    /// The owners that MOVED has named.
    moved: Vec<(u16, HostPort)>,
    /// The result, once it is known.
    result: Option<Result<ScanPage, Error>>,
}

impl SlotScan {
    /// The step that begins at `cursor`, over a cluster of `nodes` nodes. If `is_partial`, slots whose owners cannot be
    /// reached are left out.
    pub(in crate::plan) fn new(
        cursor: SlotCursor,
        options: ScanOptions,
        limits: ScanLimits,
        nodes: usize,
        is_partial: bool,
    ) -> Self {
        let only = options.slot().map(position_of);
        let (first, end) = match only {
            None => (cursor.position, limits.positions),
            // Passed already, with another pattern.
            Some(only) if only < cursor.position => (only + 1, only + 1),
            Some(only) => (only, only + 1),
        };
        let mut scan = Self {
            options,
            limits,
            nodes: nodes.max(1),
            is_partial,
            window: Vec::new(),
            last_width: 0,
            next: first,
            end,
            density: Density::default(),
            keys: Vec::new(),
            examined: 0,
            answered: 0,
            was_answered: true,
            begun: 0,
            left_out: None,
            moved: Vec::new(),
            result: None,
        };
        match cursor.within {
            Within::Nothing {
                density,
                is_answered,
            } => {
                scan.density = density;
                scan.was_answered = is_answered;
            }
            Within::Pages(at) if first == cursor.position && first < end => {
                scan.begin(1, Task::page(at));
            }
            Within::Pages(_) => {}
        }
        scan
    }

    /// Returns what is done next. Each request that it returns is to be answered by [`handle`](Self::handle) before the
    /// next call.
    pub(in crate::plan) fn poll(&mut self) -> SlotScanStep {
        loop {
            if let Some(result) = self.result.take() {
                return SlotScanStep::Done(result);
            }
            let requests = self.requests();
            if !requests.is_empty() {
                return SlotScanStep::Ask(requests);
            }
            self.advance();
        }
    }

    /// The options of the scan.
    pub(in crate::plan) fn options(&self) -> &ScanOptions {
        &self.options
    }

    /// Takes the owners that MOVED has named since the last call.
    pub(in crate::plan) fn take_moved(&mut self) -> Vec<(u16, HostPort)> {
        std::mem::take(&mut self.moved)
    }

    /// Records the reply to request number `number`.
    pub(in crate::plan) fn handle(&mut self, number: usize, reply: SlotReply) {
        // Not there any more if a slot before it has turned out to have very many keys.
        let Some(state) = self.window.get_mut(number) else {
            return;
        };
        let slot = slot_at(state.position);
        let next = state.next(reply, &self.limits);
        if let Next::Again(ScanServer::At(server)) = &next {
            self.moved.push((slot, server.clone()));
        }
        state.go_on(next, &self.limits, self.is_partial);
        match &state.task {
            // What was asked for behind it would be asked for again.
            Task::Large => self.window.truncate(number + 1),
            Task::LeftOut(error) if !self.is_partial || !is_excused(error) => {
                self.result = Some(Err(error.clone()));
            }
            _ => {}
        }
    }

    /// The requests of the next round. All are for owners as far as is known, or all for targets: a server gets the
    /// requests of a round in one write, with ASKING before each command or before none.
    fn requests(&self) -> Vec<SlotRequest> {
        let all = self.window.iter().enumerate();
        let all: Vec<SlotRequest> = all
            .filter_map(|(number, state)| state.request(number, self.options.count, &self.limits))
            .collect();
        let rank =
            |request: &SlotRequest| (request.question != SlotQuestion::Locate, request.is_asking);
        let first = all.iter().map(rank).min();
        let is_first = |request: &SlotRequest| Some(rank(request)) == first;
        all.into_iter().filter(is_first).collect()
    }

    /// Takes the keys of the window, all of whose slots are finished, and begins the next window or ends the step.
    fn advance(&mut self) {
        for state in std::mem::take(&mut self.window) {
            let position = state.position;
            match state.task {
                Task::Finished(keys, more) => {
                    self.answered += 1;
                    self.examined += keys.len();
                    let options = &self.options;
                    self.keys
                        .extend(keys.into_iter().filter(|key| options.matches(key)));
                    if state.is_large {
                        // A page is a step, whatever it has brought.
                        return self.end_within(position, more);
                    }
                }
                Task::LeftOut(error) => self.left_out = Some(error),
                Task::Large => {
                    if self.examined > 0 {
                        return self.end_within(position, Some(FIRST_PAGE));
                    }
                    self.next = position;
                    let task = Task::page(FIRST_PAGE);
                    return self.begin(1, task);
                }
                // There are no requests left, so these are finished.
                Task::Whole { .. }
                | Task::Page { .. }
                | Task::AskOther(_)
                | Task::Confirm { .. }
                | Task::Locate => {}
            }
        }
        // A server that does not reply has taken the time of the step.
        let is_enough = self.examined >= self.options.count
            || self.begun >= self.limits.step_slots
            || self.left_out.is_some();
        if self.next >= self.end || is_enough {
            let density = match self.answered {
                0 => self.density,
                answered => Density::of(self.examined, answered),
            };
            return self.end_at(SlotCursor {
                position: self.next,
                within: Within::Nothing {
                    density,
                    is_answered: self.was_answered || self.answered > 0,
                },
            });
        }
        let task = Task::Whole {
            limit: self.limits.slot_keys,
            target: None,
        };
        self.begin(self.width(), task);
    }

    /// Number of slots to begin next.
    fn width(&self) -> usize {
        let left = self.options.count - self.examined;
        let (wanted, bearable) = match (self.answered, self.examined) {
            (0, _) => {
                let keys = self.limits.round_keys;
                let first = (left / 8).clamp(1, 16);
                let known = self.density.slots_of(left);
                (
                    known.unwrap_or(first),
                    self.density.slots_of(keys).unwrap_or(first),
                )
            }
            (_, 0) => (usize::MAX, usize::MAX),
            (slots, keys) => {
                let of = |wanted: usize| wanted.saturating_mul(slots).div_ceil(keys);
                (of(left), of(self.limits.round_keys))
            }
        };
        let grown = match self.last_width {
            0 => usize::MAX,
            last => last.saturating_mul(8),
        };
        wanted
            .min(bearable)
            .min(grown)
            .min(self.limits.slots_of_node.saturating_mul(self.nodes))
            .min(self.limits.step_slots - self.begun)
            .clamp(1, usize::from(self.end - self.next))
    }

    /// Begins the next `width` slots, with this task for each.
    fn begin(&mut self, width: usize, task: Task) {
        let end = self.next + width as u16;
        let mut first = Some(task);
        let whole = || Task::Whole {
            limit: self.limits.slot_keys,
            target: None,
        };
        self.window = (self.next..end)
            .map(|position| SlotProgress::new(position, first.take().unwrap_or_else(whole)))
            .collect();
        self.begun += width;
        self.last_width = width;
        self.next = end;
    }

    /// Ends the step behind a page of the slot at this position, or behind the slot.
    fn end_within(&mut self, position: u16, more: Option<PageCursor>) {
        let cursor = match more {
            Some(page) => SlotCursor {
                position,
                within: Within::Pages(page),
            },
            None => SlotCursor {
                position: position + 1,
                within: Within::Nothing {
                    density: self.density,
                    is_answered: true,
                },
            },
        };
        self.end_at(cursor);
    }

    /// Ends the step at this cursor.
    fn end_at(&mut self, cursor: SlotCursor) {
        let is_end = cursor.position >= self.end;
        // A scan that has reached no server must not look like one over empty servers.
        let is_answered = self.was_answered || self.answered > 0;
        if let (true, false, Some(error)) = (is_end, is_answered, self.left_out.take()) {
            self.result = Some(Err(error));
            return;
        }
        let next = (!is_end).then_some(cursor);
        let keys = std::mem::take(&mut self.keys);
        self.result = Some(Ok(ScanPage { next, keys }));
    }
}

/// True if a slot may be left out for this error: its server cannot be reached.
fn is_excused(error: &Error) -> bool {
    !error.is_untried() && is_out_of_reach(error.kind())
}
