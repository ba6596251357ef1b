//! What the README and the changelog say is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use redis_sharding::hash::{HashTag, KeyHash};
use redis_sharding::partition::{
    HashMod, NumericTable, Partitioner, PlacementError, Range, Rendezvous, Ring, RingSpec, SlotMap,
    WEIGHTS_MAX, catalogue,
};
use redis_sharding::proxy::{
    DEFAULT_MEMORY_LIMIT, DEFAULT_SHUTDOWN_TIMEOUT, OutputLimit, REQUEST_BYTES_MAX, THREADS_MAX,
};
use redis_sharding::{
    ERROR_KEYS_MAX, EVENT_BYTES_MAX, EVENTS_MAX, KEY_TEXT_MAX, NODES_MAX, NodeSpec, RetryPolicy,
    SCRIPT_BYTES_MAX, SCRIPTS_MAX, TRANSACTION_ATTEMPTS_MAX, Topology, builder,
};

const README: &str = include_str!("../README.md");
const LIMITS: &str = include_str!("../docs/limits.md");
const CHANGELOG: &str = include_str!("../CHANGELOG.md");
const MANIFEST: &str = include_str!("../Cargo.toml");

#[test]
fn readme_lists_every_example() {
    let files = fs::read_dir(root().join("examples")).unwrap();
    let examples: BTreeSet<String> = files
        .map(|file| file.unwrap().path())
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").exists()
        })
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(first_column("| example |"), examples);
}

#[test]
fn readme_lists_every_feature() {
    let (_, features) = MANIFEST.split_once("[features]\n").unwrap();
    let (features, _) = features.split_once("\n[").unwrap();
    let lines = features.lines().filter_map(|line| line.split_once(" = "));
    let (default, names): (Vec<_>, Vec<_>) = lines.partition(|(name, _)| *name == "default");
    let names: BTreeSet<String> = names.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(first_column("| feature |"), names);
    for row in rows("| feature |") {
        let name = row[0].trim_matches('`');
        let expected = default[0].1.contains(&format!("\"{name}\""));
        assert_eq!(row[1] == "yes", expected, "{name}");
    }
}

#[test]
fn stated_limits_are_the_constants_of_the_code() {
    let expected = [
        ("`NODES_MAX`", format!("at most {NODES_MAX}")),
        ("`partition::WEIGHTS_MAX`", format!("at most {WEIGHTS_MAX}")),
        (
            "`builder::TOPOLOGY_FILE_BYTES_MAX`",
            format!("{} MiB", builder::TOPOLOGY_FILE_BYTES_MAX >> 20),
        ),
        (
            "`Builder::connect_timeout`",
            seconds(builder::DEFAULT_CONNECT_TIMEOUT),
        ),
        (
            "`Builder::response_timeout`",
            seconds(builder::DEFAULT_RESPONSE_TIMEOUT),
        ),
        ("`Builder::blocking_timeout`", "none".into()),
        ("`Builder::retry`", attempts()),
        ("`RetryPolicy::with_backoff`", backoff()),
        (
            "`builder::TEMPORARY_ERRORS_WAIT_MAX`",
            seconds(builder::TEMPORARY_ERRORS_WAIT_MAX),
        ),
        (
            "`Builder::pool_size`",
            builder::DEFAULT_POOL_SIZE.to_string(),
        ),
        (
            "`Builder::connections_per_node`",
            builder::DEFAULT_CONNECTIONS_PER_NODE.to_string(),
        ),
        (
            "`Builder::blocking_pool_size`",
            builder::DEFAULT_BLOCKING_POOL_SIZE.to_string(),
        ),
        (
            "`Builder::idle_check`",
            seconds(builder::DEFAULT_IDLE_CHECK),
        ),
        (
            "`Builder::tcp_keepalive`",
            seconds(builder::DEFAULT_TCP_KEEPALIVE),
        ),
        ("`EVENTS_MAX`", EVENTS_MAX.to_string()),
        (
            "`Subscriber::with_event_bytes_max`",
            format!("{} MiB", EVENT_BYTES_MAX >> 20),
        ),
        (
            "`TRANSACTION_ATTEMPTS_MAX`",
            TRANSACTION_ATTEMPTS_MAX.to_string(),
        ),
        (
            "`builder::CLIENT_NAME_BYTES_MAX`",
            builder::CLIENT_NAME_BYTES_MAX.to_string(),
        ),
        ("`SCRIPTS_MAX`", format!("{SCRIPTS_MAX} each")),
        (
            "`SCRIPT_BYTES_MAX`",
            format!("{} MiB each", SCRIPT_BYTES_MAX >> 20),
        ),
        (
            "`Builder::max_clients`",
            builder::DEFAULT_MAX_CLIENTS.to_string(),
        ),
        (
            "`proxy::REQUEST_BYTES_MAX`",
            format!("{} GiB", REQUEST_BYTES_MAX >> 30),
        ),
        (
            "`proxy::DEFAULT_MEMORY_LIMIT`",
            format!("{} GiB", DEFAULT_MEMORY_LIMIT >> 30),
        ),
        ("`proxy::OutputLimit::PUB_SUB`", output_limit()),
        (
            "`Proxy::with_shutdown_timeout`",
            seconds(DEFAULT_SHUTDOWN_TIMEOUT),
        ),
        ("`proxy::THREADS_MAX`", format!("at most {THREADS_MAX}")),
        ("`KEY_TEXT_MAX`", KEY_TEXT_MAX.to_string()),
        ("`ERROR_KEYS_MAX`", ERROR_KEYS_MAX.to_string()),
        (
            "`builder::SENTINELS_MAX`",
            builder::SENTINELS_MAX.to_string(),
        ),
        ("`RingSpec::with_points_per_weight`", ring_points()),
    ];
    let stated: Vec<(&str, String)> = rows_of(LIMITS, "| what | value |")
        .into_iter()
        .map(|row| (row[2], row[1].to_owned()))
        .collect();
    assert_eq!(stated, expected);
}

