//! Versions of the RDB format, and the head of files that names them.

use super::RdbError;

/// The number of bytes of the head.
pub(super) const HEAD_LENGTH: usize = 9;

/// The last version of Redis whose records are all known: that of Redis 8.2.
const REDIS_KNOWN_MAX: u16 = 12;

/// The first version with a checksum at the end.
const CHECKSUM_MIN: u16 = 5;

/// The first version of Valkey; those from 12 up to it are of Redis alone.
const VALKEY_MIN: u16 = 80;

/// The last version of Valkey whose records are all known: that of Valkey 9.0 and 9.1.
const VALKEY_KNOWN_MAX: u16 = 80;

/// A version of the RDB format: the number in the head of files and in the footer of `DUMP`.
///
/// 9 is Redis 6.2, 10 is 7.0, 11 is 7.2 and Valkey 7.2 to 8.1, 12 is 7.4 to 8.2; 80 is Valkey 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RdbVersion(pub(crate) u16);

/// Whose format it is: from Redis 7.4 and Valkey 9.0 on, the same numbers mean different records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Redis, and Valkey as far as it writes what Redis 7.2 does.
    Redis,
    /// Valkey from 9.0 on.
    Valkey,
}

impl RdbVersion {
    /// Returns whose format it is.
    pub(crate) fn family(self) -> Family {
        if self.0 >= VALKEY_MIN {
            Family::Valkey
        } else {
            Family::Redis
        }
    }

    /// Returns true if the layout of every record of this version is known.
    pub(crate) fn is_known(self) -> bool {
        match self.family() {
            Family::Redis => (1..=REDIS_KNOWN_MAX).contains(&self.0),
            Family::Valkey => self.0 <= VALKEY_KNOWN_MAX,
        }
    }

    /// Returns an error that names the version if it [is not known](Self::is_known).
    pub(crate) fn require_known(self) -> Result<(), RdbError> {
        if self.is_known() {
            Ok(())
        } else {
            Err(RdbError::NewerVersion { version: self.0 })
        }
    }

    /// Returns true if a checksum stands behind the end.
    pub(super) fn has_checksum(self) -> bool {
        self.0 >= CHECKSUM_MIN
    }

    /// Reads the head of a file. The version may be newer than those that are known.
    pub(super) fn of_head(head: &[u8; HEAD_LENGTH]) -> Result<Self, RdbError> {
        let digits = |digits: &[u8]| {
            let is_number = digits.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
            text.parse().ok().map(Self)
        };
        let (version, family) = if let Some(number) = head.strip_prefix(b"REDIS") {
            (digits(number), Family::Redis)
        } else if let Some(number) = head.strip_prefix(b"VALKEY") {
            (digits(number), Family::Valkey)
        } else {
            return Err(RdbError::NotRdb);
        };
        match version {
            Some(version) if version.0 > 0 && version.family() == family => Ok(version),
            // The numbers that Valkey has taken: Redis is far from them.
            Some(version) if family == Family::Redis && version.0 > 0 => {
                Err(RdbError::NewerVersion { version: version.0 })
            }
            _ => Err(RdbError::NotRdb),
        }
    }

    /// Returns the head of a file of this version. Numbers above 9999 of Redis or 999 of Valkey have none, and no server.
    pub(super) fn head(self) -> Vec<u8> {
        match self.family() {
            Family::Redis => format!("REDIS{:04}", self.0).into_bytes(),
            Family::Valkey => format!("VALKEY{:03}", self.0).into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_all_servers_are_read_and_written() {
        let heads = [
            (b"REDIS0009", 9, Family::Redis),
            (b"REDIS0010", 10, Family::Redis),
            (b"REDIS0011", 11, Family::Redis),
            (b"REDIS0012", 12, Family::Redis),
            (b"VALKEY080", 80, Family::Valkey),
        ];
        for (head, number, family) in heads {
            let version = RdbVersion::of_head(head).unwrap();
            assert_eq!((version.0, version.family()), (number, family));
            assert!(version.is_known() && version.has_checksum());
            assert_eq!(version.head(), head);
        }
    }

    #[test]
    fn newer_versions_are_named() {
        for (head, number) in [(b"REDIS0013", 13), (b"REDIS0079", 79), (b"VALKEY081", 81)] {
            let version = RdbVersion::of_head(head).unwrap();
            assert!(!version.is_known());
            let error = version.require_known().unwrap_err().to_string();
            assert!(error.contains(&format!("RDB version {number} ")), "{error}");
        }
        let error = RdbVersion::of_head(b"REDIS0080").unwrap_err();
        assert!(matches!(error, RdbError::NewerVersion { version: 80 }));
    }

    #[test]
    fn other_heads_are_refused() {
        let heads = [
            b"REDIS0000",
            b"VALKEY079",
            b"REDIS+009",
            b"REDIS 009",
            b"VALKEY0 8",
            b"redis0009",
            b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00",
            b"$12\r\nRED\r",
        ];
        for head in heads {
            let error = RdbVersion::of_head(head).unwrap_err();
            assert!(matches!(error, RdbError::NotRdb), "{}", head.escape_ascii());
        }
    }
}
