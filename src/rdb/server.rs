//! Which server it is, as far as what it reads and writes depends on that.

use super::version::{Family, RdbVersion};

use crate::resp::info_field;

/// The version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerVersion {
    /// Whose it is.
    pub(crate) family: ServerFamily,
    /// The first number.
    pub(crate) major: u32,
    /// The second one.
    pub(crate) minor: u32,
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerFamily {
    /// Redis, and what calls itself so.
    Redis,
    /// Valkey.
    Valkey,
}

impl ServerVersion {
    /// Reads the version from the text of `INFO server`, if it has one.
    ///
    /// Valkey has a `redis_version` too, that of the Redis with which it is compatible.
    pub(crate) fn of_info(info: &str) -> Option<Self> {
        match info_field(info, "valkey_version") {
            Some(version) => Self::parse(ServerFamily::Valkey, version),
            None => Self::parse(ServerFamily::Redis, info_field(info, "redis_version")?),
        }
    }

    /// Reads a version such as `7.0.15`.
    pub(crate) fn parse(family: ServerFamily, version: &str) -> Option<Self> {
        let mut numbers = version.split('.').map(str::parse);
        Some(Self {
            family,
            major: numbers.next()?.ok()?,
            minor: numbers.next()?.ok()?,
        })
    }

    /// Returns true if it is Redis of this version or a later one.
    pub(crate) fn is_redis_from(self, major: u32, minor: u32) -> bool {
        self.family == ServerFamily::Redis && (self.major, self.minor) >= (major, minor)
    }

    /// Returns true if it is Valkey of this version or a later one.
    pub(crate) fn is_valkey_from(self, major: u32, minor: u32) -> bool {
        self.family == ServerFamily::Valkey && (self.major, self.minor) >= (major, minor)
    }

    /// Returns true if it has what Redis 7.0 and every Valkey have: listpacks, functions, the history of streams.
    pub(crate) fn has_redis_7(self) -> bool {
        self.family == ServerFamily::Valkey || self.major >= 7
    }

    /// Returns true if fields of hashes can expire.
    pub(crate) fn has_field_expiry(self) -> bool {
        self.is_redis_from(7, 4) || self.is_valkey_from(9, 0)
    }

    /// Returns the version of RDB that it writes. Of servers that are not known yet, that of the last known one, which
    /// they read too.
    pub(crate) fn rdb_version(self) -> RdbVersion {
        let number = match (self.family, self.major, self.minor) {
            (ServerFamily::Valkey, 0..=8, _) => 11,
            (ServerFamily::Valkey, _, _) => 80,
            (ServerFamily::Redis, 0..=6, _) => 9,
            (ServerFamily::Redis, 7, 0 | 1) => 10,
            (ServerFamily::Redis, 7, 2 | 3) => 11,
            (ServerFamily::Redis, 7, _) => 12,
            (ServerFamily::Redis, 8, 0..=3) => 12,
            (ServerFamily::Redis, _, _) => 13,
        };
        RdbVersion(number)
    }

    /// Returns true if `RESTORE` takes payloads with this version in the footer.
    pub(crate) fn takes_footer(self, version: RdbVersion) -> bool {
        let own = self.rdb_version();
        // Valkey 9 refuses those that only later versions of Redis have written.
        version <= own
            && (own.family() == Family::Redis || version.0 <= 11 || version >= RdbVersion(80))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_info() {
        let info =
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        let valkey = ServerVersion::of_info(info).unwrap();
        assert!(valkey.is_valkey_from(9, 0) && !valkey.is_valkey_from(10, 0));
        assert!(!valkey.is_redis_from(7, 0));
        let redis = ServerVersion::of_info("redis_version:6.2.14\r\n").unwrap();
        assert!(redis.is_redis_from(6, 2) && !redis.has_redis_7());
        assert_eq!(ServerVersion::of_info("role:master\r\n"), None);
    }

    #[test]
    fn footers_are_taken_as_tried_with_the_servers() {
        let takes = |family, version, footers: &[u16]| {
            let server = ServerVersion::parse(family, version).unwrap();
            let taken = [1, 9, 10, 11, 12, 13, 79, 80, 81];
            let taken = taken
                .into_iter()
                .filter(|&n| server.takes_footer(RdbVersion(n)));
            assert_eq!(taken.collect::<Vec<_>>(), footers, "{version}");
        };
        takes(ServerFamily::Redis, "6.2.14", &[1, 9]);
        takes(ServerFamily::Redis, "7.0.15", &[1, 9, 10]);
        takes(ServerFamily::Redis, "7.2.0", &[1, 9, 10, 11]);
        takes(ServerFamily::Redis, "8.2.3", &[1, 9, 10, 11, 12]);
        takes(ServerFamily::Valkey, "8.1.8", &[1, 9, 10, 11]);
        takes(ServerFamily::Valkey, "9.1.2", &[1, 9, 10, 11, 80]);
    }
}
