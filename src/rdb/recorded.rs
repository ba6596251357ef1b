//! Files and payloads that servers have written: `tests/vectors/rdb`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::*;

/// The time at which each key expires and its payload, by database and key.
type Dumps = BTreeMap<(u32, Vec<u8>), (Option<i64>, Vec<u8>)>;

/// What was recorded of one server.
struct Recorded {
    name: String,
    rdb: Vec<u8>,
    dumps: Dumps,
    /// What `FUNCTION DUMP` returned, of servers that have it.
    functions: Option<Vec<u8>>,
}

/// All that is in an RDB.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    items: Vec<RdbItem>,
    /// The bytes of the value of each key.
    values: Vec<Vec<u8>>,
}

/// A reader that gives a few bytes at a time, and is interrupted between.
struct Slow<'b> {
    bytes: &'b [u8],
    piece: usize,
    is_interrupted: bool,
}

impl Read for Slow<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.is_interrupted = !self.is_interrupted;
        if self.is_interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = self.piece.min(into.len());
        self.bytes.read(&mut into[..count])
    }
}

fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/rdb");
    let mut all = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rdb") {
            all.push(recorded_of(&path));
        }
    }
    assert!(all.len() >= 9);
    all
}

fn recorded_of(path: &Path) -> Recorded {
    let mut recorded = Recorded {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        rdb: fs::read(path).unwrap(),
        dumps: BTreeMap::new(),
        functions: None,
    };
    for line in fs::read_to_string(path.with_extension("tsv"))
        .unwrap()
        .lines()
    {
        let columns: Vec<&str> = line.split('\t').collect();
        let [db, key, expires_at, payload] = columns[..] else {
            panic!("{}: {line}", recorded.name);
        };
        if db == "functions" {
            recorded.functions = Some(unhex(payload));
            continue;
        }
        let expires_at = Some(expires_at.parse().unwrap()).filter(|&time: &i64| time >= 0);
        let key = (db.parse().unwrap(), unhex(key));
        let before = recorded.dumps.insert(key, (expires_at, unhex(payload)));
        assert!(before.is_none(), "{}: {line}", recorded.name);
    }
    recorded
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Reads records up to the end or an error.
fn read(read: impl Read) -> (Contents, Result<RdbVersion, RdbError>) {
    let mut contents = Contents::default();
    let end = read_into(&mut contents, read);
    (contents, end)
}

fn read_into(contents: &mut Contents, read: impl Read) -> Result<RdbVersion, RdbError> {
    let mut reader = RdbReader::new(read)?;
    while let Some(item) = reader.next()? {
        let is_key = matches!(item, RdbItem::Key(_));
        contents.items.push(item);
        if is_key {
            let mut value = Vec::new();
            let length = reader.value(&mut |piece| {
                value.extend_from_slice(piece);
                Ok(())
            })?;
            assert_eq!(length, value.len() as u64);
            contents.values.push(value);
        }
    }
    assert!(reader.next()?.is_none(), "the end is reached once");
    Ok(reader.version())
}

impl Contents {
    fn keys(&self) -> impl Iterator<Item = (&KeyInfo, &Vec<u8>)> {
        let keys = self.items.iter().filter_map(|item| match item {
            RdbItem::Key(info) => Some(info),
            _ => None,
        });
        keys.zip(&self.values)
    }

    fn functions(&self) -> Vec<Vec<u8>> {
        let function = |item: &RdbItem| match item {
            RdbItem::Function(source) => Some(source.clone()),
            _ => None,
        };
        self.items.iter().filter_map(function).collect()
    }

    /// True if `other` goes on where this ends.
    fn is_beginning_of(&self, other: &Self) -> bool {
        other.items.starts_with(&self.items) && other.values.starts_with(&self.values)
    }
}

#[test]
fn every_key_has_the_payload_that_dump_has_returned() {
    for recorded in recorded() {
        let name = &recorded.name;
        let (contents, version) = read(&recorded.rdb[..]);
        let version = version.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut left = recorded.dumps.clone();
        for (info, value) in contents.keys() {
            let key = info.key.escape_ascii();
            let (expires_at, dump) = left
                .remove(&(info.db, info.key.clone()))
                .unwrap_or_else(|| panic!("{name}: {key} was not recorded"));
            assert_eq!(info.expires_at, expires_at, "{name}: {key}");
            let made = payload(info.value_type, value, version);
            assert_eq!(made, dump, "{name}: {key}");
            let taken = of_dump(&dump).unwrap();
            assert_eq!(taken, (info.value_type, &value[..], version));
        }
        assert!(left.is_empty(), "{name}: {} keys are missing", left.len());
    }
}

#[test]
fn types_and_records_of_the_servers_are_in_the_recorded_files() {
    let found: BTreeMap<String, Contents> = recorded()
        .into_iter()
        .map(|recorded| (recorded.name, read(&recorded.rdb[..]).0))
        .collect();
    let types = |name: &str| {
        let mut types: Vec<u8> = found[name]
            .keys()
            .map(|(info, _)| info.value_type)
            .collect();
        types.sort();
        types.dedup();
        types
    };
    assert_eq!(types("redis-6.2"), [0, 2, 4, 5, 11, 12, 13, 14, 15]);
    assert_eq!(types("redis-7.0"), [0, 2, 4, 5, 11, 16, 17, 18, 19]);
    let newer = [0, 2, 4, 5, 7, 11, 16, 17, 18, 20, 21, 24, 25];
    assert_eq!(types("redis-8.2"), newer);
    assert_eq!(types("redis-8.2-module"), newer);
    assert_eq!(
        types("valkey-9.1"),
        [0, 2, 4, 5, 11, 16, 17, 18, 20, 21, 22]
    );
    let has = |name: &str, is_one: fn(&RdbItem) -> bool| found[name].items.iter().any(is_one);
    let accessed = |name: &str, access: fn(Access) -> bool| {
        found[name].keys().all(|(info, _)| access(info.access))
    };
    assert!(accessed("redis-7.0", |access| access == Access::Unknown));
    for name in ["redis-6.2", "redis-8.2"] {
        assert!(accessed(name, |access| matches!(access, Access::Idle(_))));
    }
    let is_counted = |access| matches!(access, Access::Frequency(_));
    assert!(accessed("valkey-9.1", is_counted));
    assert!(has("redis-8.2-cluster", |item| matches!(
        item,
        RdbItem::Slot {
            keys: 2,
            expiring: 1,
            ..
        }
    )));
    let graph = "graphdata";
    assert!(
        found["redis-8.2-module"]
            .items
            .iter()
            .any(|item| matches!(item, RdbItem::ModuleAux { module } if module == graph))
    );
    assert!(has("redis-7.0", |item| matches!(
        item,
        RdbItem::Sizes {
            keys: 2,
            expiring: 1
        }
    )));
    assert!(has("valkey-9.1", |item| matches!(
        item,
        RdbItem::Aux { name, value } if name == b"valkey-ver" && value == b"9.1.2"
    )));
}

#[test]
fn libraries_of_functions_are_those_of_function_dump() {
    for recorded in recorded() {
        let Some(dump) = recorded.functions else {
            continue;
        };
        let name = &recorded.name;
        let (contents, version) = read(&recorded.rdb[..]);
        let (sources, version) = (contents.functions(), version.unwrap());
        assert_eq!(sources.len(), if name.contains("cluster") { 0 } else { 2 });
        assert_eq!(functions_of_dump(&dump).unwrap(), sources, "{name}");
        let made = functions_payload(&sources, version);
        assert_eq!(functions_of_dump(&made).unwrap(), sources, "{name}");
        // Others are compressed.
        if sources.is_empty() || name.ends_with("-plain") {
            assert_eq!(made, dump, "{name}");
        }
    }
}

#[test]
fn files_that_are_cut_off_anywhere_are_errors() {
    for recorded in recorded() {
        let whole = read(&recorded.rdb[..]).0;
        for end in 0..recorded.rdb.len() {
            let (contents, result) = read(&recorded.rdb[..end]);
            let error = result.unwrap_err();
            assert!(
                matches!(error, RdbError::Truncated { offset } if offset == end as u64),
                "{} cut at {end}: {error}",
                recorded.name
            );
            assert!(contents.is_beginning_of(&whole));
        }
    }
}

#[test]
fn files_with_a_changed_byte_are_errors() {
    for recorded in recorded() {
        // Every bit of small files; all bits of the bytes of two others.
        let changes: &[u8] = match &recorded.name[..] {
            name if name.ends_with("-cluster") => &[1, 2, 4, 8, 16, 32, 64, 128, 255],
            "redis-6.2" | "valkey-9.1" => &[255],
            _ => continue,
        };
        let mut rdb = recorded.rdb;
        for at in 0..rdb.len() {
            for change in changes {
                rdb[at] ^= change;
                let result = read(&rdb[..]).1;
                assert!(result.is_err(), "{} at {at} ^ {change}", recorded.name);
                rdb[at] ^= change;
            }
        }
    }
}

#[test]
fn file_without_a_checksum_is_read_and_its_damage_is_not_seen() {
    let all = recorded();
    let plain = all.iter().find(|one| one.name.ends_with("-plain")).unwrap();
    assert_eq!(plain.rdb[plain.rdb.len() - 8..], [0; 8]);
    let mut changed = plain.rdb.clone();
    let at = changed.len() - 10;
    changed[at] ^= 1;
    assert!(read(&changed[..]).1.is_ok());
}

#[test]
fn bytes_that_come_slowly_are_read_as_the_same() {
    for recorded in recorded() {
        let whole = read(&recorded.rdb[..]).0;
        for piece in [1, 2, 3, 7, 100, 1000] {
            let slow = Slow {
                bytes: &recorded.rdb,
                piece,
                is_interrupted: false,
            };
            let (contents, result) = read(slow);
            assert!(result.is_ok());
            assert_eq!(contents, whole, "{} in pieces of {piece}", recorded.name);
        }
    }
}

#[test]
fn skipped_values_do_not_change_what_follows() {
    for recorded in recorded() {
        let whole = read(&recorded.rdb[..]).0;
        let mut reader = RdbReader::new(&recorded.rdb[..]).unwrap();
        let mut items = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            items.push(item);
        }
        assert_eq!(items, whole.items);
        assert_eq!(reader.offset(), recorded.rdb.len() as u64);
    }
}

