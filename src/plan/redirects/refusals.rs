//! The replies of one server, read for those that refuse a request: where does each go next?

use crate::command::Access;
use crate::error::is_waited_code;
use crate::plan::batch::{NodeRequest, ReplySlot};
use crate::plan::redirects::{
    ClusterReport, ClusterRouting, DISCARDED, Destination, Place, UNBLOCKED_BY_CLIENT,
    parse_redirect,
};
use crate::plan::retries::{asks_for_state, has_server_text, runs_script};
use crate::plan::{Answers, Cause, Fallback, ReplyBuffer};
use crate::policy::ConnectError;

/// The replies of one server, read for refusals.
pub(super) struct Refusals<'p, 'a, R> {
    pub(super) routing: &'a ClusterRouting,
    pub(super) request: &'p NodeRequest,
    pub(super) answers: &'a Answers<R>,
    /// True if errors that pass are waited for.
    pub(super) waits: bool,
}

impl<R: ReplyBuffer> Refusals<'_, '_, R> {
    pub(super) fn has_error(&self) -> bool {
        let values = &self.answers.values;
        (0..values.count()).any(|number| values.error_code(number).is_some())
    }

    /// True if a request and the one before or behind it are for one part of a fan-out.
    pub(super) fn shares_part(&self, number: usize) -> bool {
        self.request.is_second_of_part(number) || self.request.is_second_of_part(number + 1)
    }

    /// True if request number `number` was refused because its keys are in two places, and may be sent key by key.
    pub(super) fn may_go_key_by_key(
        &self,
        number: usize,
        entry: &ReplySlot,
        args: &[&[u8]],
    ) -> bool {
        let hops = self.request.redirected.as_ref().map_or(0, |way| way.hops);
        let is_read = entry.access == Access::Read;
        self.answers.values.error_code(number) == Some(b"TRYAGAIN")
            && self.routing.may_go_key_by_key(args, is_read, hops)
    }

    /// Where request number `number` goes next. `None` if its reply, or the lack of one, is final.
    pub(super) fn destination(
        &self,
        number: usize,
        entry: &ReplySlot,
        args: &[&[u8]],
        reports: &mut Vec<ClusterReport>,
    ) -> Option<Destination> {
        if number >= self.answers.values.count() {
            let is_keyed = !self.routing.keys(args).is_empty();
            return self.after_failure(number, entry, is_keyed, reports);
        }
        let code = self.answers.values.error_code(number)?;
        if is_waited_code(code) {
            // The code may be one that the script has chosen, after it has written.
            if asks_for_state(args)
                || runs_script(args) && !has_server_text(&self.answers.values, number)
            {
                return None;
            }
        }
        let text = self.answers.values.error_text(number).unwrap_or_default();
        let is_keyed = !self.routing.keys(args).is_empty();
        self.after_refusal(code, text, is_keyed, reports)
    }

    /// Where a request goes that was refused with this error.
    pub(super) fn after_refusal(
        &self,
        code: &[u8],
        text: &[u8],
        is_keyed: bool,
        reports: &mut Vec<ClusterReport>,
    ) -> Option<Destination> {
        let wait_at = |place: Place| {
            self.waits.then_some(Destination {
                place,
                is_asking: false,
                is_named: false,
                is_delayed: true,
            })
        };
        match code {
            b"MOVED" | b"ASK" => {
                let (slot, address) = parse_redirect(text, || self.asked())?;
                let is_asking = code == b"ASK";
                if !is_asking {
                    reports.push(ClusterReport::Moved(slot, address.clone()));
                }
                Some(Destination {
                    place: self.routing.place(address, self.request.node),
                    is_asking,
                    is_named: true,
                    is_delayed: false,
                })
            }
            b"TRYAGAIN" => {
                let way = self.request.redirected.as_ref();
                let source = way.and_then(|way| way.source.clone());
                wait_at(source.unwrap_or_else(|| Place::of(self.request)))
            }
            b"BUSY" => wait_at(Place::of(self.request)),
            b"UNBLOCKED" if text.starts_with(UNBLOCKED_BY_CLIENT) => None,
            b"UNBLOCKED" => {
                reports.push(ClusterReport::Suspect);
                Some(Destination {
                    place: self.routing.other_place(self.request),
                    is_asking: false,
                    is_named: false,
                    is_delayed: false,
                })
            }
            b"CLUSTERDOWN" | b"LOADING" | b"MASTERDOWN" | b"READONLY" => {
                reports.push(ClusterReport::Suspect);
                match is_keyed {
                    true => wait_at(self.routing.other_place(self.request)),
                    false if code == b"READONLY" => None,
                    // What concerns this node alone.
                    false => wait_at(Place::of(self.request)),
                }
            }
            _ => None,
        }
    }

