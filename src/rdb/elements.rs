//! The commands that make a value element by element, for values that no single `RESTORE` takes.
//!
//! ```text
//! string       SET, APPEND ...
//! list         RPUSH ...
//! set          SADD ...
//! sorted set   ZADD ...
//! hash         HSET, HPEXPIREAT ...
//! stream       XADD ..., for each group XGROUP CREATE, XGROUP CREATECONSUMER, XCLAIM ..., then XDEL, XSETID
//! all          DEL before; PEXPIREAT, and RENAME from a temporary name, behind
//! ```
//!
//! This is not atomic. Under the key itself, readers see the value grow, and a restore that is interrupted leaves a part
//! of it, without the expiry. Under a temporary name that is renamed at the end, readers see nothing or all; then the
//! caller must know a name that the same node owns. Either way no one else may write to the key meanwhile.
//!
//! Differences to what `RESTORE` makes: fields of hashes that have expired are gone. Consumers of streams were seen when
//! they were made, and pending entries were handed out at most now.
//!
//! Entries of a stream that are pending and deleted are added, claimed and deleted once more: a server from 7.0 on
//! claims no entry that is not there.

use super::bytes::Malformed;
use super::server::ServerVersion;
use super::value::{Consumer, Element, Group, Kind, Pending, StreamId, StreamState, visit};
use super::version::RdbVersion;

/// The most arguments of one command.
const ARGUMENTS_MAX: usize = 1024;

/// A command, name first.
pub(crate) type Command = Vec<Vec<u8>>;

/// Where a value is made, and in which steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Building<'b> {
    /// The name under which it is made. What stood there is deleted.
    pub(crate) key: &'b [u8],
    /// The name that it is given at the end, if `key` is a temporary one. What stood there is deleted.
    pub(crate) rename_to: Option<&'b [u8]>,
    /// The time at which it expires, in milliseconds since 1970.
    pub(crate) expires_at: Option<i64>,
    /// The server.
    pub(crate) server: ServerVersion,
    /// Number of bytes after which a batch is sent. It is longer by one element at most.
    pub(crate) batch_bytes: usize,
    /// The most commands of a batch.
    pub(crate) batch_commands: usize,
}

/// Takes batches of commands, in order. The next one is made when it returns.
pub(crate) type Send<'s, E> = dyn FnMut(Vec<Command>) -> Result<(), E> + 's;

/// Makes the commands for a value. An opaque one has none but `DEL`: see [`fit`](super::convert::fit), which says when
/// this is the way.
///
/// # Errors
///
/// If the bytes of the value do not fit its type; and the errors of `send`.
pub(crate) fn build<E: From<Malformed>>(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    building: &Building<'_>,
    send: &mut Send<'_, E>,
) -> Result<(), E> {
    let kind = Kind::of(value_type, version);
    let deleted = if kind == Kind::Stream {
        pending_ids(value_type, value, version)?
    } else {
        Vec::new()
    };
    let mut builder = Builder {
        building,
        kind,
        send,
        batch: Vec::new(),
        bytes: 0,
        open: None,
        expiring: Vec::new(),
        state: None,
        pending: deleted,
        seen: 0,
        deleted: Vec::new(),
        is_begun: false,
    };
    builder.push(&[b"DEL", building.key])?;
    visit(value_type, value, version, &mut |element| {
        builder.add(element)
    })?;
    builder.finish()
}

/// The commands that are made, and what they still lack.
struct Builder<'b, 's, 'f, E> {
    building: &'b Building<'b>,
    kind: Kind,
    send: &'s mut Send<'f, E>,
    batch: Vec<Command>,
    /// Bytes of the batch and of the open command.
    bytes: usize,
    /// A command to which elements are added.
    open: Option<Command>,
    /// Fields of the open command that expire.
    expiring: Vec<(i64, Vec<u8>)>,
    state: Option<StreamState>,
    /// The IDs that are pending for a group of the stream, sorted.
    pending: Vec<StreamId>,
    /// How many of these are below the last entry.
    seen: usize,
    /// Those of which there is no entry.
    deleted: Vec<StreamId>,
    /// True if the stream has been made.
    is_begun: bool,
}

