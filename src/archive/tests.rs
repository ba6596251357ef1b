//! Archives as a whole: what is written is read again, and damage is found.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::samples::{Sample, full, key, tiny, write};
use super::*;
use crate::rdb::RdbVersion;

const LIMIT: usize = 1 << 20;

/// What a strict reader gives: the items of each node, up to the first error.
fn strict(bytes: &[u8]) -> (BTreeMap<u16, Vec<Item>>, Result<(), ArchiveError>) {
    let mut items = BTreeMap::new();
    let mut assembler = EntryAssembler::new(LIMIT);
    let mut read = || {
        let mut reader = ArchiveReader::new(bytes)?;
        while let Some(frame) = reader.next()? {
            let node = frame.node();
            let found = assembler.push(&frame.decode()?)?;
            items.entry(node).or_insert_with(Vec::new).extend(found);
        }
        Ok(())
    };
    let result = read();
    (items, result)
}

/// What a recovering reader gives, with its damage. Entries that are not whole are left out.
fn recovered(bytes: &[u8]) -> Result<(BTreeMap<u16, Vec<Item>>, Damage), ArchiveError> {
    let mut items = BTreeMap::new();
    let mut assembler = EntryAssembler::new(LIMIT);
    let mut reader = ArchiveReader::recover(bytes)?;
    while let Some(frame) = reader.next()? {
        let node = frame.node();
        let found = assembler.push(&frame.decode()?)?.into_iter();
        let whole = found.filter(|item| !matches!(item, Item::Incomplete(_)));
        items.entry(node).or_insert_with(Vec::new).extend(whole);
    }
    Ok((items, reader.damage().clone()))
}

fn expected(sample: &Sample) -> BTreeMap<u16, Vec<Item>> {
    let mut nodes = BTreeMap::new();
    for (node, (functions, keys)) in (0..).zip(&sample.nodes) {
        let rdb = sample.manifest.nodes[usize::from(node)].rdb_version;
        let version = RdbVersion(rdb.unwrap_or(10));
        let functions = functions.iter().cloned();
        let functions = functions.map(|source| Item::Function(Function { version, source }));
        let keys = keys.iter().cloned();
        let keys = keys.map(|(info, value)| {
            Item::Entry(Entry {
                info,
                version,
                value,
            })
        });
        let items: Vec<Item> = functions.chain(keys).collect();
        if !items.is_empty() {
            nodes.insert(node, items);
        }
    }
    nodes
}

/// True if each node's items are, in their order, among the expected ones.
fn is_subset(items: &BTreeMap<u16, Vec<Item>>, expected: &BTreeMap<u16, Vec<Item>>) -> bool {
    items.iter().all(|(node, items)| {
        let mut all = expected.get(node).into_iter().flatten();
        items.iter().all(|item| all.any(|other| other == item))
    })
}

fn samples() -> Vec<Sample> {
    vec![tiny(), full(LEVEL_STORED), full(LEVEL_DEFAULT)]
}

#[test]
fn what_is_written_is_read_again_by_both_readers() {
    for sample in samples() {
        let bytes = write(&sample);
        let (items, result) = strict(&bytes);
        result.unwrap();
        assert_eq!(items, expected(&sample));
        let (items, damage) = recovered(&bytes).unwrap();
        assert_eq!(items, expected(&sample));
        assert!(damage.is_none(), "{damage:?}");
        let reader = ArchiveReader::new(bytes.as_slice()).unwrap();
        assert_eq!(reader.manifest(), Some(&sample.manifest));
    }
}

