//! Archives for tests: the golden files of `tests/vectors/archive`, and how they are written.

use super::{ArchiveWriter, CutKind, FrameBuilder, LEVEL_STORED, Manifest, ManifestNode, Totals};
use crate::rdb::{Access, KeyInfo, RdbVersion};

/// The functions of a node, and its keys with their values.
type NodeSample = (Vec<Vec<u8>>, Vec<(KeyInfo, Vec<u8>)>);

/// What an archive of these tests contains.
pub(super) struct Sample {
    pub(super) manifest: Manifest,
    /// For each node, its functions and keys with their values.
    pub(super) nodes: Vec<NodeSample>,
    pub(super) level: i32,
    /// Length at which a frame is full; 0 for the usual one.
    pub(super) target: usize,
}

pub(super) fn key(name: &[u8], value_type: u8) -> KeyInfo {
    KeyInfo {
        db: 0,
        key: name.to_vec(),
        expires_at: None,
        access: Access::Unknown,
        value_type,
    }
}

/// One node with two keys.
pub(super) fn tiny() -> Sample {
    let node = ManifestNode {
        name: "a".into(),
        ..ManifestNode::default()
    };
    let expiring = KeyInfo {
        expires_at: Some(1_800_000_000_000),
        ..key(b"session", 0)
    };
    Sample {
        manifest: Manifest {
            created_at: 1_764_300_000_000,
            tool: "redis-sharding 0.1.0".into(),
            nodes: vec![node],
            ..Manifest::default()
        },
        nodes: vec![(
            vec![],
            vec![
                (key(b"user:1", 0), b"\x03Ann".to_vec()),
                (expiring, b"\xc0\x07".to_vec()),
            ],
        )],
        level: LEVEL_STORED,
        target: 0,
    }
}

/// Three nodes with everything that the format has: functions, all properties of keys, a value over several frames.
pub(super) fn full(level: i32) -> Sample {
    let node = |name: &str, version: &str, rdb| ManifestNode {
        name: name.into(),
        address: Some(format!("{name}.example:6379")),
        server: Some("redis".into()),
        server_version: Some(version.into()),
        rdb_version: Some(rdb),
        run_id: Some("0123456789abcdef0123456789abcdef01234567".into()),
        replication_id: Some("89abcdef0123456789abcdef0123456789abcdef".into()),
        replication_offset: Some(4711),
        record_epoch: Some(3),
    };
    let mut manifest = Manifest {
        created_at: 1_764_300_000_000,
        tool: "redis-sharding 0.1.0".into(),
        cut: CutKind::Cut,
        whole_writes: Some(true),
        paused_at: Some(1_764_300_000_100),
        paused_for: Some(9_700),
        fingerprint: Some(0x0123_4567_89ab_cdef),
        record_epoch: Some(3),
        nodes: vec![
            node("north", "7.0.15", 10),
            node("s\u{fc}d \"x\"", "8.2.3", 12),
            node("empty", "9.1.2", 80),
        ],
        remarks: vec!["node empty has no keys".into()],
        ..Manifest::default()
    };
    manifest
        .set_topology("redis-sharding topology 1\n\nnode north redis://app@north.example:6379/1\n");
    let value = |seed: u32, length: u32| -> Vec<u8> {
        (0..length)
            .map(|at| ((at * 7 + seed) % 251) as u8)
            .collect()
    };
    let mut north = vec![
        (key(b"", 0), b"\x00".to_vec()),
        (
            KeyInfo {
                access: Access::Idle(77),
                expires_at: Some(-1),
                ..key(b"idle\r\n", 16)
            },
            value(1, 40),
        ),
        (key(b"long", 18), value(2, 3000)),
    ];
    north.extend((0..20).map(|n| (key(format!("n:{n}").as_bytes(), 0), value(n, 60))));
    let south = vec![
        (
            KeyInfo {
                db: 5,
                access: Access::Frequency(200),
                ..key(&value(9, 700), 21)
            },
            value(3, 500),
        ),
        (key(b"last", 4), value(4, 513)),
    ];
    Sample {
        manifest,
        nodes: vec![
            (vec![b"#!lua name=one\n".to_vec(), value(5, 900)], north),
            (vec![], south),
            (vec![], vec![]),
        ],
        level,
        target: 512,
    }
}

/// Writes an archive, with the frames of its nodes in turns.
pub(super) fn write(sample: &Sample) -> Vec<u8> {
    let mut writer = ArchiveWriter::new(Vec::new(), &sample.manifest).unwrap();
    let mut totals = Totals {
        finished_at: Some(1_764_300_001_000),
        remarks: vec!["made for tests".into()],
        ..Totals::default()
    };
    let mut queues = Vec::new();
    for (node, (functions, keys)) in (0..).zip(&sample.nodes) {
        let mut builder = FrameBuilder::new(writer.id(), node, sample.level).unwrap();
        if sample.target > 0 {
            builder = builder.with_target(sample.target);
        }
        let version = RdbVersion(
            sample.manifest.nodes[usize::from(node)]
                .rdb_version
                .unwrap_or(10),
        );
        for source in functions {
            builder.function(source, version).unwrap();
        }
        for (info, value) in keys {
            builder.begin(info, version).unwrap();
            // In uneven pieces, which must not matter.
            for piece in value.chunks(1 + value.len() / 3) {
                builder.value(piece).unwrap();
            }
            builder.end().unwrap();
        }
        builder.expired();
        totals.nodes.push(builder.finish().unwrap());
        queues.push(builder.frames().collect::<std::collections::VecDeque<_>>());
    }
    while queues.iter().any(|queue| !queue.is_empty()) {
        for frame in queues.iter_mut().filter_map(|queue| queue.pop_front()) {
            writer.write(&frame).unwrap();
        }
    }
    writer.finish(&totals).unwrap()
}