impl<E: From<Malformed>> Builder<'_, '_, '_, E> {
    fn add(&mut self, element: Element<'_>) -> Result<(), E> {
        match element {
            Element::Text(text) => self.add_text(text),
            Element::Item(item) if self.kind == Kind::List => self.extend(b"RPUSH", &[item]),
            Element::Item(member) => self.extend(b"SADD", &[member]),
            Element::Member(member, score) => {
                // The shortest digits that are read as the same number.
                self.extend(b"ZADD", &[format!("{score:e}").as_bytes(), member])
            }
            Element::Field {
                field,
                value,
                expires_at,
            } => {
                if let Some(at) = expires_at
                    && self.building.server.has_field_expiry()
                {
                    self.expiring.push((at, field.to_vec()));
                }
                self.extend(b"HSET", &[field, value])
            }
            Element::Entry { id, fields } => {
                self.add_deleted(Some(id))?;
                self.add_entry(id, fields)
            }
            Element::State(state) => {
                self.add_deleted(None)?;
                if !self.is_begun {
                    self.begin_empty()?;
                }
                self.state = Some(state);
                Ok(())
            }
            Element::Group(group) => self.add_group(group),
            Element::VectorSet(..) | Element::Vector { .. } | Element::Opaque(_) => Ok(()),
        }
    }

    /// Writes a string in pieces.
    fn add_text(&mut self, text: &[u8]) -> Result<(), E> {
        let key = self.building.key;
        let mut pieces = text.chunks(self.building.batch_bytes.max(1));
        self.push(&[b"SET", key, pieces.next().unwrap_or_default()])?;
        pieces.try_for_each(|piece| self.push(&[b"APPEND", key, piece]))
    }

    /// Adds arguments to the open command, or opens one.
    fn extend(&mut self, name: &[u8], arguments: &[&[u8]]) -> Result<(), E> {
        let key = self.building.key;
        let open = self
            .open
            .get_or_insert_with(|| vec![name.to_vec(), key.to_vec()]);
        for argument in arguments {
            self.bytes += argument.len() + size_of::<Vec<u8>>();
            open.push(argument.to_vec());
        }
        if self.bytes >= self.building.batch_bytes || open.len() >= ARGUMENTS_MAX {
            self.close()?;
        }
        Ok(())
    }

    /// Closes the open command, and sets the expiries of its fields.
    fn close(&mut self) -> Result<(), E> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        self.batch.push(open);
        self.flush_if_full()?;
        let mut expiring = std::mem::take(&mut self.expiring);
        expiring.sort_unstable();
        for fields in expiring.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((at, _)) = fields.first() else {
                continue;
            };
            let (at, count) = (at.to_string(), fields.len().to_string());
            let mut command: Vec<&[u8]> = vec![b"HPEXPIREAT", self.building.key];
            command.extend([at.as_bytes(), b"FIELDS", count.as_bytes()]);
            command.extend(fields.iter().map(|(_, field)| &field[..]));
            self.push(&command)?;
        }
        Ok(())
    }

    /// Adds a whole command.
    fn push(&mut self, arguments: &[&[u8]]) -> Result<(), E> {
        let command: Command = arguments.iter().map(|argument| argument.to_vec()).collect();
        let sizes = command
            .iter()
            .map(|argument| argument.len() + size_of::<Vec<u8>>());
        self.bytes += sizes.sum::<usize>();
        self.batch.push(command);
        self.flush_if_full()
    }

    fn flush_if_full(&mut self) -> Result<(), E> {
        let is_full = self.bytes >= self.building.batch_bytes
            || self.batch.len() >= self.building.batch_commands;
        if is_full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), E> {
        self.bytes = 0;
        match std::mem::take(&mut self.batch) {
            batch if batch.is_empty() => Ok(()),
            batch => (self.send)(batch),
        }
    }

    fn add_entry(&mut self, id: StreamId, fields: &[(&[u8], &[u8])]) -> Result<(), E> {
        self.is_begun = true;
        let id = id.to_string();
        let mut command: Vec<&[u8]> = vec![b"XADD", self.building.key, id.as_bytes()];
        command.extend(fields.iter().flat_map(|&(field, value)| [field, value]));
        self.push(&command)
    }

    /// Adds the pending entries that are no more and stood before this entry, or behind the last one.
    fn add_deleted(&mut self, before: Option<StreamId>) -> Result<(), E> {
        while let Some(&id) = self.pending.get(self.seen) {
            if before.is_some_and(|before| id > before) {
                break;
            }
            self.seen += 1;
            if before != Some(id) {
                self.deleted.push(id);
                self.add_entry(id, &[(b"", b"")])?;
            }
        }
        Ok(())
    }

    /// Makes a stream without entries, as the servers do when they write an AOF.
    fn begin_empty(&mut self) -> Result<(), E> {
        self.is_begun = true;
        let key = self.building.key;
        self.push(&[b"XADD", key, b"MAXLEN", b"0", b"0-1", b"", b""])
    }

    fn add_group(&mut self, group: &Group) -> Result<(), E> {
        let key = self.building.key;
        let id = group.last_id.to_string();
        let read = group
            .entries_read
            .filter(|_| self.building.server.has_redis_7());
        let read = read.map(|read| read.to_string());
        let mut create: Vec<&[u8]> = vec![b"XGROUP", b"CREATE", key, &group.name, id.as_bytes()];
        if let Some(read) = &read {
            create.extend([&b"ENTRIESREAD"[..], read.as_bytes()]);
        }
        self.push(&create)?;
        for consumer in &group.consumers {
            self.push(&[
                b"XGROUP",
                b"CREATECONSUMER",
                key,
                &group.name,
                &consumer.name,
            ])?;
            for entry in &consumer.pending {
                self.claim(group, consumer, entry)?;
            }
        }
        Ok(())
    }

    fn claim(&mut self, group: &Group, consumer: &Consumer, entry: &Pending) -> Result<(), E> {
        self.push(&[
            b"XCLAIM",
            self.building.key,
            &group.name,
            &consumer.name,
            b"0",
            entry.id.to_string().as_bytes(),
            b"TIME",
            entry.delivered_at.to_string().as_bytes(),
            b"RETRYCOUNT",
            entry.deliveries.to_string().as_bytes(),
            b"FORCE",
            b"JUSTID",
        ])
    }

    fn finish(&mut self) -> Result<(), E> {
        self.close()?;
        let key = self.building.key;
        for ids in std::mem::take(&mut self.deleted).chunks(ARGUMENTS_MAX) {
            let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
            let mut command: Vec<&[u8]> = vec![b"XDEL", key];
            command.extend(ids.iter().map(String::as_bytes));
            self.push(&command)?;
        }
        if let Some(state) = self.state {
            self.set_last_id(state)?;
        }
        if let Some(at) = self.building.expires_at {
            self.push(&[b"PEXPIREAT", key, at.to_string().as_bytes()])?;
        }
        if let Some(name) = self.building.rename_to {
            self.push(&[b"RENAME", key, name])?;
        }
        self.flush()
    }

    fn set_last_id(&mut self, state: StreamState) -> Result<(), E> {
        let key = self.building.key;
        let last = state.last_id.to_string();
        // The server refuses numbers that contradict each other; then its own stay.
        let history = state.history.filter(|history| {
            self.building.server.has_redis_7()
                && history.entries_added >= state.length
                && history.max_deleted <= state.last_id
        });
        let Some(history) = history else {
            return self.push(&[b"XSETID", key, last.as_bytes()]);
        };
        self.push(&[
            b"XSETID",
            key,
            last.as_bytes(),
            b"ENTRIESADDED",
            history.entries_added.to_string().as_bytes(),
            b"MAXDELETEDID",
            history.max_deleted.to_string().as_bytes(),
        ])
    }
}

