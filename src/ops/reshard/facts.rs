//! [`ServerFacts`]: what a server can do, and how it keeps its data.

use crate::resp::info_field;

/// What INFO and CONFIG say of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerFacts {
    /// Major and minor version of Redis, or that with which a Valkey is compatible.
    version: (u32, u32),
    pub(super) run_id: String,
    pub(super) used_memory: u64,
    /// Zero without a limit.
    pub(super) max_memory: u64,
    /// What is removed when the memory is full.
    pub(super) eviction: String,
    /// Number of replicas.
    pub(super) replicas: u32,
    /// True if each write is written to the append-only file.
    pub(super) has_append_only_file: bool,
    /// True if the data is saved from time to time.
    pub(super) has_snapshots: bool,
    /// True while the server is a replica itself.
    pub(super) is_replica: bool,
    /// True for a node of a Redis Cluster.
    pub(super) is_cluster: bool,
    /// The logical databases that have keys.
    pub(super) databases: Vec<i64>,
}

/// How the target makes sure that what was moved is as safe as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// The source wrote nothing to disk either, or the target cannot.
    None,
    /// WAITAOF says when it is on disk.
    WaitAof,
    /// The append-only file is written once a second.
    EverySecond,
    /// BGSAVE, once the pair has moved.
    Snapshot,
}

/// The number of the database that a line of INFO counts the keys of.
fn database(line: &str) -> Option<i64> {
    let (number, _) = line.strip_prefix("db")?.split_once(":keys=")?;
    number.parse().ok()
}

impl ServerFacts {
    /// Reads INFO, and the value of `save` in the configuration if the user may see it.
    pub(super) fn new(info: &str, save: Option<&str>) -> Self {
        let number = |name| info_field(info, name).and_then(|text| text.parse().ok());
        let text = |name| info_field(info, name).unwrap_or_default().to_owned();
        let version = text("redis_version");
        let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
        Self {
            version: (parts.next().unwrap_or(0), parts.next().unwrap_or(0)),
            run_id: text("run_id"),
            used_memory: number("used_memory").unwrap_or(0),
            max_memory: number("maxmemory").unwrap_or(0),
            eviction: text("maxmemory_policy"),
            replicas: number("connected_slaves").unwrap_or(0) as u32,
            has_append_only_file: info_field(info, "aof_enabled") == Some("1"),
            has_snapshots: save.is_some_and(|save| !save.is_empty()),
            is_replica: info_field(info, "role") == Some("slave"),
            is_cluster: info_field(info, "cluster_enabled") == Some("1"),
            databases: info.lines().filter_map(database).collect(),
        }
    }

    /// True if the server is older than the other one, so that it may not know what that one sends to replicas.
    pub(super) fn is_older_than(&self, other: &Self) -> bool {
        self.version < other.version
    }

    /// PEXPIRETIME, FUNCTION, and events of new keys.
    pub(super) fn is_7_0(&self) -> bool {
        self.version >= (7, 0)
    }

    /// True if OBJECT FREQ replies, and OBJECT IDLETIME does not.
    pub(super) fn counts_frequency(&self) -> bool {
        self.eviction.contains("lfu")
    }

    /// True if the server may remove any key when its memory is full.
    pub(super) fn evicts_any_key(&self) -> bool {
        self.eviction.starts_with("allkeys-")
    }

    /// How what `source` has on disk gets onto the disk of this target.
    pub(super) fn durability_after(&self, source: &Self) -> Durability {
        let is_safe = source.has_append_only_file || source.has_snapshots;
        match (is_safe, self.has_append_only_file, self.has_snapshots) {
            (false, ..) | (true, false, false) => Durability::None,
            (true, true, _) if self.version >= (7, 2) => Durability::WaitAof,
            (true, true, _) => Durability::EverySecond,
            (true, false, true) => Durability::Snapshot,
        }
    }

    /// True if the target keeps less on disk than the source.
    pub(super) fn is_less_safe_than(&self, source: &Self) -> bool {
        let is_file_lost = source.has_append_only_file && !self.has_append_only_file;
        let has_nothing = !self.has_append_only_file && !self.has_snapshots;
        is_file_lost || (source.has_snapshots && has_nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nrun_id:abc\r\n\
                        used_memory:100\r\nused_memory_human:100B\r\nmaxmemory:200\r\nmaxmemory_policy:allkeys-lfu\r\n\
                        aof_enabled:1\r\nrole:master\r\nconnected_slaves:2\r\n";

    #[test]
    fn facts_are_read_from_info() {
        let facts = ServerFacts::new(INFO, Some("3600 1"));
        assert_eq!((facts.version, &*facts.run_id), ((7, 2), "abc"));
        assert_eq!(
            (facts.used_memory, facts.max_memory, facts.replicas),
            (100, 200, 2)
        );
        assert!(facts.evicts_any_key() && facts.counts_frequency() && facts.is_7_0());
        assert!(facts.has_append_only_file && facts.has_snapshots && !facts.is_replica);
        let old = ServerFacts::new("redis_version:6.2.14\r\nrole:slave\r\n", Some(""));
        assert!(!old.is_7_0() && old.is_replica && !old.has_snapshots);
    }

    #[test]
    fn durability_of_the_target_is_that_of_the_source() {
        let server = |version, file, snapshots| ServerFacts {
            version,
            has_append_only_file: file,
            has_snapshots: snapshots,
            ..ServerFacts::default()
        };
        let (none, file) = (server((7, 0), false, false), server((7, 0), true, false));
        let (newer, saved) = (server((7, 2), true, true), server((7, 0), false, true));
        for (source, target, expected, is_less) in [
            (&none, &newer, Durability::None, false),
            (&file, &none, Durability::None, true),
            (&file, &file, Durability::EverySecond, false),
            (&file, &newer, Durability::WaitAof, false),
            (&saved, &saved, Durability::Snapshot, false),
            (&file, &saved, Durability::Snapshot, true),
        ] {
            assert_eq!(target.durability_after(source), expected);
            assert_eq!(target.is_less_safe_than(source), is_less);
        }
    }
}
