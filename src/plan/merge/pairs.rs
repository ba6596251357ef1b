//! Names with values: maps in RESP3, flat arrays in RESP2.

use redis::Value;

use crate::error::Error;
use crate::plan::merge::{Answer, elements, plain, unexpected};

/// Names with values, in the order they came.
pub(super) struct Pairs {
    kind: Kind,
    pub(super) pairs: Vec<(Value, Value)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Flat,
    Map,
}

impl Pairs {
    pub(super) fn read(answer: Answer<'_>) -> Result<Self, Error> {
        let node = answer.node;
        match plain(answer.value) {
            Value::Map(pairs) => Ok(Self {
                kind: Kind::Map,
                pairs,
            }),
            value => {
                let items = elements(Answer { node, value })?;
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

    /// The value of a name.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Value> {
        self.pairs
            .iter()
            .find(|(known, _)| is_named(known, name))
            .map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: &[u8]) -> Option<&mut Value> {
        self.pairs
            .iter_mut()
            .find(|(known, _)| is_named(known, name))
            .map(|(_, value)| value)
    }

    /// Takes the pairs of another node: values of names that are known go to `combine`, others to the end.
    pub(super) fn join(
        &mut self,
        other: Self,
        mut combine: impl FnMut(&Value, &mut Value, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (number, (name, value)) in other.pairs.into_iter().enumerate() {
            // Mostly every node says the same names in the same order.
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

    /// The value they were read from, or would be.
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

/// The pairs of all nodes as one, of the first node's kind.
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

fn is_named(value: &Value, name: &[u8]) -> bool {
    match value {
        Value::BulkString(known) => known == name,
        Value::SimpleString(known) => known.as_bytes() == name,
        _ => false,
    }
}