/// How often a request is sent by default.
fn attempts() -> String {
    assert_eq!(RetryPolicy::default(), RetryPolicy::READS);
    "2, if its connection broke".into()
}

/// The pauses of a policy that waits.
fn backoff() -> String {
    let (min, max) = (Duration::from_millis(50), Duration::from_secs(1));
    let policy = RetryPolicy::attempts(2);
    assert_eq!(policy, policy.with_backoff(min, max));
    format!("{} ms, doubled up to {}", min.as_millis(), seconds(max))
}

fn output_limit() -> String {
    let limit = OutputLimit::PUB_SUB;
    let (hard, soft) = (limit.hard >> 20, limit.soft >> 20);
    format!("{hard} MiB, or {soft} MiB for {}", seconds(limit.soft_for))
}

#[test]
fn readme_percentages_of_moved_keys_are_true() {
    let (four, five) = (nodes(4), nodes(5));
    let even = SlotMap::even().over(&four).unwrap();
    let grown = even.rebalance(&four, &five).unwrap().map;
    let hash_mod = HashMod::new(KeyHash::Crc32);
    let cases: [(&str, &str, &dyn Partitioner, &dyn Partitioner); 5] = [
        (
            "`Rendezvous`",
            "20 % of",
            &Rendezvous::new(),
            &Rendezvous::new(),
        ),
        ("`Ring`", "21 % of", &Ring::new(), &Ring::new()),
        ("`SlotMap`", "20 % if rebalanced", &even, &grown),
        (
            "`SlotMap`",
            "50 % for the even map",
            &SlotMap::even(),
            &SlotMap::even(),
        ),
        ("`HashMod`", "80 % of", &hash_mod, &hash_mod),
    ];
    for (name, claim, before, after) in cases {
        let row = rows("| partitioner |")
            .into_iter()
            .find(|row| row[0].starts_with(name))
            .unwrap();
        assert!(row[2].contains(claim), "{name}");
        let (before, after) = (before.place(&four).unwrap(), after.place(&five).unwrap());
        let moved = (0..100_000)
            .map(|user| format!("user:{user}"))
            .filter(|key| before.locate(key.as_bytes()) != after.locate(key.as_bytes()))
            .count();
        assert_eq!(
            claim.split_once(' ').unwrap().0,
            format!("{:.0}", moved as f64 / 1e3)
        );
    }
}

