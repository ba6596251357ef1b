//! [`RequestOutcome`]: how the requests to one node ended, for metrics and traces.

use redis::Value;

use crate::command::Access;
use crate::error::ErrorKind;
use crate::plan::batch::ReplySlot;
use crate::plan::{Answers, Failure, ReplyBuffer};

/// How the requests that were sent to one node together ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestOutcome {
    /// Number of replies that are errors.
    pub(crate) error_replies: usize,
    /// The kind of the error for the first request without a reply. `None` if all have one.
    pub(crate) failure: Option<ErrorKind>,
}

impl RequestOutcome {
    /// The outcome of a single request.
    pub(crate) fn of_reply(result: &Result<Value, Failure>, access: Access) -> Self {
        Self {
            error_replies: match result {
                Ok(value) => usize::from(matches!(value, Value::ServerError(_))),
                Err(_) => 0,
            },
            failure: result.as_ref().err().map(|failure| failure.kind(0, access)),
        }
    }

    /// The outcome of requests with these slots.
    pub(crate) fn of_answers<R: ReplyBuffer>(answers: &Answers<R>, slots: &[ReplySlot]) -> Self {
        let kind = |failure: &Failure| {
            let answered = answers.values.count();
            let access = slots
                .get(answered)
                .map_or(Access::Write, |slot| slot.access);
            failure.kind(answered, access)
        };
        Self {
            error_replies: answers.values.error_count(),
            failure: answers.failure.as_deref().map(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Cause;

    #[test]
    fn request_outcome_has_the_kind_of_the_first_request_without_a_reply() {
        let slots = [Access::Read, Access::Write].map(|access| ReplySlot::whole(0, access));
        let outcome = |values: Vec<Value>, sent| {
            let cause = Cause::Dropped("gone".into());
            let failure = Some(Box::new(Failure { cause, sent }));
            RequestOutcome::of_answers(&Answers { values, failure }, &slots)
        };
        let down = outcome(Vec::new(), 2);
        assert_eq!(down.failure, Some(ErrorKind::NodeDown));
        let unknown = outcome(vec![Value::Okay], 2);
        assert_eq!(unknown.failure, Some(ErrorKind::Unknown));
        let not_sent = outcome(vec![Value::Okay], 1);
        assert_eq!(not_sent.failure, Some(ErrorKind::NodeDown));
    }
}