/// Returns the IDs that are pending for a group of a stream, sorted.
fn pending_ids(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
) -> Result<Vec<StreamId>, Malformed> {
    let mut ids = Vec::new();
    visit::<Malformed>(value_type, value, version, &mut |element| {
        if let Element::Group(group) = element {
            let pending = group
                .consumers
                .iter()
                .flat_map(|consumer| &consumer.pending);
            ids.extend(pending.map(|entry| entry.id));
        }
        Ok(())
    })?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::super::golden::{unhex, vectors};
    use super::super::server::ServerFamily;
    use super::*;

    fn building(server: &str) -> Building<'static> {
        Building {
            key: b"k",
            rename_to: None,
            expires_at: None,
            server: ServerVersion::parse(ServerFamily::Redis, server).unwrap(),
            batch_bytes: 1 << 20,
            batch_commands: 1000,
        }
    }

    /// Returns the batches, each command as a line.
    fn batches(value_type: u8, value: &[u8], building: &Building<'_>) -> Vec<Vec<String>> {
        let mut batches = Vec::new();
        build::<Malformed>(value_type, value, RdbVersion(12), building, &mut |batch| {
            let line = |command: &Command| command.join(&b' ').escape_ascii().to_string();
            batches.push(batch.iter().map(line).collect::<Vec<_>>());
            Ok(())
        })
        .unwrap();
        batches
    }

    fn commands(value_type: u8, value: &[u8], building: &Building<'_>) -> Vec<String> {
        batches(value_type, value, building).concat()
    }

    #[test]
    fn each_data_type_has_its_commands() {
        let building = building("8.2.3");
        assert_eq!(commands(0, b"\x01a", &building), ["DEL k", "SET k a"]);
        assert_eq!(
            commands(1, b"\x02\x01a\x01b", &building),
            ["DEL k", "RPUSH k a b"]
        );
        assert_eq!(
            commands(2, b"\x02\x01a\x01b", &building),
            ["DEL k", "SADD k a b"]
        );
        let scores = commands(3, b"\x02\x01a\x031.5\xc0\x05\xff", &building);
        assert_eq!(scores, ["DEL k", "ZADD k 1.5e0 a -inf 5"]);
        let expiring = unhex("0a000000000000000401016101310b0162013200016301330101640134");
        assert_eq!(
            commands(24, &expiring, &building),
            [
                "DEL k",
                "HSET k a 1 b 2 c 3 d 4",
                "HPEXPIREAT k 10 FIELDS 2 a d",
                "HPEXPIREAT k 20 FIELDS 1 b"
            ]
        );
        let old = Building {
            server: ServerVersion {
                major: 7,
                minor: 0,
                ..building.server
            },
            ..building
        };
        assert_eq!(
            commands(24, &expiring, &old),
            ["DEL k", "HSET k a 1 b 2 c 3 d 4"]
        );
    }

    #[test]
    fn expiry_and_name_are_set_at_the_end() {
        let building = Building {
            key: b"tmp",
            rename_to: Some(b"k"),
            expires_at: Some(7),
            ..building("7.0.15")
        };
        let expected = ["DEL tmp", "SET tmp a", "PEXPIREAT tmp 7", "RENAME tmp k"];
        assert_eq!(commands(0, b"\x01a", &building), expected);
    }

    #[test]
    fn streams_keep_pending_entries_that_were_deleted() {
        let find = |server: &str, key: &[u8]| {
            let mut vectors = vectors().into_iter();
            vectors
                .find(|vector| vector.server == server && vector.info.key == key)
                .unwrap()
        };
        let vector = find("redis-7.0", b"stream:empty");
        let made = commands(vector.info.value_type, &vector.value, &building("7.0.15"));
        let claim = made[4].replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(claim, "XCLAIM k g c  - TIME  RETRYCOUNT  FORCE JUSTID");
        let others = [&made[..4], &made[5..]].concat();
        let expected = [
            "DEL k",
            "XADD k 5-5  ",
            "XGROUP CREATE k g 5-5 ENTRIESREAD 1",
            "XGROUP CREATECONSUMER k g c",
            "XDEL k 5-5",
            "XSETID k 5-5 ENTRIESADDED 1 MAXDELETEDID 5-5",
        ];
        assert_eq!(others, expected);
        let vector = find("redis-6.2", b"stream:trimmed");
        assert_eq!(
            commands(vector.info.value_type, &vector.value, &building("6.2.14")),
            ["DEL k", "XADD k MAXLEN 0 0-1  ", "XSETID k 9-9"]
        );
    }

    #[test]
    fn batches_are_bounded_by_bytes_and_by_commands() {
        for vector in vectors() {
            let longest = vector.value.len() * 88;
            for (batch_bytes, batch_commands) in [(1, 1), (200, 3), (5000, 2)] {
                let building = Building {
                    batch_bytes,
                    batch_commands,
                    ..building("8.2.3")
                };
                let (mut most, mut count, mut all) = (0, 0, 0);
                build::<Malformed>(
                    vector.info.value_type,
                    &vector.value,
                    vector.version,
                    &building,
                    &mut |batch| {
                        let sizes = batch.iter().flatten().map(Vec::len);
                        most = most.max(sizes.sum());
                        count = count.max(batch.len());
                        all += batch.len();
                        Ok(())
                    },
                )
                .unwrap();
                assert!(count <= batch_commands, "{}", vector.name());
                assert!(most <= batch_bytes + longest.max(8000), "{}", vector.name());
                assert!(all >= 2);
            }
        }
        let small = Building {
            batch_bytes: 3,
            ..building("7.0.15")
        };
        assert_eq!(
            commands(0, b"\x08abcdefgh", &small),
            ["DEL k", "SET k abc", "APPEND k def", "APPEND k gh"]
        );
        assert_eq!(
            batches(1, b"\x02\x01a\x01b", &small),
            [["DEL k"], ["RPUSH k a"], ["RPUSH k b"]]
        );
    }

    #[test]
    fn errors_of_the_sender_and_of_the_bytes_end_the_building() {
        let building = building("7.0.15");
        let mut none = |_| Ok(());
        let damaged = build::<Malformed>(1, b"\x02\x01a", RdbVersion(10), &building, &mut none);
        assert!(damaged.is_err());
        let failed = Malformed { at: 77, what: "x" };
        let sent = build::<Malformed>(1, b"\x01\x01a", RdbVersion(10), &building, &mut |_| {
            Err(failed)
        });
        assert_eq!(sent, Err(failed));
    }
}
