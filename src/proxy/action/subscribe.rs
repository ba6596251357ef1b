//! SUBSCRIBE, UNSUBSCRIBE and their relatives.
//!
//! The client gets its confirmation once the nodes have confirmed, so that a message published after it
//! arrives. Confirmations are messages and not replies, so they are written to a client that has switched
//! replies off too.

use crate::error::Error;
use crate::plan::pubsub::{NAMES_AT_ONCE, SubscriptionChange};
use crate::proxy::action::task::{ActionTask, Awaited, State};
use crate::proxy::action::{ActionContext, ActionStep, SubscriptionRequest};

impl ActionTask {
    /// Handles the confirmation of the nodes, or their failure.
    pub(super) fn subscribed(
        &mut self,
        request: SubscriptionRequest,
        result: Result<(), Error>,
        cx: &mut ActionContext<'_>,
    ) {
        match (result, request.change) {
            (Ok(()), SubscriptionChange::Subscribe) => {
                self.state = State::Confirm { request, next: 0 }
            }
            // Messages that arrived earlier are written first: once the session has confirmed UNSUBSCRIBE, it
            // drops them.
            (Ok(()), SubscriptionChange::Unsubscribe) => {
                self.step(ActionStep::PassOnMessages, Awaited::Messages(request));
            }
            (Err(error), SubscriptionChange::Subscribe) => self.roll_back(request, error, cx),
            (Err(error), SubscriptionChange::Unsubscribe) => self.subscription_failed(&error, cx),
        }
    }

    /// Ends what a failed SUBSCRIBE has begun: the client gets an error and expects no messages, except for
    /// names it was subscribed to before.
    fn roll_back(
        &mut self,
        mut request: SubscriptionRequest,
        error: Error,
        cx: &mut ActionContext<'_>,
    ) {
        request.change = SubscriptionChange::Unsubscribe;
        let SubscriptionRequest { kind, names, .. } = &mut request;
        names.retain(|name| !cx.session.is_subscribed_to(*kind, name));
        if names.is_empty() {
            return self.subscription_failed(&error, cx);
        }
        self.step(ActionStep::Subscribe(request), Awaited::Rollback(error));
    }

    /// Replies with the error of SUBSCRIBE or UNSUBSCRIBE.
    pub(super) fn subscription_failed(&mut self, error: &Error, cx: &mut ActionContext<'_>) {
        self.write_error(cx, error);
        self.end_subscriber(cx);
    }

    /// Confirms names from index `next` on. Many are confirmed in pieces, so that other clients get their
    /// turn.
    pub(super) fn confirm(
        &mut self,
        request: SubscriptionRequest,
        next: usize,
        cx: &mut ActionContext<'_>,
    ) {
        let end = request.names.len().min(next + NAMES_AT_ONCE);
        let names = &request.names[next..end];
        cx.session
            .subscribed(request.change, request.kind, names, cx.out);
        if names.len() == NAMES_AT_ONCE {
            self.steps.extend([ActionStep::Flush, ActionStep::Yield]);
        }
        match end == request.names.len() {
            true => self.end_subscriber(cx),
            false => self.state = State::Confirm { request, next: end },
        }
    }

    /// Closes the pub/sub connections of a client that has no subscriptions left.
    fn end_subscriber(&mut self, cx: &ActionContext<'_>) {
        if !cx.session.is_subscribed() {
            self.steps.push_back(ActionStep::DropSubscriber);
        }
    }
}
