//! Texts: one after another, by node, and values that differ in one line.
//!
//! In RESP3 a text may be a verbatim string, which redis-rs returns as a value of its own: a merged text has
//! the kind of the first node's.

use redis::{Value, VerbatimFormat};

use crate::error::Error;
use crate::plan::merge::{Answer, kind_of, plain, unexpected};

/// A text, and the kind of string in which a node sent it.
pub(super) struct Text {
    /// Kept, so that a merged text is of the first node's kind.
    kind: Kind,
    /// The text; not necessarily UTF-8.
    pub(super) bytes: Vec<u8>,
}

/// Kind of string on the connection.
enum Kind {
    /// Bulk string: most texts in RESP2.
    Bulk,
    /// Simple string.
    Status,
    /// Verbatim string of RESP3, with its format: INFO, CLIENT LIST.
    Verbatim(VerbatimFormat),
}

impl Text {
    /// Reads a reply that is a string of any kind.
    pub(super) fn read(answer: Answer<'_>) -> Result<Self, Error> {
        let (kind, bytes) = match plain(answer.value) {
            Value::BulkString(bytes) => (Kind::Bulk, bytes),
            Value::SimpleString(text) => (Kind::Status, text.into_bytes()),
            Value::VerbatimString { format, text } => (Kind::Verbatim(format), text.into_bytes()),
            other => return Err(unexpected(answer.node, kind_of(&other))),
        };
        Ok(Self { kind, bytes })
    }

    /// The text as UTF-8; malformed bytes are replaced.
    pub(super) fn to_str(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// Returns other bytes as a string of this kind. Only bulk strings keep bytes that are not UTF-8.
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

/// Concatenates texts as they are: `"id=1\n"` and `"id=7\n"` are `"id=1\nid=7\n"`. Each must end with its own
/// line break, as CLIENT LIST does.
pub(super) fn lines(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut merged: Option<Text> = None;
    for answer in answers {
        let text = Text::read(answer)?;
        match &mut merged {
            // The first node's text gives the kind; the bytes of the others are appended to it without a copy
            // of their own.
            None => merged = Some(text),
            Some(merged) => merged.bytes.extend_from_slice(&text.bytes),
        }
    }
    Ok(merged.map_or(Value::Nil, |mut text| {
        let bytes = std::mem::take(&mut text.bytes);
        text.with(bytes)
    }))
}

/// Concatenates texts under a heading for each node: `"# Node a\nfine\n# Node b\nso so\n"`. A node's error
/// stands in the place of its text.
pub(super) fn by_node(answers: Vec<Answer<'_>>) -> Result<Value, Error> {
    let mut kind = None;
    let mut all = Vec::new();
    for answer in answers {
        all.extend_from_slice(format!("# Node {}\n", answer.node.escape_debug()).as_bytes());
        match answer.value {
            Value::ServerError(error) => {
                // Not returned as an error: the texts of the other nodes are what an administrator is looking
                // for.
                let details = error.details().unwrap_or_default();
                all.extend_from_slice(format!("{} {details}", error.code()).as_bytes());
            }
            _ => {
                let text = Text::read(answer)?;
                all.extend_from_slice(&text.bytes);
                kind.get_or_insert(text);
            }
        }
        // The next heading must begin a line.
        if !all.ends_with(b"\n") {
            all.push(b'\n');
        }
    }
    Ok(kind.map_or(Value::Nil, |kind| kind.with(all)))
}

/// Returns the common value, or else `node=value` for each node: `1` for 1 and 1, `a=1,b=2` for 1 and 2.
///
/// Nodes are separated by a comma, or by a space if any value has commas.
pub(super) fn alike_or_by_node(values: &[(&str, &str)]) -> String {
    let Some((_, first)) = values.first() else {
        return String::new();
    };
    if values.iter().all(|(_, value)| value == first) {
        return (*first).to_owned();
    }
    // The separator must not occur in a value, or the list could not be taken apart.
    let commas = values.iter().any(|(_, value)| value.contains(','));
    let parts = values
        .iter()
        .map(|(node, value)| format!("{}={value}", word(node)));
    parts
        .collect::<Vec<_>>()
        .join(if commas { " " } else { "," })
}

/// Returns a node's name for use in the name of a field or in a list: characters other than letters, digits
/// and `-_.` become `_`, since `:`, `,` and `=` separate there.
pub(super) fn word(node: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    node.chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect()
}

/// Returns a bulk string.
pub(super) fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// Converts to UTF-8, copying only if bytes have to be replaced.
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
