//! The keys of `tests/vectors/dump`, recorded from servers with what these say that they hold; for tests.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::bytes::Malformed;
use super::value::{Element, Group, Kind, visit};
use super::{Access, KeyInfo, RdbVersion, of_dump};

/// A recorded key.
pub(super) struct Vector {
    /// The name of the server.
    pub(super) server: String,
    pub(super) info: KeyInfo,
    /// The bytes of the value, without type and footer.
    pub(super) value: Vec<u8>,
    pub(super) version: RdbVersion,
    /// The digest of this key, in hexadecimal digits, whatever the server.
    pub(super) digest: String,
    /// What the server answered to the commands that read it, as [`describe`] writes it.
    pub(super) lines: Vec<String>,
}

impl Vector {
    /// Names the key in messages.
    pub(super) fn name(&self) -> String {
        let Self { server, info, .. } = self;
        format!(
            "{server} {} of type {}",
            info.key.escape_ascii(),
            info.value_type
        )
    }
}

/// Reads all recorded keys.
pub(super) fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/dump");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let digests = read("digests.txt");
    let digests: HashMap<_, _> = digests
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    let servers = ["redis-6.2", "redis-7.0", "redis-8.2", "valkey-9.1"];
    let of = |server: &str| {
        let text = read(&format!("{server}.txt"));
        let blocks = text.trim_end().split("\n\n");
        blocks
            .map(|block| vector(server, block, &digests))
            .collect::<Vec<_>>()
    };
    servers.into_iter().flat_map(of).collect()
}

/// Writes the elements of a value as lines, sorted where they have no order.
pub(super) fn describe(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
) -> Result<Vec<String>, Malformed> {
    let kind = Kind::of(value_type, version);
    let (mut lines, mut groups) = (Vec::new(), Vec::new());
    visit::<Malformed>(value_type, value, version, &mut |element| {
        lines.push(match element {
            Element::Text(text) => format!("text {}", hex(text)),
            Element::Item(item) if kind == Kind::List => format!("item {}", hex(item)),
            Element::Item(member) => format!("member {}", hex(member)),
            Element::Member(member, score) => format!("scored {} {:e}", hex(member), score + 0.0),
            Element::Field {
                field,
                value,
                expires_at,
            } => {
                let expiry = expires_at.map_or("-".into(), |at| at.to_string());
                format!("field {} {} {expiry}", hex(field), hex(value))
            }
            Element::Entry { id, fields } => {
                let fields = fields.iter().flat_map(|(field, value)| [field, value]);
                let fields: Vec<String> = fields.map(|text| hex(text)).collect();
                format!("entry {id} {}", fields.join(" "))
            }
            Element::State(state) => format!("last {}", state.last_id),
            Element::Group(group) => {
                groups.push(describe_group(group));
                return Ok(());
            }
            Element::VectorSet(numbers, matrix) => format!("set {numbers:?} {}", hex(matrix)),
            Element::Vector {
                name,
                attributes,
                vector,
                scale,
            } => {
                let texts = [name, attributes, vector].map(hex);
                format!("vector {} {scale}", texts.join(" "))
            }
            Element::Opaque(bytes) => format!("opaque {}", hex(bytes)),
        });
        Ok(())
    })?;
    if matches!(kind, Kind::Set | Kind::SortedSet | Kind::Hash) {
        lines.sort();
    }
    groups.sort();
    lines.extend(groups.into_iter().flatten());
    Ok(lines)
}

/// Returns a listpack with these entries, each as the integer that it is, or as bytes.
pub(super) fn listpack(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for entry in entries {
        let start = body.len();
        let number = crate::resp::canonical_integer(entry);
        match (number, entry.len()) {
            (Some(number @ 0..=127), _) => body.push(number as u8),
            (Some(number @ -4096..=4095), _) => {
                body.extend((0xc000 | (number as u16 & 0x1fff)).to_be_bytes());
            }
            (Some(number), _) => {
                body.push(0xf4);
                body.extend(number.to_le_bytes());
            }
            (None, length @ 0..=63) => body.push(0x80 | length as u8),
            (None, length @ 64..=4095) => body.extend((0xe000 | length as u16).to_be_bytes()),
            (None, length) => {
                body.push(0xf0);
                body.extend((length as u32).to_le_bytes());
            }
        }
        if number.is_none() {
            body.extend_from_slice(entry);
        }
        match (body.len() - start) as u32 {
            length @ 0..=127 => body.push(length as u8),
            length => body.extend([(length >> 7) as u8, length as u8 & 0x7f | 0x80]),
        }
    }
    let count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    let size = (body.len() + 7) as u32;
    [
        &size.to_le_bytes()[..],
        &count.to_le_bytes(),
        &body,
        b"\xff",
    ]
    .concat()
}

fn describe_group(group: &Group) -> Vec<String> {
    let consumers = group.consumers.iter().map(|consumer| {
        let head = format!("consumer {}", hex(&consumer.name));
        let pending = consumer.pending.iter();
        let pending = pending.map(|entry| format!("pending {} {}", entry.id, entry.deliveries));
        [head].into_iter().chain(pending).collect::<Vec<_>>()
    });
    let mut consumers: Vec<_> = consumers.collect();
    consumers.sort();
    let head = format!("group {} {}", hex(&group.name), group.last_id);
    [head]
        .into_iter()
        .chain(consumers.into_iter().flatten())
        .collect()
}

fn vector(server: &str, block: &str, digests: &HashMap<&str, &str>) -> Vector {
    let field = |name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let payload = unhex(field("dump").unwrap());
    let (value_type, value, version) = of_dump(&payload).unwrap();
    let heads = ["key ", "expires ", "dump "];
    let lines = block.lines();
    let lines = lines.filter(|line| !heads.iter().any(|head| line.starts_with(head)));
    Vector {
        server: server.to_owned(),
        info: KeyInfo {
            db: 0,
            key: unhex(field("key").unwrap()),
            expires_at: field("expires").map(|at| at.parse().unwrap()),
            access: Access::Unknown,
            value_type,
        },
        value: value.to_vec(),
        version,
        digest: digests[field("key").unwrap()].to_owned(),
        lines: lines.map(str::to_owned).collect(),
    }
}

/// Writes bytes in hexadecimal digits; none as a dot.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return ".".into();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
