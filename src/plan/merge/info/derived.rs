//! Fields of INFO that follow from other fields: `used_memory_human`, `mem_fragmentation_ratio`.
//!
//! Neither a sum nor the largest of the nodes' values would be right: two nodes with 1.00M each have 2.00M,
//! and a ratio of sums is not a sum of ratios. They are computed from the merged fields, in the server's
//! format.

/// A field that is the ratio of two others.
struct Share {
    /// The field to be computed.
    name: &'static str,
    /// Numerator, in bytes.
    part: &'static str,
    /// Denominator, in bytes.
    whole: &'static str,
    /// Subtracted from the denominator: the dataset is a share of the memory without that of an empty server.
    without: Option<&'static str>,
    /// How it is printed.
    form: Form,
}

/// Format of a ratio.
enum Form {
    /// `66.67%`.
    Percent,
    /// `1.50`.
    Ratio,
}

/// The ratios of INFO, by the names and formulas of the server.
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

/// A ratio printed as `1.50`.
const fn ratio(name: &'static str, part: &'static str, whole: &'static str) -> Share {
    Share {
        name,
        part,
        whole,
        without: None,
        form: Form::Ratio,
    }
}

/// A ratio printed as `66.67%`.
const fn percent(name: &'static str, part: &'static str, whole: &'static str) -> Share {
    Share {
        form: Form::Percent,
        ..ratio(name, part, whole)
    }
}

/// Computes these fields anew in the merged lines of one section. A field whose sources are not in the
/// section keeps its merged value.
pub(super) fn compute(lines: &mut [(String, String)]) {
    for at in 0..lines.len() {
        let name = lines[at].0.as_str();
        let number = |wanted: &str| -> Option<u64> {
            let (_, value) = lines.iter().find(|(field, _)| field == wanted)?;
            value.parse().ok()
        };
        // `used_memory_human` follows from `used_memory`: the names agree for all sizes, so no list of them
        // is needed.
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
    /// Returns the printed ratio; `None` if a source is missing or the denominator is 0.
    fn value(&self, number: impl Fn(&str) -> Option<u64>) -> Option<String> {
        let without = self.without.map_or(Some(0), &number)?;
        let whole = number(self.whole)?.saturating_sub(without);
        // The merged value stays: a server that has just started prints a ratio of its own choice.
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

/// Returns a size in bytes as a server prints it: `512B`, `1.50M`.
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
    // Beyond petabytes a server prints bytes again.
    format!("{bytes}B")
}
