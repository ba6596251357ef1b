//! [`info_field`]: fields of the text that INFO returns.

/// The value of a field of INFO.
pub(crate) fn info_field<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    let mut lines = info.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_field_is_found_by_its_whole_name() {
        let info =
            "# Server\r\nredis_version:7.0.15\r\nmaxmemory_policy:noeviction\r\nmaxmemory:100\r\n";
        assert_eq!(info_field(info, "redis_version"), Some("7.0.15"));
        assert_eq!(info_field(info, "maxmemory"), Some("100"));
        assert_eq!(info_field(info, "max"), None);
        assert_eq!(info_field("", "maxmemory"), None);
    }
}
