//! Times in milliseconds since 1970: of this machine, and of servers.

#[cfg(feature = "backup")]
use std::time::{SystemTime, UNIX_EPOCH};

use redis::Value;

/// The time of this machine.
#[cfg(feature = "backup")]
pub(super) fn own_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

/// The time in a reply to TIME.
pub(super) fn time_of(reply: &Value) -> Option<i64> {
    let (seconds, micros): (i64, i64) = redis::from_redis_value_ref(reply).ok()?;
    Some(seconds.saturating_mul(1000).saturating_add(micros / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_a_server_is_in_milliseconds() {
        let word = |text: &str| Value::BulkString(text.into());
        let reply = Value::Array(vec![word("1764300000"), word("123456")]);
        assert_eq!(time_of(&reply), Some(1_764_300_000_123));
        assert_eq!(time_of(&Value::Array(vec![word("1764300000")])), None);
        assert_eq!(time_of(&Value::Nil), None);
    }
}
