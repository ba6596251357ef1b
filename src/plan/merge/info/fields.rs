//! The rule by which each field of INFO is merged.
//!
//! The lists name the fields of Redis 6 to 8 and Valkey. A field on none of them is [`Rule::Alike`]: never
//! added by mistake.

/// How the values of a field become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The common value, or each by node: `a=7.0.15,b=8.0.0`.
    Alike,
    /// `cmdstat_*`: `calls=..,usec=..` are added, the mean is computed anew.
    Calls,
    /// `db0`: `keys=..,expires=..` are added, the mean `avg_ttl` is weighted.
    Keyspace,
    /// A field that a node may list several times (`module`): every value once.
    Lines,
    /// A single number.
    Number(Combine),
    /// `slave0`, `slave1`, ...: numbered anew, since each node begins with 0.
    Replicas,
    /// `a=1,b=2`: each number by itself.
    Row(Combine),
}

/// How numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combine {
    /// The largest: flags that hold if any node has them, and the longest durations.
    Max,
    /// The smallest: times since when something holds for every node.
    Min,
    /// The sum: counters, sizes, rates.
    Sum,
}

/// Fields with the largest value: flags (`loading` is 1 if any node is loading), the longest durations, and
/// what every node has alike (patterns, functions, scripts), where a sum would count it once per node.
const LARGEST: [&str; 20] = [
    "active_defrag_running",
    "async_loading",
    "client_recent_max_input_buffer",
    "client_recent_max_output_buffer",
    "current_active_defrag_time",
    "current_eviction_exceeded_time",
    "instantaneous_eventloop_duration_usec",
    "io_threads_active",
    "latest_fork_usec",
    "loading",
    "lru_clock",
    "master_last_io_seconds_ago",
    "master_link_down_since_seconds",
    "number_of_cached_scripts",
    "number_of_functions",
    "number_of_libraries",
    "pubsub_patterns",
    "repl_backlog_active",
    "server_time_usec",
    "used_memory_peak_time",
];

/// Endings of fields with the largest value.
const LARGEST_ENDINGS: [&str; 7] = [
    "_age",
    "_eta_seconds",
    "_in_progress",
    "_perc",
    "_ratio",
    "_scheduled",
    "_time_sec",
];

/// Fields with the smallest value: the time since when something holds for every node.
const SMALLEST: [&str; 4] = [
    "loading_start_time",
    "rdb_last_save_time",
    "uptime_in_days",
    "uptime_in_seconds",
];

/// Fields whose values are added.
const ADDED: [&str; 46] = [
    "aof_base_size",
    "aof_buffer_length",
    "aof_current_size",
    "aof_delayed_fsync",
    "aof_last_cow_size",
    "aof_pending_bio_fsync",
    "aof_pending_rewrite",
    "aof_rewrites",
    "aof_rewrites_consecutive_failures",
    "blocked_clients",
    "clients_in_timeout_table",
    "cluster_connections",
    "connected_clients",
    "connected_slaves",
    "current_cow_peak",
    "current_cow_size",
    "dump_payload_sanitizations",
    "expire_cycle_cpu_milliseconds",
    "lazyfree_pending_objects",
    "lazyfreed_objects",
    "loading_loaded_bytes",
    "loading_rdb_used_mem",
    "loading_total_bytes",
    "maxclients",
    "maxmemory",
    "mem_allocator_slack",
    "migrate_cached_sockets",
    "module_fork_last_cow_size",
    "pubsub_channels",
    "pubsub_clients",
    "pubsubshard_channels",
    "rdb_changes_since_last_save",
    "rdb_last_cow_size",
    "rdb_saves",
    "rejected_connections",
    "repl_backlog_histlen",
    "replicas_waiting_psync",
    "rss_overhead_bytes",
    "slave_expires_tracked_keys",
    "sync_full",
    "sync_partial_err",
    "sync_partial_ok",
    "tracking_clients",
    "unexpected_error_replies",
    "watching_clients",
    "evicted_scripts",
];

