//! Fields of INFO that follow from other fields, which are sums by now.

/// A field that is one size in relation to another.
struct Share {
    name: &'static str,
    part: &'static str,
    whole: &'static str,
    /// What the whole has not to do with.
    without: Option<&'static str>,
    form: Form,
}

enum Form {
    Percent,
    Ratio,
}

const SHARES: [Share; 7] = [
    ratio(
        "allocator_frag_ratio",
        "allocator_active",
        "allocator_allocated",
    ),
    ratio(
        "allocator_rss_ratio",
        "allocator_resident",
        "allocator_active",
    ),
    percent(
        "loading_loaded_perc",
        "loading_loaded_bytes",
        "loading_total_bytes",
    ),
    ratio("mem_fragmentation_ratio", "used_memory_rss", "used_memory"),
    ratio(
        "rss_overhead_ratio",
        "used_memory_rss",
        "allocator_resident",
    ),
    Share {
        without: Some("used_memory_startup"),
        ..percent(
            "used_memory_dataset_perc",
            "used_memory_dataset",
            "used_memory",
        )
    },
    percent("used_memory_peak_perc", "used_memory", "used_memory_peak"),
];

const fn ratio(name: &'static str, part: &'static str, whole: &'static str) -> Share {
    Share {
        name,
        part,
        whole,
        without: None,
        form: Form::Ratio,
    }
}

const fn percent(name: &'static str, part: &'static str, whole: &'static str) -> Share {
    Share {
        form: Form::Percent,
        ..ratio(name, part, whole)
    }
}

/// Computes them anew in the lines of one section.
pub(super) fn compute(lines: &mut [(String, String)]) {
    for at in 0..lines.len() {
        let name = lines[at].0.as_str();
        let number = |wanted: &str| -> Option<u64> {
            let (_, value) = lines.iter().find(|(field, _)| field == wanted)?;
            value.parse().ok()
        };
        let value = match name.strip_suffix("_human") {
            Some(size) => number(size).map(human),
            None => SHARES
                .iter()
                .find(|share| share.name == name)
                .and_then(|share| share.value(number)),
        };
        if let Some(value) = value {
            lines[at].1 = value;
        }
    }
}

impl Share {
    fn value(&self, number: impl Fn(&str) -> Option<u64>) -> Option<String> {
        let without = self.without.map_or(Some(0), &number)?;
        let whole = number(self.whole)?.saturating_sub(without);
        if whole == 0 {
            return None;
        }
        let share = number(self.part)? as f64 / whole as f64;
        Some(match self.form {
            Form::Percent => format!("{:.2}%", share * 100.0),
            Form::Ratio => format!("{share:.2}"),
        })
    }
}

/// A size as a server writes it: `1.50M`.
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut size = bytes as f64 / 1024.0;
    for unit in units {
        if size < 1024.0 {
            return format!("{size:.2}{unit}");
        }
        size /= 1024.0;
    }
    format!("{bytes}B")
}