    /// Where a request goes that has no reply.
    pub(super) fn after_failure(
        &self,
        number: usize,
        entry: &ReplySlot,
        is_keyed: bool,
        reports: &mut Vec<ClusterReport>,
    ) -> Option<Destination> {
        let failure = self.answers.failure.as_ref()?;
        let is_lost = match &failure.cause {
            Cause::Connect(ConnectError::Auth(_) | ConnectError::Certificate(_)) => false,
            Cause::Connect(_) | Cause::Dropped(_) => true,
            Cause::PoolTimeout(_)
            | Cause::Timeout(_)
            | Cause::NoTime
            | Cause::Superseded
            | Cause::Moving(_) => false,
        };
        if !is_lost {
            return None;
        }
        reports.push(ClusterReport::Suspect);
        let answered = self.answers.values.count();
        // A part of a fan-out is for this node alone, where another would answer for its own keys; what any node may serve goes on as over plain nodes.
        let may_go = self.waits
            && is_keyed
            && entry.fallback == Fallback::None
            && failure.may_resend_rest(answered, &self.request.slots)
            && failure.may_send(number, entry.access);
        let is_first = self.request.redirected.is_none();
        may_go.then(|| Destination {
            place: self.routing.other_place(self.request),
            is_asking: false,
            is_named: false,
            is_delayed: !is_first,
        })
    }

    /// Where a transaction goes of which nothing ran.
    pub(super) fn of_transaction(&self, reports: &mut Vec<ClusterReport>) -> Option<Destination> {
        let values = &self.answers.values;
        let exec = values.count().checked_sub(1)?;
        // An error reply to MULTI itself is no refusal: the commands may have run one by one.
        if values.error_code(0).is_some() {
            return None;
        }
        let code = values.error_code(exec)?;
        let text = values.error_text(exec).unwrap_or_default();
        if code != b"EXECABORT" {
            return self.after_refusal(code, text, true, reports);
        }
        let mut refused = (1..exec).filter(|&number| values.error_code(number).is_some());
        let Some(first) = refused.next() else {
            let refusal = text.strip_prefix(DISCARDED)?;
            let mut words = refusal.splitn(2, |&byte| byte == b' ');
            let (code, text) = (words.next()?, words.next().unwrap_or_default());
            return self.after_refusal(code, text, true, reports);
        };
        let is_redirect = |number: usize| {
            let code = values.error_code(number).unwrap_or_default();
            matches!(code, b"MOVED" | b"ASK") || is_waited_code(code)
        };
        if !is_redirect(first) || !refused.all(is_redirect) {
            return None;
        }
        let text = values.error_text(first).unwrap_or_default();
        self.after_refusal(values.error_code(first)?, text, true, reports)
    }

    /// The host of the server that was asked, which a redirect without a host means.
    pub(super) fn asked(&self) -> Option<String> {
        let place = Place::of(self.request);
        let address = place.server.as_ref();
        let address = address.or_else(|| self.routing.map.address(place.node))?;
        Some(address.host.clone())
    }
}
