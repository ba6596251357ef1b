//! INFO of all nodes as one text.
//!
//! * `fields`: the rule of each field: its values are added, or the largest or smallest is taken. `rows`: the
//!   same for values of the form `a=1,b=2`.
//! * `derived`: fields that follow from others, computed from the merged ones: sizes for people, percentages,
//!   ratios.
//!
//! Equal values appear once. Values that differ and cannot be added appear by node, `name=value,name=value`,
//! so that no node's value passes for that of all. The sections of the servers are followed by one section
//! per node with its essential figures.
//!
//! ```text
//!  node a                    node b                    merged
//!  # Server                  # Server                  # Server
//!  redis_version:7.0.15      redis_version:8.0.0       redis_version:a=7.0.15,b=8.0.0
//!  # Memory                  # Memory                  # Memory
//!  used_memory:1048576       used_memory:1048576       used_memory:2097152
//!  used_memory_human:1.00M   used_memory_human:1.00M   used_memory_human:2.00M
//!                                                      # Node a
//!                                                      node_a:redis_version=7.0.15,used_memory=1048576
//!                                                      # Node b
//!                                                      node_b:redis_version=8.0.0,used_memory=1048576
//! ```
//!
//! A field that this version does not know is treated as one that cannot be added: never wrong, though longer
//! than needed.

mod derived;
mod fields;
mod rows;

use std::collections::HashMap;

use redis::Value;

use crate::error::Error;
use crate::plan::merge::Answer;
use crate::plan::merge::texts::{Text, alike_or_by_node, word};
use fields::Rule;

/// Fields repeated in the section of each node, if INFO was asked for a section with them.
const ESSENTIALS: [&str; 8] = [
    "redis_version",
    "valkey_version",
    "role",
    "uptime_in_seconds",
    "connected_clients",
    "used_memory",
    "maxmemory",
    "instantaneous_ops_per_sec",
];

/// One node's INFO.
struct Report<'n> {
    node: &'n str,
    sections: Vec<Section>,
}

/// A heading with the lines below it.
struct Section {
    /// Without `# `; empty for lines before the first heading.
    title: String,
    /// Field and value, in the server's order.
    lines: Vec<(String, String)>,
}

/// A field with the values of the nodes that have it.
struct Field<'r> {
    name: &'r str,
    /// Node and value, in node order. A field that a node lists several times (`module`) is there as often.
    values: Vec<(&'r str, &'r str)>,
}

/// Merges INFO into one text, of the first node's kind of string. The nodes in `missing` cannot be reached,
/// and are listed in sections of their own.
pub(super) fn info(answers: Vec<Answer<'_>>, missing: &[&str]) -> Result<Value, Error> {
    let mut kind = None;
    let mut reports = Vec::new();
    for answer in answers {
        let node = answer.node;
        let text = Text::read(answer)?;
        let sections = parse(&text.to_str());
        reports.push(Report { node, sections });
        // The text is kept for its kind only: RESP3 has INFO as a verbatim string.
        kind.get_or_insert(text);
    }
    let mut sections: Vec<Section> = titles(&reports)
        .into_iter()
        .map(|title| merged(title, &reports))
        .collect();
    sections.extend(reports.iter().filter_map(essentials));
    // After all others, in node order, so that a program which reads the known sections is not disturbed.
    sections.extend(missing.iter().map(|node| unreachable(node)));
    sections.extend(unreachable_count(missing));
    let text = print(&sections);
    Ok(kind.map_or(Value::Nil, |kind| kind.with(text.into_bytes())))
}

/// Splits the text of a node. Lines that are neither a heading nor a field are dropped.
fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            sections.push(Section {
                title: title.trim().to_owned(),
                lines: Vec::new(),
            });
        } else if let Some((field, value)) = line.split_once(':') {
            // Lines before any heading are kept, in a section without a title.
            if sections.is_empty() {
                sections.push(Section {
                    title: String::new(),
                    lines: Vec::new(),
                });
            }
            if let Some(section) = sections.last_mut() {
                section.lines.push((field.to_owned(), value.to_owned()));
            }
        }
    }
    sections
}

