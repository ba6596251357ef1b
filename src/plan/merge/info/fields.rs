//! How one field of INFO is merged.

/// What becomes of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// One value when all are alike; by node when they differ.
    Alike,
    /// `calls=..,usec=..`: added, and the mean computed anew.
    Calls,
    /// `keys=..,expires=..,avg_ttl=..`: added, and the mean weighted.
    Keyspace,
    /// A field that stands there several times: every value once.
    Lines,
    Number(Combine),
    /// `slave0`, `slave1`, ...: numbered anew.
    Replicas,
    /// `a=1,b=2`, each number by itself.
    Row(Combine),
}

/// How numbers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combine {
    Max,
    Min,
    Sum,
}

/// What is the case anywhere, how long the longest took, what patterns and functions every node has.
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

const LARGEST_ENDINGS: [&str; 7] = [
    "_age",
    "_eta_seconds",
    "_in_progress",
    "_perc",
    "_ratio",
    "_scheduled",
    "_time_sec",
];

/// Since when something holds for every node.
const SMALLEST: [&str; 4] = [
    "loading_start_time",
    "rdb_last_save_time",
    "uptime_in_days",
    "uptime_in_seconds",
];

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

/// How the field called `name` is merged.
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

/// Whether `name` is `beginning` and a number.
pub(super) fn is_numbered(name: &str, beginning: &str) -> bool {
    name.strip_prefix(beginning).is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The numbers as one, in the form they have; `None` when one of them is no number.
pub(super) fn combine<'v>(values: impl Iterator<Item = &'v str>, how: Combine) -> Option<String> {
    let values: Vec<&str> = values.collect();
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
        .max()
        .unwrap_or(0);
    Some(format!("{number:.decimals$}{percent}"))
}
