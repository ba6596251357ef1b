//! [`Requests`]: commands in the wire format, and RESTORE among them.

use crate::rdb::{Access, FOOTER_LENGTH, KeyInfo, RdbVersion, write_payload};
use crate::resp::{write_arg, write_command, write_header, write_line};

/// Commands that are sent at once.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) packed: Vec<u8>,
    pub(super) count: usize,
}

/// The value of a RESTORE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'v> {
    pub(super) value_type: u8,
    pub(super) value: &'v [u8],
    pub(super) version: RdbVersion,
}

impl Requests {
    /// Adds a command.
    pub(super) fn add(&mut self, args: &[&[u8]]) {
        write_command(&mut self.packed, args);
        self.count += 1;
    }

    /// Adds RESTORE of a key.
    pub(super) fn restore(&mut self, info: &KeyInfo, payload: Payload<'_>, replaces: bool) {
        let expires = info.expires_at.is_some();
        let access = match info.access {
            Access::Unknown => None,
            Access::Idle(seconds) => Some((&b"IDLETIME"[..], seconds.to_string())),
            Access::Frequency(frequency) => Some((&b"FREQ"[..], frequency.to_string())),
        };
        let args =
            4 + usize::from(replaces) + usize::from(expires) + 2 * usize::from(access.is_some());
        let out = &mut self.packed;
        write_header(out, args);
        write_arg(out, b"RESTORE");
        write_arg(out, &info.key);
        write_arg(out, info.expires_at.unwrap_or(0).to_string().as_bytes());
        write_line(out, b'$', 1 + payload.value.len() + FOOTER_LENGTH);
        write_payload(out, payload.value_type, payload.value, payload.version);
        out.extend_from_slice(b"\r\n");
        if replaces {
            write_arg(out, b"REPLACE");
        }
        if expires {
            write_arg(out, b"ABSTTL");
        }
        if let Some((name, number)) = access {
            write_arg(out, name);
            write_arg(out, number.as_bytes());
        }
        self.count += 1;
    }
}
