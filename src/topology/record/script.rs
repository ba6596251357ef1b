//! The scripts with which clients read the record, and keep it while they empty a node.
//!
//! The record is in a logical database of its own. A script may select it: that does not change the database of the
//! connection that runs it.

/// Reads the record and the `run_id` of the server: see [`RecordReply`](super::RecordReply).
pub(crate) const READ_SCRIPT: &str = "\
redis.call('SELECT', 15)
local record = redis.call('GET', 'redis-sharding:record')
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
return {record, run_id or ''}";

/// FLUSHALL, with its arguments, that keeps the record and what is beside it: the topologies, the request that a reshard
/// pauses, and the configuration that the node has had before the reshard.
pub(crate) const FLUSHALL_SCRIPT: &str = "\
redis.call('SELECT', 15)
local keys = {'redis-sharding:record', 'redis-sharding:topology', 'redis-sharding:target', 'redis-sharding:reshard-pause',
  'redis-sharding:former-events', 'redis-sharding:former-compression'}
local kept = redis.call('MGET', unpack(keys))
local reply = redis.call('FLUSHALL', unpack(ARGV))
for number, key in ipairs(keys) do
  if kept[number] then redis.call('SET', key, kept[number]) end
end
return reply";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::record::{RECORD_DB, RECORD_KEY, TARGET_KEY, TOPOLOGY_KEY};

    #[test]
    fn scripts_name_the_keys_and_the_database_of_the_record() {
        let select = format!("'SELECT', {RECORD_DB})");
        for script in [READ_SCRIPT, FLUSHALL_SCRIPT] {
            assert!(script.contains(&select) && script.contains(&format!("'{RECORD_KEY}'")));
        }
        for key in [TOPOLOGY_KEY, TARGET_KEY] {
            assert!(FLUSHALL_SCRIPT.contains(&format!("'{key}'")));
        }
    }
}
