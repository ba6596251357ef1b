//! CONFIG GET of all nodes as one map.
//!
//! `{port: 1, save: ""}` of node a and `{port: 2, save: ""}` of node b are `{port: "a=1,b=2", save: ""}`: a
//! value that differs never passes for that of every node.

use redis::Value;

use crate::error::Error;
use crate::plan::merge::pairs::Pairs;
use crate::plan::merge::texts::{Text, alike_or_by_node, bulk};
use crate::plan::merge::{Answer, unexpected};

/// Values of one setting, by node. A node that does not know the setting, such as one of an older version, is
/// left out.
struct Setting<'n> {
    /// As the first node with this setting wrote it.
    name: Value,
    /// Node and value, in node order.
    values: Vec<(&'n str, String)>,
}

/// Merges CONFIG GET: equal values once, others by node.
pub(super) fn settings(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut frame = None;
    let mut settings: Vec<Setting<'_>> = Vec::new();
    for answer in answers {
        let node = answer.node;
        let mut pairs = Pairs::read(answer)?;
        for (number, (name, value)) in pairs.pairs.drain(..).enumerate() {
            let value = Text::read(Answer { node, value })?.to_str().into_owned();
            // Nodes of one version list their settings alike, so the place is tried before a search through
            // hundreds of names.
            let at = match settings.get(number) {
                Some(known) if known.name == name => Some(number),
                _ => settings.iter().position(|known| known.name == name),
            };
            match at {
                Some(at) => settings[at].values.push((node, value)),
                None => settings.push(Setting {
                    name,
                    values: vec![(node, value)],
                }),
            }
        }
        // Emptied above: only the form of the first node's reply is kept.
        frame.get_or_insert(pairs);
    }
    // There is always a reply: a command to all nodes without any is an error before it is merged.
    let Some(mut merged) = frame else {
        return Err(unexpected("", "nothing"));
    };
    merged.pairs = settings.into_iter().map(Setting::merged).collect();
    Ok(merged.into_value())
}

impl Setting<'_> {
    /// The pair for the reply.
    fn merged(self) -> (Value, Value) {
        let values: Vec<(&str, &str)> = self
            .values
            .iter()
            .map(|(node, value)| (*node, value.as_str()))
            .collect();
        (self.name, bulk(&alike_or_by_node(&values)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, flat, map, text};
    use super::*;

    #[test]
    fn config_get_lists_differing_settings_by_node() {
        let node = |port: &str| flat(&[("port", text(port)), ("appendonly", text("no"))]);
        let merged = settings(answers([node("1"), node("2")])).unwrap();
        let expected = flat(&[("port", text("a=1,b=2")), ("appendonly", text("no"))]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn config_get_in_resp3_is_merged_to_a_map_in_any_order() {
        let one = map(&[("x", text("1")), ("y", text("2"))]);
        let other = map(&[("y", text("2")), ("z", text("3")), ("x", text("1"))]);
        let merged = settings(answers([one, other])).unwrap();
        let expected = map(&[("x", text("1")), ("y", text("2")), ("z", text("3"))]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn config_get_without_matches_is_an_empty_array() {
        let none = settings(answers([flat(&[]), flat(&[])])).unwrap();
        assert_eq!(none, Value::Array(Vec::new()));
    }
}