/// Beginnings of fields whose values are added.
const ADDED_BEGINNINGS: [&str; 19] = [
    "acl_access_denied_",
    "active_defrag_",
    "allocator_",
    "client_output_buffer_limit_",
    "client_query_buffer_limit_",
    "current_save_keys_",
    "eventloop_",
    "evicted_",
    "expired_",
    "instantaneous_",
    "io_threaded_",
    "keyspace_",
    "mem_",
    "rdb_last_load_keys_",
    "reply_buffer_",
    "total_",
    "tracking_total_",
    "used_cpu_",
    "used_memory",
];

/// Returns the rule of the field called `name`.
pub(super) fn rule(name: &str) -> Rule {
    let begins = |beginning: &&str| name.starts_with(beginning);
    let ends = |ending: &&str| name.ends_with(ending);
    if name == "module" {
        Rule::Lines
    } else if is_numbered(name, "slave") {
        Rule::Replicas
    } else if is_numbered(name, "db") {
        Rule::Keyspace
    } else if name.starts_with("cmdstat_") {
        Rule::Calls
    } else if name.starts_with("errorstat_")
        || name.contains("_distrib_")
        || is_numbered(name, "io_thread_")
    {
        Rule::Row(Combine::Sum)
    } else if name.starts_with("latency_percentiles_usec_") {
        Rule::Row(Combine::Max)
    // Before the sums, whose beginnings are wider: `mem_fragmentation_ratio` ends in `_ratio`, and begins
    // with `mem_`.
    } else if LARGEST.contains(&name) || LARGEST_ENDINGS.iter().any(ends) {
        Rule::Number(Combine::Max)
    } else if SMALLEST.contains(&name) {
        Rule::Number(Combine::Min)
    } else if ADDED.contains(&name) || ADDED_BEGINNINGS.iter().any(begins) {
        Rule::Number(Combine::Sum)
    } else {
        Rule::Alike
    }
}

/// True if `name` is `beginning` followed by a decimal number: `slave0`, but not `slave_priority`.
pub(super) fn is_numbered(name: &str, beginning: &str) -> bool {
    // Digits only: `slave_read_only` is another field.
    name.strip_prefix(beginning).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Combines numbers in the form that they have: integers, decimals with as many places as the longest has,
/// percentages. `None` if one of them is not a number.
pub(super) fn combine<'v>(values: impl Iterator<Item = &'v str>, how: Combine) -> Option<String> {
    let values: Vec<&str> = values.collect();
    // Wider than any counter, so that sums of `u64` neither overflow nor lose digits as doubles.
    let whole: Option<Vec<i128>> = values.iter().map(|value| value.parse().ok()).collect();
    if let Some(numbers) = whole {
        let numbers = numbers.into_iter();
        return match how {
            Combine::Max => numbers.max(),
            Combine::Min => numbers.min(),
            Combine::Sum => Some(numbers.sum()),
        }
        .map(|number| number.to_string());
    }
    // The form of the numbers is kept: a program that parses one server's INFO parses this one.
    let percent = if values.iter().all(|value| value.ends_with('%')) {
        "%"
    } else {
        ""
    };
    let numbers: Option<Vec<f64>> = values
        .iter()
        .map(|value| value.strip_suffix(percent)?.parse().ok())
        .collect();
    let numbers = numbers?.into_iter();
    let number = match how {
        Combine::Max => numbers.fold(f64::NEG_INFINITY, f64::max),
        Combine::Min => numbers.fold(f64::INFINITY, f64::min),
        Combine::Sum => numbers.sum(),
    };
    let decimals = values
        .iter()
        .filter_map(|value| value.strip_suffix(percent)?.split_once('.'))
        .map(|(_, decimals)| decimals.len())
        // The most precise value decides, so that no digit is cut off.
        .max()
        .unwrap_or(0);
    Some(format!("{number:.decimals$}{percent}"))
}