#[test]
fn files_written_from_what_was_read_are_read_as_the_same() {
    for recorded in recorded() {
        let (contents, version) = read(&recorded.rdb[..]);
        let mut writer = RdbWriter::new(Vec::new(), version.unwrap()).unwrap();
        let mut values = contents.values.iter();
        let mut expected = Vec::new();
        let mut db = 0;
        for item in &contents.items {
            match item {
                RdbItem::Aux { name, value } => writer.aux(name, value).unwrap(),
                RdbItem::Function(source) => writer.function(source).unwrap(),
                RdbItem::Database(number) => db = *number,
                RdbItem::Sizes { keys, expiring } => writer.database(db, *keys, *expiring).unwrap(),
                RdbItem::Key(info) => {
                    writer.key(info).unwrap();
                    for piece in values.next().unwrap().chunks(1000) {
                        writer.value(piece).unwrap();
                    }
                }
                RdbItem::ModuleAux { .. } | RdbItem::Slot { .. } | RdbItem::SlotImport { .. } => {
                    continue;
                }
            }
            expected.push(item.clone());
        }
        let written = writer.finish().unwrap();
        let (again, result) = read(&written[..]);
        result.unwrap();
        assert_eq!(again.items, expected, "{}", recorded.name);
        assert_eq!(again.values, contents.values, "{}", recorded.name);
    }
}
