//! SUBSCRIBE, UNSUBSCRIBE and their relatives.
//!
//! The client is told of a subscription when the nodes have confirmed it. Confirmations are messages and no replies, so they come also to a
//! client that has switched replies off.

use crate::error::Error;
use crate::plan::pubsub::{NAMES_AT_ONCE, SubscriptionChange};
use crate::proxy::action::task::{ActionTask, Awaited, State};
use crate::proxy::action::{ActionContext, ActionStep, SubscriptionRequest};

impl ActionTask {
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
            // Messages that came before belong before the confirmation, for behind it the session drops them.
            (Ok(()), SubscriptionChange::Unsubscribe) => {
                self.step(ActionStep::PassOnMessages, Awaited::Messages(request));
            }
            (Err(error), SubscriptionChange::Subscribe) => self.roll_back(request, error, cx),
            (Err(error), SubscriptionChange::Unsubscribe) => self.subscription_failed(&error, cx),
        }
    }

    /// A client that is told that SUBSCRIBE failed looks for no messages, except for those of names that it had before.
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

    pub(super) fn subscription_failed(&mut self, error: &Error, cx: &mut ActionContext<'_>) {
        self.write_error(cx, error);
        self.end_subscriber(cx);
    }

    /// Confirms names from number `next` on. Many are confirmed in pieces, so that other clients do not wait for this one.
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

    /// Without subscriptions the connections to the nodes are not needed.
    fn end_subscriber(&mut self, cx: &ActionContext<'_>) {
        if !cx.session.is_subscribed() {
            self.steps.push_back(ActionStep::DropSubscriber);
        }
    }
}
