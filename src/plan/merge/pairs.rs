//! Names with values: maps in RESP3, flat arrays in RESP2.
//!
//! `[x, 1, y, 2]` and `{x: 1, y: 2}` are read into the same pairs, merged, and written back in the form in
//! which they came.

use redis::Value;

use crate::error::Error;
use crate::plan::merge::{Answer, elements, plain, unexpected};

/// Names with values, in the order in which they came.
pub(super) struct Pairs {
    /// The form to be written back.
    kind: Kind,
    /// Names are not checked for repetition: servers do not repeat them.
    pub(super) pairs: Vec<(Value, Value)>,
}

/// Form of the pairs on the connection.
#[derive(Clone, Copy)]
enum Kind {
    /// An array of names and values in turn.
    Flat,
    /// A map of RESP3.
    Map,
}

impl Pairs {
    /// Reads the pairs of a reply in either form. An odd number of elements is an error.
    pub(super) fn read(answer: Answer<'_>) -> Result<Self, Error> {
        let node = answer.node;
        match plain(answer.value) {
            Value::Map(pairs) => Ok(Self {
                kind: Kind::Map,
                pairs,
            }),
            value => {
                let items = elements(Answer { node, value })?;
                // An error rather than a lost name: the reply is not of the form that the rule is for.
                if !items.len().is_multiple_of(2) {
                    return Err(unexpected(node, "a name without a value"));
                }
                let mut items = items.into_iter();
                Ok(Self {
                    kind: Kind::Flat,
                    pairs: std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect(),
                })
            }
        }
    }

    /// Returns the value of a name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Value> {
        self.pairs
            .iter()
            .find(|(known, _)| is_named(known, name))
            .map(|(_, value)| value)
    }

    /// Returns the value of a name, to be changed.
    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Value> {
        self.pairs
            .iter_mut()
            .find(|(known, _)| is_named(known, name))
            .map(|(_, value)| value)
    }

    /// Adds the pairs of another node: the value of a known name is given to `combine` with the one so far,
    /// others are appended.
    pub(super) fn join(
        &mut self,
        other: Self,
        mut combine: impl FnMut(&Value, &mut Value, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (number, (name, value)) in other.pairs.into_iter().enumerate() {
            // Nodes of one version list the same names in the same order, so the place is tried first:
            // searching for each of hundreds of names would take quadratic time.
            let at = match self.pairs.get(number) {
                Some((known, _)) if *known == name => Some(number),
                _ => self.pairs.iter().position(|(known, _)| *known == name),
            };
            match at {
                Some(at) => combine(&name, &mut self.pairs[at].1, value)?,
                None => self.pairs.push((name, value)),
            }
        }
        Ok(())
    }

    /// Writes the pairs in the form in which they were read.
    pub(super) fn into_value(self) -> Value {
        match self.kind {
            Kind::Map => Value::Map(self.pairs),
            Kind::Flat => Value::Array(
                self.pairs
                    .into_iter()
                    .flat_map(|(name, value)| [name, value])
                    .collect(),
            ),
        }
    }
}

/// Joins the pairs of all nodes, in the form that the first node's had. `combine` gets the node's name, the
/// name of the pair, the value so far and the node's value. `None` if there are no replies.
pub(super) fn join_all(
    answers: Vec<Answer<'_>>,
    mut combine: impl FnMut(&str, &Value, &mut Value, Value) -> Result<(), Error>,
) -> Result<Option<Pairs>, Error> {
    let mut merged: Option<Pairs> = None;
    for answer in answers {
        let node = answer.node;
        let pairs = Pairs::read(answer)?;
        match &mut merged {
            None => merged = Some(pairs),
            Some(merged) => {
                merged.join(pairs, |name, one, other| combine(node, name, one, other))?;
            }
        }
    }
    Ok(merged)
}

/// True if a name, as a bulk or simple string, has these bytes.
fn is_named(value: &Value, name: &[u8]) -> bool {
    match value {
        Value::BulkString(known) => known == name,
        Value::SimpleString(known) => known.as_bytes() == name,
        _ => false,
    }
}
