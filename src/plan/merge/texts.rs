//! Texts: one after another, and what differs by node in one line.

use redis::{Value, VerbatimFormat};

use crate::error::Error;
use crate::plan::merge::{Answer, kind_of, plain, unexpected};

/// A text of the kind in which a node gave it.
pub(super) struct Text {
    kind: Kind,
    pub(super) bytes: Vec<u8>,
}

enum Kind {
    Bulk,
    Status,
    Verbatim(VerbatimFormat),
}

impl Text {
    pub(super) fn read(answer: Answer<'_>) -> Result<Self, Error> {
        let (kind, bytes) = match plain(answer.value) {
            Value::BulkString(bytes) => (Kind::Bulk, bytes),
            Value::SimpleString(text) => (Kind::Status, text.into_bytes()),
            Value::VerbatimString { format, text } => (Kind::Verbatim(format), text.into_bytes()),
            other => return Err(unexpected(answer.node, kind_of(&other))),
        };
        Ok(Self { kind, bytes })
    }

    pub(super) fn to_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Other words of the same kind.
    pub(super) fn with(self, bytes: Vec<u8>) -> Value {
        match self.kind {
            Kind::Bulk => Value::BulkString(bytes),
            Kind::Status => Value::SimpleString(lossy(bytes)),
            Kind::Verbatim(format) => Value::VerbatimString {
                format,
                text: lossy(bytes),
            },
        }
    }
}

/// Texts one after another.
pub(super) fn lines(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Option<Text> = None;
    for answer in answers {
        let text = Text::read(answer)?;
        match &mut merged {
            None => merged = Some(text),
            Some(merged) => merged.bytes.extend_from_slice(&text.bytes),
        }
    }
    Ok(merged.map_or(Value::Nil, |mut text| {
        let bytes = std::mem::take(&mut text.bytes);
        text.with(bytes)
    }))
}

/// Texts one after another, each under its node's name.
pub(super) fn by_node(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut kind = None;
    let mut all = Vec::new();
    for answer in answers {
        all.extend_from_slice(format!("# Node {}\n", answer.node.escape_debug()).as_bytes());
        match answer.value {
            Value::ServerError(error) => {
                let details = error.details().unwrap_or_default();
                all.extend_from_slice(format!("{} {details}", error.code()).as_bytes());
            }
            _ => {
                let text = Text::read(answer)?;
                all.extend_from_slice(&text.bytes);
                kind.get_or_insert(text);
            }
        }
        if !all.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    Ok(kind.map_or(Value::Nil, |kind| kind.with(all)))
}

/// What differs, as one text: `a=1,b=2`. What is alike is said once.
///
/// A comma parts the nodes, or a blank where a value has commas.
pub(super) fn alike_or_by_node(values: &[(&str, &str)]) -> String {
    let Some((_, first)) = values.first() else {
        return String::new();
    };
    if values.iter().all(|(_, value)| value == first) {
        return (*first).to_owned();
    }
    let commas = values.iter().any(|(_, value)| value.contains(','));
    let parts = values
        .iter()
        .map(|(node, value)| format!("{}={value}", word(node)));
    parts
        .collect::<Vec<_>>()
        .join(if commas { " " } else { "," })
}

/// A node's name as part of a field's name or of a list: without the characters that mean something there.
pub(super) fn word(node: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    node.chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

pub(super) fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, text};
    use super::*;
    use crate::error::server_error;

    fn verbatim(text: &str) -> Value {
        Value::VerbatimString {
            format: VerbatimFormat::Text,
            text: text.into(),
        }
    }

    #[test]
    fn client_list_joins_the_lines_of_all_nodes() {
        let merged = lines(answers([text("id=1\n"), text("id=7\nid=8\n")])).unwrap();
        assert_eq!(merged, text("id=1\nid=7\nid=8\n"));
        let merged = lines(answers([verbatim("id=1\n"), verbatim("id=2\n")])).unwrap();
        assert_eq!(merged, verbatim("id=1\nid=2\n"));
        assert!(lines(answers([text("x"), Value::Int(1)])).is_err());
    }

    #[test]
    fn texts_are_merged_under_the_names_of_their_nodes() {
        let merged = by_node(answers([verbatim("fine"), verbatim("so so\n")])).unwrap();
        assert_eq!(merged, verbatim("# Node a\nfine\n# Node b\nso so\n"));
    }

    #[test]
    fn error_of_one_node_is_merged_in_place_of_its_text() {
        let error = Value::ServerError(server_error("ERR", "No samples"));
        let merged = by_node(answers([error, text("graph")])).unwrap();
        assert_eq!(merged, text("# Node a\nERR No samples\n# Node b\ngraph\n"));
    }

    #[test]
    fn equal_values_are_written_once_and_differing_ones_by_node() {
        assert_eq!(alike_or_by_node(&[("a", "1"), ("b", "1")]), "1");
        assert_eq!(alike_or_by_node(&[("a", "1"), ("b", "2")]), "a=1,b=2");
        assert_eq!(
            alike_or_by_node(&[("a", "x,y"), ("10.0.0.1:6379", "z")]),
            "a=x,y 10.0.0.1_6379=z"
        );
    }
}