/// Returns the headings of all nodes, in the order of their first occurrence.
fn titles<'r>(reports: &'r [Report<'_>]) -> Vec<&'r str> {
    let mut titles = Vec::new();
    for section in reports.iter().flat_map(|report| &report.sections) {
        if !titles.contains(&section.title.as_str()) {
            titles.push(&section.title);
        }
    }
    titles
}

/// Merges the sections under one heading, the fields in the order of their first occurrence.
fn merged(title: &str, reports: &[Report<'_>]) -> Section {
    let mut fields: Vec<Field<'_>> = Vec::new();
    // An index by name: INFO EVERYTHING has hundreds of fields, and a search for each would take quadratic
    // time.
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut lines = Vec::new();
    for report in reports {
        let sections = report.sections.iter();
        for (name, value) in sections
            .filter(|section| section.title == title)
            .flat_map(|section| &section.lines)
        {
            let place = *places.entry(name).or_insert(fields.len());
            if place == fields.len() {
                let values = Vec::new();
                fields.push(Field { name, values });
            }
            fields[place].values.push((report.node, value));
        }
    }
    // Each node counts its replicas from `slave0`, so they are numbered anew across nodes.
    let mut replicas = 0;
    for field in &fields {
        match fields::rule(field.name) {
            Rule::Lines => lines.extend(field.distinct()),
            Rule::Replicas => {
                for (_, value) in &field.values {
                    lines.push((format!("slave{replicas}"), (*value).to_owned()));
                    replicas += 1;
                }
            }
            // Fields keep their order, which programs that print INFO rely on.
            rule => lines.push((field.name.to_owned(), field.value(rule))),
        }
    }
    // Last: it reads the merged values of other fields.
    derived::compute(&mut lines);
    Section {
        title: title.to_owned(),
        lines,
    }
}

impl Field<'_> {
    /// Returns the merged value. Where the rule does not fit the values, such as a sum of texts, they appear
    /// by node.
    fn value(&self, rule: Rule) -> String {
        let values = || self.values.iter().map(|(_, value)| *value);
        let merged = match rule {
            Rule::Number(combine) => fields::combine(values(), combine),
            Rule::Row(combine) => rows::combine(values(), combine),
            Rule::Keyspace => rows::keyspace(values()),
            Rule::Calls => rows::calls(values()),
            Rule::Alike | Rule::Lines | Rule::Replicas => None,
        };
        merged.unwrap_or_else(|| alike_or_by_node(&self.values))
    }

    /// Returns the lines of a field that a node may list several times: each value once.
    fn distinct(&self) -> Vec<(String, String)> {
        let mut values: Vec<&str> = Vec::new();
        for (_, value) in &self.values {
            if !values.contains(value) {
                values.push(value);
            }
        }
        let line = |value: &str| (self.name.to_owned(), value.to_owned());
        values.into_iter().map(line).collect()
    }
}

/// Returns the section of one node, `node_NAME:redis_version=..,role=..`, as far as its fields were asked
/// for. The number of keys is added only beside other fields: a program that asks for the keyspace alone and
/// adds up its keys would count them twice.
fn essentials(report: &Report<'_>) -> Option<Section> {
    let lines = || report.sections.iter().flat_map(|section| &section.lines);
    let mut parts: Vec<String> = ESSENTIALS
        .iter()
        .filter_map(|name| {
            let (_, value) = lines().find(|(field, _)| field == name)?;
            Some(format!("{name}={value}"))
        })
        .collect();
    if parts.is_empty() {
        return None;
    }
    if report
        .sections
        .iter()
        .any(|section| section.title == "Keyspace")
    {
        let databases = lines().filter(|(field, _)| fields::is_numbered(field, "db"));
        let keys: u64 = databases
            .filter_map(|(_, row)| rows::number(row, "keys"))
            .sum();
        parts.push(format!("keys={keys}"));
    }
    let name = word(report.node);
    Some(Section {
        lines: vec![(format!("node_{name}"), parts.join(","))],
        title: title_of(report.node),
    })
}

/// Returns the section of a node that cannot be reached, whatever was asked for:
/// `node_NAME:status=unreachable`.
fn unreachable(node: &str) -> Section {
    Section {
        // One field per node with a name of its own: clients parse INFO into a map, in which equal names
        // would be lost.
        lines: vec![(format!("node_{}", word(node)), "status=unreachable".into())],
        title: title_of(node),
    }
}

/// Returns the section with the number of nodes that the figures above lack, if there are any.
fn unreachable_count(missing: &[&str]) -> Option<Section> {
    let line = || ("unreachable_nodes".into(), missing.len().to_string());
    (!missing.is_empty()).then(|| Section {
        lines: vec![line()],
        title: "Unreachable".into(),
    })
}

/// Heading of a node's section. Escaped: a line break in the name would begin a line of its own.
fn title_of(node: &str) -> String {
    format!("Node {}", node.escape_debug())
}

/// Writes the sections as a server does: lines end with CR LF, sections are separated by an empty line.
fn print(sections: &[Section]) -> String {
    let mut text = String::new();
    for (number, section) in sections.iter().enumerate() {
        if number > 0 {
            text.push_str("\r\n");
        }
        if !section.title.is_empty() {
            text.push_str(&format!("# {}\r\n", section.title));
        }
        for (field, value) in &section.lines {
            text.push_str(&format!("{field}:{value}\r\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use redis::{InfoDict, VerbatimFormat};

    use super::super::testing::{answers, text};
    use super::*;

    fn merged_text(reports: &[&str]) -> String {
        let reports = reports
            .iter()
            .map(|report| text(&report.replace('\n', "\r\n")));
        match info(answers(reports), &[]).unwrap() {
            Value::BulkString(text) => String::from_utf8(text).unwrap().replace("\r\n", "\n"),
            other => panic!("{other:?}"),
        }
    }

    fn line(reports: &[&str], field: &str) -> String {
        let text = merged_text(reports);
        let line = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name == field).then(|| value.to_owned())
        });
        line.unwrap_or_else(|| panic!("no {field} in {text}"))
    }

    #[test]
    fn info_adds_counters_and_recomputes_human_sizes() {
        let report = "# Memory\nused_memory:1048576\nused_memory_human:1.00M\nmaxmemory_human:0B\nmaxmemory:0\n";
        let text = merged_text(&[report, report]);
        assert!(text.starts_with(
            "# Memory\nused_memory:2097152\nused_memory_human:2.00M\nmaxmemory_human:0B\nmaxmemory:0\n\n"
        ));
    }

    #[test]
    fn info_lists_differing_texts_by_node() {
        let reports = ["redis_version:7.0.15\n", "redis_version:8.0.0\n"];
        assert_eq!(line(&reports, "redis_version"), "a=7.0.15,b=8.0.0");
        let reports = ["redis_version:7.0.15\n", "redis_version:7.0.15\n"];
        assert_eq!(line(&reports, "redis_version"), "7.0.15");
        assert_eq!(
            line(
                &["master_repl_offset:5\n", "master_repl_offset:7\n"],
                "master_repl_offset"
            ),
            "a=5,b=7"
        );
        assert_eq!(
            line(
                &[
                    "rdb_last_bgsave_status:ok\n",
                    "rdb_last_bgsave_status:err\n"
                ],
                "rdb_last_bgsave_status"
            ),
            "a=ok,b=err"
        );
    }

    #[test]
    fn info_flags_are_set_if_any_node_sets_them_and_uptime_is_the_shortest() {
        let reports = [
            "loading:0\nuptime_in_seconds:70\nrdb_bgsave_in_progress:1\nrdb_last_save_time:9\n",
            "loading:1\nuptime_in_seconds:5\nrdb_bgsave_in_progress:0\nrdb_last_save_time:8\n",
        ];
        let of = |field| line(&reports, field);
        assert_eq!(of("loading"), "1");
        assert_eq!(of("uptime_in_seconds"), "5");
        assert_eq!(of("rdb_bgsave_in_progress"), "1");
        assert_eq!(of("rdb_last_save_time"), "8");
    }

    #[test]
    fn info_ratios_are_recomputed_from_the_sums() {
        let reports = [
            "used_memory:100\nused_memory_rss:300\nmem_fragmentation_ratio:3.00\nused_memory_peak:100\nused_memory_peak_perc:100.00%\n",
            "used_memory:300\nused_memory_rss:300\nmem_fragmentation_ratio:1.00\nused_memory_peak:500\nused_memory_peak_perc:60.00%\n",
        ];
        assert_eq!(line(&reports, "mem_fragmentation_ratio"), "1.50");
        assert_eq!(line(&reports, "used_memory_peak_perc"), "66.67%");
        let alone = ["expired_stale_perc:0.50\n", "expired_stale_perc:0.25\n"];
        assert_eq!(line(&alone, "expired_stale_perc"), "0.50");
    }

    #[test]
    fn info_sums_keep_the_number_of_decimals() {
        let reports = ["used_cpu_sys:0.003176\n", "used_cpu_sys:1.000001\n"];
        assert_eq!(line(&reports, "used_cpu_sys"), "1.003177");
        let reports = [
            "instantaneous_input_kbps:0.04\n",
            "instantaneous_input_kbps:10.00\n",
        ];
        assert_eq!(line(&reports, "instantaneous_input_kbps"), "10.04");
    }

    #[test]
    fn info_keyspace_adds_keys_and_weights_avg_ttl() {
        let reports = [
            "# Keyspace\ndb0:keys=10,expires=1,avg_ttl=1000\n",
            "# Keyspace\ndb0:keys=20,expires=3,avg_ttl=2000\ndb1:keys=1,expires=0,avg_ttl=0\n",
            "# Keyspace\n",
        ];
        assert_eq!(line(&reports, "db0"), "keys=30,expires=4,avg_ttl=1750");
        assert_eq!(line(&reports, "db1"), "keys=1,expires=0,avg_ttl=0");
        let newer = "db0:keys=1,expires=0,avg_ttl=0,subexpiry=2\n";
        assert_eq!(
            line(&[newer, newer], "db0"),
            "keys=2,expires=0,avg_ttl=0,subexpiry=4"
        );
        let asked_for_keys_alone = merged_text(&reports);
        assert!(
            !asked_for_keys_alone.contains("node_"),
            "{asked_for_keys_alone}"
        );
    }

    #[test]
    fn info_commandstats_and_errorstats_are_added() {
        let reports = [
            "cmdstat_config|get:calls=1,usec=10,usec_per_call=10.00,rejected_calls=0,failed_calls=0\nerrorstat_ERR:count=1\n",
            "cmdstat_config|get:calls=3,usec=50,usec_per_call=16.67,rejected_calls=1,failed_calls=2\nerrorstat_ERR:count=4\n\
             errorstat_OOM:count=1\n",
        ];
        assert_eq!(
            line(&reports, "cmdstat_config|get"),
            "calls=4,usec=60,usec_per_call=15.00,rejected_calls=1,failed_calls=2"
        );
        assert_eq!(line(&reports, "errorstat_ERR"), "count=5");
        let sizes = "db0_distrib_lists_items:1=2,4=5\nio_thread_0:clients=1,reads=7\n";
        assert_eq!(line(&[sizes, sizes], "db0_distrib_lists_items"), "1=4,4=10");
        assert_eq!(line(&[sizes, sizes], "io_thread_0"), "clients=2,reads=14");
        assert_eq!(line(&reports, "errorstat_OOM"), "count=1");
        let reports = [
            "latency_percentiles_usec_get:p50=1.003,p99=9.023\n",
            "latency_percentiles_usec_get:p50=2.003,p99=3.007\n",
        ];
        assert_eq!(
            line(&reports, "latency_percentiles_usec_get"),
            "p50=2.003,p99=9.023"
        );
    }

    #[test]
    fn info_renumbers_replicas_and_lists_modules_once() {
        let reports = [
            "# Replication\nconnected_slaves:1\nslave0:ip=1,port=1\n# Modules\nmodule:name=x,ver=1\nmodule:name=y,ver=1\n",
            "# Replication\nconnected_slaves:1\nslave0:ip=2,port=2\n# Modules\nmodule:name=x,ver=1\n",
        ];
        let text = merged_text(&reports);
        assert!(
            text.contains("connected_slaves:2\nslave0:ip=1,port=1\nslave1:ip=2,port=2\n"),
            "{text}"
        );
        assert!(
            text.contains("# Modules\nmodule:name=x,ver=1\nmodule:name=y,ver=1\n"),
            "{text}"
        );
    }

    #[test]
    fn info_ends_with_a_section_per_node() {
        let report = |version: &str, keys: u32| {
            format!(
                "# Server\nredis_version:{version}\n\n# Clients\nconnected_clients:2\n\n# Replication\nrole:master\n\n\
                 # Keyspace\ndb0:keys={keys},expires=0,avg_ttl=0\n"
            )
        };
        let text = merged_text(&[&report("7.0.15", 3), &report("7.0.15", 4)]);
        assert!(
            text.ends_with(
                "# Node a\nnode_a:redis_version=7.0.15,role=master,connected_clients=2,keys=3\n\n\
                 # Node b\nnode_b:redis_version=7.0.15,role=master,connected_clients=2,keys=4\n"
            ),
            "{text}"
        );
        let info = InfoDict::new(&text);
        assert_eq!(info.get::<u32>("connected_clients"), Some(4));
        assert!(info.contains_key(&"node_b"));
    }

    #[test]
    fn info_lines_are_headings_or_fields() {
        let report = Value::VerbatimString {
            format: VerbatimFormat::Text,
            text: "# Server\r\nredis_version:7\r\nodd\r\nos:Linux: x\r\n\r\n# Modules\r\n".into(),
        };
        let odd_names = ["10.0.0.1:6379", "a b,c=d"];
        let answers = odd_names.map(|node| Answer {
            node,
            value: report.clone(),
        });
        let Value::VerbatimString { text, .. } = info(answers.into(), &[]).unwrap() else {
            panic!("another kind than the nodes'");
        };
        let fields: Vec<&str> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.split_once(':').expect("a field").0)
            .collect();
        assert_eq!(
            fields,
            ["redis_version", "os", "node_10.0.0.1_6379", "node_a_b_c_d"]
        );
    }

    #[test]
    fn info_names_the_nodes_that_cannot_be_reached() {
        let report = text("# Server\r\nredis_version:7\r\n");
        let merged = info(answers([report]), &["10.0.0.1:6379", "c"]).unwrap();
        let expected = "# Server\r\nredis_version:7\r\n\r\n# Node a\r\nnode_a:redis_version=7\r\n\r\n\
            # Node 10.0.0.1:6379\r\nnode_10.0.0.1_6379:status=unreachable\r\n\r\n\
            # Node c\r\nnode_c:status=unreachable\r\n\r\n# Unreachable\r\nunreachable_nodes:2\r\n";
        assert_eq!(merged, text(expected));
    }

    #[test]
    fn info_of_an_unknown_section_is_empty() {
        assert_eq!(merged_text(&["", ""]), "");
    }
}
