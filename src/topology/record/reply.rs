//! [`RecordReply`]: what a node has replied to a question for its record, taken apart.

use redis::Value;

use super::requests::{RecordReading, RecordTexts};
use super::{NodeRecord, RecordProblem};

/// The record of a node as a script has read it, the server's `run_id`, and the texts beside the record if they were asked
/// for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordReply {
    /// `None` if there is none.
    pub(crate) record: Option<String>,
    pub(crate) run_id: String,
    pub(crate) texts: RecordTexts,
}

impl RecordReply {
    /// Takes the reply to a script apart. `None` if it is not that of one.
    pub(crate) fn of(reply: &Value) -> Option<Self> {
        let Value::Array(items) = reply else {
            return None;
        };
        let text = |at: usize| match items.get(at) {
            Some(Value::BulkString(bytes)) => {
                Some(Some(String::from_utf8_lossy(bytes).into_owned()))
            }
            Some(Value::SimpleString(text)) => Some(Some(text.clone())),
            Some(Value::Nil) | None => Some(None),
            Some(_) => None,
        };
        Some(Self {
            record: text(0)?,
            run_id: text(1)??,
            texts: RecordTexts {
                topology: text(2)?,
                target: text(3)?,
            },
        })
    }

    /// The reply with the record, whoever it was written to. Without one also if it cannot be read.
    pub(crate) fn reading(&self) -> RecordReading {
        let record = self.record.as_deref();
        RecordReading {
            record: record.and_then(|text| NodeRecord::parse(text).ok()),
            run_id: self.run_id.clone(),
            texts: self.texts.clone(),
        }
    }

    /// The record, if it can be used.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn sealed(&self) -> Result<NodeRecord, RecordProblem> {
        let text = self.record.as_deref().ok_or(RecordProblem::Missing)?;
        let record = NodeRecord::parse(text)
            .map_err(|error| RecordProblem::Unreadable(error.to_string()))?;
        match record.seal == self.run_id {
            true => Ok(record),
            false => Err(RecordProblem::OtherServer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_of_a_script_is_the_record_the_run_id_and_the_texts() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let none = RecordReply::of(&Value::Array(vec![Value::Nil, bulk("r")])).unwrap();
        assert_eq!((none.record, &*none.run_id), (None, "r"));
        let some = RecordReply::of(&Value::Array(vec![bulk("text"), bulk("r")])).unwrap();
        assert_eq!(some.record.as_deref(), Some("text"));
        assert_eq!(some.texts, RecordTexts::default());
        // It cannot be read.
        assert_eq!(some.reading().record, None);
        let items = vec![bulk("text"), bulk("r"), bulk("t"), Value::Nil];
        let all = RecordReply::of(&Value::Array(items)).unwrap();
        assert_eq!(all.texts.topology.as_deref(), Some("t"));
        let odd = Value::Array(vec![bulk("text"), bulk("r"), Value::Int(1)]);
        for other in [
            Value::Nil,
            Value::Array(vec![bulk("text")]),
            bulk("text"),
            odd,
        ] {
            assert_eq!(RecordReply::of(&other), None);
        }
    }
}