fn golden(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/tests/vectors/archive/{name}.rsb",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// These files are never written again: whatever this crate becomes, it reads them.
#[test]
fn golden_files_are_read_and_those_without_compression_are_written_the_same() {
    for (name, sample) in [
        ("tiny", tiny()),
        ("full", full(LEVEL_STORED)),
        ("full-zstd", full(LEVEL_DEFAULT)),
    ] {
        let bytes = golden(name);
        let (items, result) = strict(&bytes);
        result.unwrap();
        assert_eq!(items, expected(&sample), "{name}");
        let summary = Summary::of_file(Cursor::new(&bytes)).unwrap();
        assert_eq!(summary.manifest, sample.manifest, "{name}");
        assert_eq!(summary.totals.remarks, ["made for tests"]);
        assert_eq!(summary.totals.sum().expired, sample.nodes.len() as u64);
        assert!(
            sample.level > LEVEL_STORED || write(&sample) == bytes,
            "{name}"
        );
    }
}

#[test]
fn the_dump_in_the_documentation_is_the_tiny_archive() {
    let path = format!("{}/docs/archive.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let (_, dump) = text.split_once("```hex\n").unwrap();
    let (dump, _) = dump.split_once("```").unwrap();
    let mut bytes = Vec::new();
    for line in dump.lines().map(|line| line.split('#').next().unwrap()) {
        let digits = line.split_whitespace();
        bytes.extend(digits.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    assert!(bytes == golden("tiny"));
}

#[test]
fn manifest_and_totals_ignore_what_later_versions_add_unless_it_must_be_known() {
    let text = "redis-sharding manifest 1\ncut tomorrow\nnode a colour=red\nmoon \"full\\n\"\n";
    let manifest = Manifest::parse(text).unwrap();
    assert_eq!(manifest.cut, CutKind::Other("tomorrow".into()));
    assert_eq!(manifest.unknown, ["moon \"full\\n\""]);
    for text in [
        "",
        "redis-sharding manifest 2\n",
        "redis-sharding manifest 1\nmoon! full\n",
        "redis-sharding manifest 1\nnode a colour!=red\n",
        "redis-sharding manifest 1\ncreated_at +1\n",
        "redis-sharding manifest 1\ncreated_at  1\n",
        "redis-sharding manifest 1\ntool \"x\n",
        "redis-sharding manifest 1\nfingerprint 1\n",
    ] {
        assert!(Manifest::parse(text).is_err(), "{text}");
    }
}

#[test]
fn users_and_passwords_in_the_topology_are_not_written() {
    let mut manifest = tiny().manifest;
    manifest.set_topology(
        "node a rediss://app:secret@h:1/2?protocol=resp3#insecure\nnode b unix:///s?db=1&user=app&pass=secret\n\
         node c \"redis-sentinel://app:secret@s:1,t:2/0?sentinel_user=app&tls=yes#m\" weight=2\nnode d h:1",
    );
    let written = manifest.to_text();
    assert!(
        !written.contains("secret") && !written.contains("app"),
        "{written}"
    );
    let expected = "node a rediss://h:1/2?protocol=resp3#insecure\nnode b unix:///s?db=1\n\
                    node c \"redis-sentinel://s:1,t:2/0?tls=yes#m\" weight=2\nnode d h:1";
    assert_eq!(
        Manifest::parse(&written).unwrap().topology.as_deref(),
        Some(expected)
    );
}

#[test]
fn summary_by_seeking_is_that_of_the_stream_and_the_index_finds_each_frame() {
    for sample in samples() {
        let bytes = write(&sample);
        let seeking = Summary::of_file(Cursor::new(&bytes)).unwrap();
        let streaming = Summary::of_stream(bytes.as_slice()).unwrap();
        assert_eq!(
            (&seeking.manifest, &seeking.totals),
            (&streaming.manifest, &streaming.totals)
        );
        assert_eq!(
            (seeking.bytes, streaming.bytes),
            (bytes.len() as u64, bytes.len() as u64)
        );
        let keys: usize = sample.nodes.iter().map(|(_, keys)| keys.len()).sum();
        assert_eq!(seeking.totals.sum().keys, keys as u64);
        let mut reader = ArchiveReader::new(bytes.as_slice()).unwrap();
        for entry in &seeking.index {
            let frame = reader.next().unwrap().unwrap();
            let found = (frame.offset, frame.node(), frame.kind(), frame.entries());
            assert_eq!(found, (entry.offset, entry.node, entry.kind, entry.entries));
        }
        assert!(reader.next().unwrap().is_none());
    }
}

#[test]
fn verification_of_a_good_archive_finds_nothing_and_names_refused_values() {
    for sample in samples() {
        let bytes = write(&sample);
        let found = verify(bytes.as_slice(), LIMIT, |_, _| Ok(())).unwrap();
        assert!(found.is_good(), "{found:?}");
        let refuse = |_: u16, item: &Item| match item {
            Item::Entry(entry) if entry.info.key == b"user:1" => Err("not a string".into()),
            _ => Ok(()),
        };
        let found = verify(bytes.as_slice(), LIMIT, refuse).unwrap();
        assert_eq!(found.is_good(), sample.target > 0);
    }
}

#[test]
fn every_flipped_byte_is_found_and_the_rest_is_recovered() {
    for sample in samples() {
        let bytes = write(&sample);
        let expected = expected(&sample);
        let all: usize = expected.values().map(Vec::len).sum();
        // Every byte of the small one; of the others enough to meet each field of some frame.
        let step = if sample.target == 0 { 1 } else { 7 };
        for at in (0..bytes.len()).step_by(step) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            let (items, result) = strict(&damaged);
            assert!(result.is_err(), "byte {at} of {}", bytes.len());
            assert!(
                items
                    .iter()
                    .all(|(node, items)| expected[node].starts_with(items))
            );
            let (items, damage) = recovered(&damaged).unwrap();
            assert!(!damage.is_none(), "byte {at}");
            assert!(is_subset(&items, &expected), "byte {at}");
            let given: usize = items.values().map(Vec::len).sum();
            // One frame at most, and what goes on in it.
            assert!(
                given as u64 + damage.entries_lost() + 2 >= all as u64,
                "byte {at}: {damage:?}"
            );
            assert!(all - given <= 12, "byte {at}: {given} of {all}: {damage:?}");
        }
    }
}

#[test]
fn an_archive_cut_at_any_byte_is_found_and_what_is_before_is_good() {
    for sample in samples() {
        let bytes = write(&sample);
        let expected = expected(&sample);
        let step = if sample.target == 0 { 1 } else { 7 };
        for end in (0..bytes.len()).step_by(step) {
            let (items, result) = strict(&bytes[..end]);
            let error = result.unwrap_err();
            let is_told = matches!(error, ArchiveError::CutShort { .. }) || end == 0;
            assert!(is_told, "{end}: {error}");
            assert!(
                items
                    .iter()
                    .all(|(node, items)| expected[node].starts_with(items))
            );
            let Ok((recovered, damage)) = recovered(&bytes[..end]) else {
                assert!(items.is_empty());
                continue;
            };
            assert!(damage.end_is_missing && !damage.is_exact());
            assert_eq!(recovered, items, "{end}");
        }
    }
}

#[test]
fn bytes_behind_the_end_and_bytes_put_in_are_found() {
    let sample = full(LEVEL_STORED);
    let bytes = write(&sample);
    let expected = expected(&sample);
    let twice = [bytes.clone(), bytes.clone()].concat();
    assert!(strict(&twice).1.is_err());
    assert!(!recovered(&twice).unwrap().1.is_none());
    for at in (0..bytes.len()).step_by(7) {
        let mut longer = bytes.clone();
        longer.splice(at..at, *b"\xf1RSFx");
        assert!(strict(&longer).1.is_err(), "{at}");
        let (items, damage) = recovered(&longer).unwrap();
        assert!(!damage.is_none() && is_subset(&items, &expected), "{at}");
        let mut shorter = bytes.clone();
        shorter.drain(at..(at + 100).min(bytes.len()));
        assert!(strict(&shorter).1.is_err(), "{at}");
        let (items, damage) = recovered(&shorter).unwrap();
        assert!(!damage.is_none() && is_subset(&items, &expected), "{at}");
        let given: usize = items.values().map(Vec::len).sum();
        assert!(given > 8, "{at}: {given}");
    }
}

/// Where the frames of an archive begin, with its end.
fn offsets(bytes: &[u8]) -> Vec<usize> {
    let summary = Summary::of_file(Cursor::new(bytes)).unwrap();
    let offsets = summary.index.iter().map(|entry| entry.offset as usize);
    offsets.collect()
}

#[test]
fn missing_doubled_and_exchanged_frames_are_found_with_the_number_of_their_keys() {
    let sample = full(LEVEL_STORED);
    let bytes = write(&sample);
    let summary = Summary::of_file(Cursor::new(&bytes)).unwrap();
    let at = offsets(&bytes);
    let all = expected(&sample);
    for (n, window) in at.windows(3).enumerate() {
        let [first, second, third] = [window[0], window[1], window[2]];
        let entry = summary.index[n];
        let without = [&bytes[..first], &bytes[second..]].concat();
        assert!(strict(&without).1.is_err());
        let (items, damage) = recovered(&without).unwrap();
        assert!(is_subset(&items, &all));
        let lost = Lost {
            frames: 1,
            entries: entry.entries.into(),
        };
        assert_eq!(damage.lost, BTreeMap::from([(entry.node, lost)]));
        let doubled = [&bytes[..second], &bytes[first..]].concat();
        assert!(strict(&doubled).1.is_err());
        let (items, damage) = recovered(&doubled).unwrap();
        assert_eq!((items, damage.lost.len()), (all.clone(), 0));
        assert!(!damage.is_none());
        let exchanged = [
            &bytes[..first],
            &bytes[second..third],
            &bytes[first..second],
            &bytes[third..],
        ];
        assert!(strict(&exchanged.concat()).1.is_err());
        let (items, _) = recovered(&exchanged.concat()).unwrap();
        assert!(is_subset(&items, &all));
    }
}

#[test]
fn frames_of_an_archive_inside_a_value_are_not_taken_for_frames() {
    let inner = write(&full(LEVEL_STORED));
    let mut sample = tiny();
    sample.nodes[0].1.push((key(b"archive", 0), inner));
    let bytes = write(&sample);
    let at = offsets(&bytes)[0] + 60;
    let mut damaged = bytes.clone();
    damaged[at] ^= 1;
    let (items, damage) = recovered(&damaged).unwrap();
    assert!(items.is_empty(), "{items:?}");
    assert_eq!(damage.entries_lost(), 3);
}

#[test]
fn a_value_above_the_limit_is_named_and_counted_but_not_given() {
    let sample = full(LEVEL_STORED);
    let bytes = write(&sample);
    let mut large = Vec::new();
    let found = verify(bytes.as_slice(), 1000, |_, _| Ok(())).unwrap();
    for (_, incomplete) in &found.incomplete {
        let key = incomplete.info.as_ref().map(|info| info.key.clone());
        large.push((key.unwrap_or_default(), incomplete.reason, incomplete.bytes));
    }
    let long = (b"long".to_vec(), IncompleteReason::TooLarge, 3004);
    assert!(large.contains(&long), "{large:?}");
    assert!(found.contradictions.is_empty() && found.damage.is_none());
}

#[test]
fn streams_that_are_no_archive_are_told_apart() {
    let bytes = write(&tiny());
    let error = |bytes: &[u8]| ArchiveReader::new(bytes).err().unwrap();
    assert!(matches!(error(b""), ArchiveError::NotAnArchive));
    assert!(matches!(
        error(b"REDIS0010...................."),
        ArchiveError::NotAnArchive
    ));
    let unix: Vec<u8> = bytes
        .iter()
        .copied()
        .filter(|&byte| byte != b'\r')
        .collect();
    assert!(matches!(error(&unix), ArchiveError::TextMode));
    let seven: Vec<u8> = bytes.iter().map(|byte| byte & 0x7f).collect();
    assert!(matches!(error(&seven), ArchiveError::TextMode));
    assert!(matches!(
        error(b"age-encryption.org/v1\n-> X25519"),
        ArchiveError::Encrypted
    ));
    let mut newer = bytes.clone();
    newer[8] = 2;
    let check = super::format::check32(&newer[..12]).to_le_bytes();
    newer[12..16].copy_from_slice(&check);
    assert!(matches!(error(&newer), ArchiveError::Version(2)));
    let recovered = ArchiveReader::recover(b"nothing of the kind".as_slice())
        .err()
        .unwrap();
    assert!(matches!(recovered, ArchiveError::NotAnArchive));
}

#[test]
fn writers_refuse_frames_in_the_wrong_order() {
    let sample = tiny();
    let mut writer = ArchiveWriter::new(Vec::new(), &sample.manifest).unwrap();
    let mut builder = FrameBuilder::new(writer.id(), 0, LEVEL_STORED).unwrap();
    assert!(builder.value(b"x").is_err() && builder.end().is_err());
    builder.begin(&key(b"k", 0), RdbVersion(10)).unwrap();
    assert!(builder.finish().is_err());
    assert!(builder.begin(&key(b"k", 0), RdbVersion(10)).is_err());
    builder.end().unwrap();
    builder.finish().unwrap();
    let frame = builder.frames().next().unwrap();
    writer.write(&frame).unwrap();
    assert!(writer.write(&frame).is_err());
    assert!(writer.finish(&Totals::default()).is_err());
    assert!(FrameBuilder::new(0, 0, 20).is_err() && FrameBuilder::new(0, 0, -1).is_err());
}

#[cfg(feature = "backup-encryption")]
mod encryption {
    use std::io::{Read, Write};

    use super::*;

    /// Keys that `age-keygen` writes.
    fn keys() -> (Recipients, Identities, Identities) {
        let own = ::age::x25519::Identity::generate();
        let other = ::age::x25519::Identity::generate();
        let secret = |identity: &::age::x25519::Identity| {
            use ::age::secrecy::ExposeSecret;
            let text = format!(
                "# created: today\n{}\n",
                identity.to_string().expose_secret()
            );
            Identities::parse(&text).unwrap()
        };
        let recipients = Recipients::parse(&format!("\n# me\n{}\n", own.to_public())).unwrap();
        (recipients, secret(&own), secret(&other))
    }

    #[test]
    fn an_encrypted_archive_is_read_with_its_identity_only() {
        let (recipients, own, other) = keys();
        let bytes = write(&full(LEVEL_DEFAULT));
        let mut writer = recipients.encrypt(Vec::new()).unwrap();
        writer.write_all(&bytes).unwrap();
        let encrypted = writer.finish().unwrap();
        let mut decrypted = Vec::new();
        let mut reader = MaybeEncrypted::open(encrypted.as_slice(), Some(&own)).unwrap();
        assert!(reader.is_encrypted());
        reader.read_to_end(&mut decrypted).unwrap();
        assert!(decrypted == bytes);
        let without = MaybeEncrypted::open(encrypted.as_slice(), None)
            .err()
            .unwrap();
        assert!(matches!(without, ArchiveError::Encrypted));
        let wrong = MaybeEncrypted::open(encrypted.as_slice(), Some(&other))
            .err()
            .unwrap();
        assert!(wrong.to_string().contains("other keys"));
        let plain = MaybeEncrypted::open(bytes.as_slice(), Some(&own)).unwrap();
        assert!(!plain.is_encrypted() && ArchiveReader::new(plain).is_ok());
        // Damaged or cut: what is before is recovered.
        for end in [encrypted.len() - 1, encrypted.len() - 40] {
            let reader = MaybeEncrypted::open(&encrypted[..end], Some(&own)).unwrap();
            if let Ok(mut reader) = ArchiveReader::recover(reader) {
                while reader.next().unwrap().is_some() {}
                assert!(reader.damage().end_is_missing);
            }
        }
    }

    #[test]
    fn keys_that_cannot_be_read_are_refused_without_repeating_them() {
        for text in ["", "# nothing", "AGE-SECRET-KEY-1WRONG", "age1wrong"] {
            let refusals = [
                Recipients::parse(text).err().unwrap().to_string(),
                Identities::parse(text).err().unwrap().to_string(),
            ];
            assert!(!refusals.iter().any(|text| text.contains("WRONG")));
        }
    }
}
