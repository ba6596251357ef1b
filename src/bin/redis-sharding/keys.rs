//! Reads keys, one a line, and writes the node of each. Shared with the example `locate`.

use std::io::{self, BufRead, Write};

use redis_sharding::partition::{OptionValues, catalogue};

use super::fleet::Fleet;

/// Writes a line for each key: the key, a tab, the name of its node. Returns the number of keys that have no
/// owner, whose lines end after the tab.
pub fn write_owners(fleet: &Fleet, keys: impl BufRead, output: &mut impl Write) -> io::Result<u64> {
    let ends: Vec<Vec<u8>> = fleet
        .names
        .iter()
        .map(|name| [b"\t", name.as_bytes(), b"\n"].concat())
        .collect();
    let mut unowned = 0;
    each_key(keys, |key| {
        let end = match fleet.topology.locate(key) {
            Some(node) => &ends[node.get()][..],
            None => {
                unowned += 1;
                b"\t\n"
            }
        };
        output.write_all(key)?;
        output.write_all(end)
    })?;
    output.flush()?;
    Ok(unowned)
}

/// Calls `each` with every line, without its line feed. A line that lies completely in the buffer is not
/// copied.
pub fn each_key(
    mut keys: impl BufRead,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut split = Vec::new();
    loop {
        let buffer = match keys.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            return match split.is_empty() {
                true => Ok(()),
                false => each(&split),
            };
        }
        let length = buffer.len();
        let mut rest = buffer;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            if split.is_empty() {
                each(&rest[..end])?;
            } else {
                split.extend_from_slice(&rest[..end]);
                each(&split)?;
                split.clear();
            }
            rest = &rest[end + 1..];
        }
        split.extend_from_slice(rest);
        keys.consume(length);
    }
}

/// Writes every placement with its options.
pub fn write_placements(output: &mut impl Write) -> io::Result<()> {
    for entry in catalogue() {
        writeln!(output, "{:30} {}", entry.name, entry.summary)?;
        for option in entry.options {
            let default = match (option.default, option.values) {
                (Some(default), _) => format!("; default {default}"),
                (None, OptionValues::OneOf(_)) => "; must be given".to_owned(),
                (None, _) => String::new(),
            };
            let (name, meaning) = (option.name, option.meaning);
            writeln!(
                output,
                "    {name:26} {meaning}: {}{default}",
                option.values
            )?;
        }
    }
    Ok(())
}
