//! [`SourceFacts`]: what a server says of itself before a cut.

use crate::resp::info_field;

/// What INFO says of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceFacts {
    /// `redis` or `valkey`.
    pub(super) product: String,
    /// The version of the product.
    pub(super) version: String,
    /// Major and minor version of Redis, or that with which a Valkey is compatible.
    pub(super) redis_version: (u32, u32),
    /// What a child process, or a load, is busy with.
    pub(super) busy: Option<&'static str>,
    /// Memory of the keys and values in bytes.
    pub(super) dataset: u64,
    /// Number of keys in each database that has some.
    pub(super) databases: Vec<(u32, u64)>,
    /// True if the server is a replica.
    pub(super) is_replica: bool,
    /// True if OBJECT FREQ replies, and OBJECT IDLETIME does not.
    pub(super) counts_frequency: bool,
    /// True if the server notes when a key was used last, and acts on it.
    pub(super) counts_idle_time: bool,
    /// The replicas that are in step: host, port, offset.
    pub(super) replicas: Vec<(String, u16, u64)>,
    /// The replication offset.
    pub(super) offset: u64,
    /// The id of the server's process.
    pub(super) run_id: String,
    /// The id of the replication history.
    pub(super) history: String,
    /// True for a server of a Redis Cluster.
    pub(super) in_cluster: bool,
}

impl SourceFacts {
    /// Reads INFO.
    pub(super) fn new(info: &str) -> Self {
        let text = |name| info_field(info, name).unwrap_or_default();
        let number = |name| text(name).parse().unwrap_or(0);
        let mut parts = text("redis_version").split('.');
        let mut part = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        let redis_version = (part(), part());
        let (product, version) = match info_field(info, "valkey_version") {
            Some(version) => ("valkey", version),
            None => ("redis", text("redis_version")),
        };
        Self {
            product: product.to_owned(),
            version: version.to_owned(),
            redis_version,
            busy: busy(info),
            dataset: number("used_memory_dataset"),
            databases: databases(info),
            is_replica: text("role") == "slave",
            counts_frequency: text("maxmemory_policy").contains("lfu"),
            counts_idle_time: text("maxmemory_policy").contains("lru"),
            replicas: replicas(info),
            offset: number("master_repl_offset"),
            run_id: text("run_id").to_owned(),
            history: text("master_replid").to_owned(),
            in_cluster: text("cluster_enabled") == "1",
        }
    }

    /// Name and version, for reports.
    pub(super) fn server(&self) -> String {
        format!("{} {}", self.product, self.version)
    }

    /// Number of keys in all databases, with those that have expired.
    pub(super) fn keys(&self) -> u64 {
        self.databases.iter().map(|(_, keys)| keys).sum()
    }

    /// True if FUNCTION and PEXPIRETIME exist.
    pub(super) fn is_7_0(&self) -> bool {
        self.redis_version >= (7, 0)
    }
}

/// What a server is busy with, if that keeps it from beginning with a stream at once.
pub(super) fn busy(info: &str) -> Option<&'static str> {
    let runs = |name| info_field(info, name) == Some("1");
    if runs("loading") {
        return Some("loading its data");
    }
    if runs("rdb_bgsave_in_progress") {
        return Some("saving its data");
    }
    if runs("aof_rewrite_in_progress") {
        return Some("rewriting its append-only file");
    }
    if runs("module_fork_in_progress") {
        return Some("running a child process of a module");
    }
    // A replica of another one waits for a save that begins soon.
    let waits = |line: &str| line.starts_with("slave") && line.contains("state=wait_bgsave");
    match info.lines().any(waits) {
        true => Some("about to save its data for a replica"),
        false => None,
    }
}

/// `db0:keys=3,expires=1,avg_ttl=0` for each database.
fn databases(info: &str) -> Vec<(u32, u64)> {
    let database = |line: &str| {
        let (number, counts) = line.strip_prefix("db")?.split_once(':')?;
        let keys = counts.strip_prefix("keys=")?.split(',').next()?;
        Some((number.parse().ok()?, keys.parse().ok()?))
    };
    info.lines().filter_map(database).collect()
}

/// `slave0:ip=10.0.0.1,port=6379,state=online,offset=10,lag=0` for each replica.
fn replicas(info: &str) -> Vec<(String, u16, u64)> {
    let replica = |line: &str| {
        let (number, fields) = line.strip_prefix("slave")?.split_once(':')?;
        let _: u32 = number.parse().ok()?;
        let value = |name: &str| {
            let mut fields = fields.split(',');
            fields.find_map(|field| field.trim_end().strip_prefix(name)?.strip_prefix('='))
        };
        let is_online = value("state") == Some("online");
        let (host, port) = (value("ip")?, value("port")?);
        let offset = value("offset")?.parse().ok()?;
        is_online.then(|| Some((host.to_owned(), port.parse().ok()?, offset)))?
    };
    info.lines().filter_map(replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
        loading:0\r\nrdb_bgsave_in_progress:0\r\nused_memory_dataset:1234\r\nmaxmemory_policy:allkeys-lfu\r\n\
        role:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.1,port=6380,state=online,offset=70,lag=0\r\n\
        slave1:ip=::1,port=6381,state=online,offset=56,lag=1,type=replica\r\nmaster_replid:abc\r\n\
        master_repl_offset:70\r\ncluster_enabled:0\r\n# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\n\
        db15:keys=2,expires=0,avg_ttl=0\r\n";

    #[test]
    fn facts_are_read_from_info() {
        let facts = SourceFacts::new(INFO);
        assert_eq!(facts.server(), "valkey 9.1.2");
        assert!(facts.is_7_0() && facts.counts_frequency && !facts.is_replica);
        assert_eq!((facts.dataset, facts.keys(), facts.offset), (1234, 5, 70));
        assert_eq!(facts.databases, [(0, 3), (15, 2)]);
        let replicas = [("10.0.0.1".into(), 6380, 70), ("::1".into(), 6381, 56)];
        assert_eq!(facts.replicas, replicas);
        assert_eq!((&*facts.history, facts.busy), ("abc", None));
        let old = SourceFacts::new("redis_version:6.2.14\r\nrole:slave\r\n");
        assert_eq!(old.server(), "redis 6.2.14");
        assert!(!old.is_7_0() && old.is_replica);
    }

    #[test]
    fn server_with_a_child_process_is_busy() {
        for (from, to) in [
            ("loading:0", "loading:1"),
            ("rdb_bgsave_in_progress:0", "rdb_bgsave_in_progress:1"),
            ("rdb_bgsave_in_progress:0", "aof_rewrite_in_progress:1"),
            ("6380,state=online", "6380,state=wait_bgsave"),
        ] {
            let info = INFO.replacen(from, to, 1);
            assert_ne!(info, INFO);
            assert!(busy(&info).is_some(), "{to}");
        }
        let sending = INFO.replacen("6380,state=online", "6380,state=send_bulk", 1);
        assert_eq!(SourceFacts::new(&sending).replicas.len(), 1);
    }
}