#[test]
fn changelog_names_every_placement() {
    let users = NumericTable::new("user:").range(.., "node-1");
    let range = Range::builder().table(users).build().unwrap();
    let partitioners: [&dyn Partitioner; 5] = [
        &Rendezvous::new(),
        &Ring::new(),
        &SlotMap::even(),
        &HashMod::new(KeyHash::Crc32),
        &range,
    ];
    let (_, placement) = CHANGELOG.split_once("### Placement").unwrap();
    for partitioner in partitioners {
        assert!(placement.contains(&format!("- `{}`:", partitioner.name())));
        let in_readme = rows("| partitioner |")
            .iter()
            .any(|row| row[4] == format!("`{}`", partitioner.name()));
        assert!(in_readme, "{}", partitioner.name());
    }
    for entry in catalogue() {
        let name = format!("- `{}`:", entry.name);
        assert!(placement.contains(&name), "{name}");
    }
    let tags = [
        HashTag::Braces,
        HashTag::None,
        HashTag::AnyTwo(b'{', b'}'),
        HashTag::BracesEvenEmpty,
        HashTag::JedisPattern,
        HashTag::LineStart(b'{', b'}'),
        HashTag::PhpRedis,
        HashTag::LastBraces,
    ];
    let hashes = KeyHash::ALL.iter().map(|hash| hash.name().into());
    for name in hashes.chain(tags.iter().map(HashTag::name)) {
        assert!(placement.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn balance_svg_shows_every_placement() {
    let picture = fs::read_to_string(root().join("docs/balance.svg")).unwrap();
    let rows: BTreeSet<&str> = picture.lines().map(str::trim).collect();
    for entry in catalogue() {
        // A table of ranges is as even as it is made.
        assert_eq!(
            rows.contains(entry.name),
            entry.name != "range/1",
            "{}",
            entry.name
        );
    }
}

#[test]
fn topologies_in_the_docs_are_parsed() {
    let pages = [
        include_str!("../docs/placements.md"),
        include_str!("../docs/from-envoy.md"),
        include_str!("../docs/from-twemproxy.md"),
    ];
    let texts = pages
        .iter()
        .flat_map(|page| page.split("```text\n").skip(1));
    let texts: Vec<&str> = texts
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert_eq!(texts.len(), 3);
    for text in texts {
        let topology = Topology::parse(text).unwrap();
        assert!(topology.nodes().iter().all(NodeSpec::is_named));
    }
}

#[test]
fn links_of_readme_changelog_and_docs_have_targets() {
    let mut pages = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|file| file.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    assert!(pages.len() > 10);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text) {
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let other = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let name = page.display();
            assert!(other.exists(), "{name}: {target}");
            if !heading.is_empty() {
                let other = fs::read_to_string(other).unwrap();
                let mut anchors = other.lines().filter_map(anchor);
                assert!(anchors.any(|anchor| anchor == heading), "{name}: {target}");
            }
        }
    }
}

#[test]
fn labels_of_links_in_the_docs_are_defined_for_docs_rs_too() {
    let guide = include_str!("../src/guide.rs");
    let docs = fs::read_dir(root().join("docs")).unwrap();
    for path in docs.map(|file| file.unwrap().path()) {
        if path.extension().is_none_or(|ending| ending != "md") {
            continue;
        }
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(guide.contains(&format!("{file}\"")), "no page for {file}");
        let text = fs::read_to_string(&path).unwrap();
        for label in text.lines().filter_map(definition).map(|(label, _)| label) {
            assert!(guide.contains(&format!("[{label}]: ")), "{file}: {label}");
        }
    }
}

/// The files and headings that a page links to: `[text](target)` and `[label]: target`.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    let inline = text
        .split("](")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once(')')?.0));
    let defined = text
        .lines()
        .filter_map(definition)
        .map(|(_, target)| target);
    inline
        .chain(defined)
        .filter(|target| !target.starts_with("https://"))
}

/// The label and the target of a line that defines a link.
fn definition(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix('[')?.split_once("]: ")
}

/// How a heading is linked to.
fn anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-'));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

/// The rows of the README's table with this head, cell by cell.
fn rows(head: &str) -> Vec<Vec<&'static str>> {
    rows_of(README, head)
}

/// The rows of a page's table with this head, cell by cell.
fn rows_of<'p>(page: &'p str, head: &str) -> Vec<Vec<&'p str>> {
    let mut lines = page.lines().skip_while(|line| !line.starts_with(head));
    assert!(lines.next().is_some(), "no table {head}");
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

fn first_column(head: &str) -> BTreeSet<String> {
    let name = |row: Vec<&str>| row[0].trim_matches('`').to_owned();
    rows(head).into_iter().map(name).collect()
}

fn nodes(count: usize) -> Vec<NodeSpec> {
    (1..=count)
        .map(|number| NodeSpec::new(format!("node-{number}"), format!("10.0.0.{number}:6379")))
        .collect()
}

/// The points of a ring per unit of weight, and the most of them.
fn ring_points() -> String {
    let options = Ring::new().options();
    let (_, points) = options
        .iter()
        .find(|(option, _)| option == "points-per-weight")
        .unwrap();
    let none = Ring::with_spec(RingSpec::new().with_points_per_weight(0));
    match none.place(&nodes(1)) {
        Err(PlacementError::OptionOutOfBounds { max, .. }) => format!("{points}, at most {max}"),
        other => panic!("{other:?}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every path in backticks on the page on architecture, and every room of the sources.
#[test]
fn architecture_page_names_existing_files_and_every_folder_of_src() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let named: BTreeSet<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.starts_with("src/") || code.starts_with("tests/"))
        .collect();
    assert!(named.len() > 40, "the page names {} paths", named.len());
    for path in &named {
        match path.split_once('*') {
            None => assert!(root.join(path).exists(), "{path} does not exist"),
            Some((start, end)) => {
                let (folder, start) = start.rsplit_once('/').unwrap();
                let mut names = fs::read_dir(root.join(folder))
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap());
                assert!(
                    names.any(|name| name.starts_with(start) && name.ends_with(end)),
                    "nothing is called {path}"
                );
            }
        }
    }
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            assert!(
                page.contains(&format!("src/{name}")),
                "the page does not mention the room src/{name}"
            );
        }
    }
}
