//! [`RequestOutcome`]: how the requests to one node ended, for metrics and traces.

use redis::Value;

use crate::command::Access;
use crate::error::ErrorKind;
use crate::plan::batch::ReplySlot;
use crate::plan::{Answers, Failure, ReplyBuffer};
use crate::policy::Refusal;

/// How the requests that were sent to one node together ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestOutcome {
    /// Number of replies that are errors.
    pub(crate) error_replies: usize,
    /// The kind of the error for the first request without a reply. `None` if all have one.
    pub(crate) failure: Option<ErrorKind>,
    /// True if there is a reply, of whatever kind.
    pub(crate) is_served: bool,
    /// True if a reply is missing because there was none in time, though the node was asked.
    pub(crate) is_late: bool,
    /// The first reply that says that the server serves no requests for now.
    pub(crate) refusal: Option<Refusal>,
}

impl RequestOutcome {
    /// The outcome of a single request.
    pub(crate) fn of_reply(result: &Result<Value, Failure>, access: Access) -> Self {
        match result {
            Ok(Value::ServerError(error)) => Self {
                error_replies: 1,
                failure: None,
                is_served: true,
                is_late: false,
                refusal: Refusal::of_code(error.code().as_bytes()),
            },
            Ok(_) => Self {
                error_replies: 0,
                failure: None,
                is_served: true,
                is_late: false,
                refusal: None,
            },
            Err(failure) => Self {
                error_replies: 0,
                failure: Some(failure.kind(0, access)),
                is_served: false,
                is_late: failure.is_late(),
                refusal: None,
            },
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
        let (count, error_replies) = (answers.values.count(), answers.values.error_count());
        let refusal = |number| Refusal::of_code(answers.values.error_code(number)?);
        Self {
            error_replies,
            failure: answers.failure.as_deref().map(kind),
            is_served: count > 0,
            is_late: answers.failure.as_deref().is_some_and(Failure::is_late),
            refusal: match error_replies {
                0 => None,
                _ => (0..count).find_map(refusal),
            },
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
