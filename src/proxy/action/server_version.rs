//! The version of the servers, for the reply to HELLO: client libraries use it to decide which commands they
//! may send.

/// INFO server, in the usual form.
pub(super) const INFO_SERVER: &[u8] = b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n";

/// Stands for the version if no node replies. Client libraries parse it, so it has the form of one.
pub(super) const UNKNOWN_VERSION: &str = "0.0.0";

/// Finds `redis_version` in the bytes of a reply to INFO, a bulk string or a verbatim string. Returns `None`
/// for an error.
pub(super) fn redis_version(info: &[u8]) -> Option<String> {
    let mut lines = info.split(|&byte| byte == b'\n');
    let version = lines.find_map(|line| line.strip_prefix(b"redis_version:"))?;
    Some(String::from_utf8_lossy(version.trim_ascii_end()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_version_is_read_from_info_in_resp2_and_resp3() {
        let some = |text: &str| Some(text.to_owned());
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:0\r\n";
        let bulk = format!("${}\r\n{info}\r\n", info.len());
        assert_eq!(redis_version(bulk.as_bytes()), some("7.0.15"));
        let verbatim = format!("={}\r\ntxt:{info}\r\n", info.len() + 4);
        assert_eq!(redis_version(verbatim.as_bytes()), some("7.0.15"));
        assert_eq!(redis_version(b"-NOPERM redis_version:1\r\n"), None);
        assert_eq!(redis_version(b"$-1\r\n"), None);
        assert_eq!(redis_version(b""), None);
    }
}
