//! Fields of INFO whose value is a row of its own: `a=1,b=2`.

use super::fields::{self, Combine};

/// Names and values of one row.
type Row<'v> = Vec<(&'v str, &'v str)>;

/// Each number by itself.
pub(super) fn combine<'v>(rows: impl Iterator<Item = &'v str>, how: Combine) -> Option<String> {
    let rows = parse_all(rows)?;
    let cells = names(&rows).into_iter().map(|name| {
        Some(format!(
            "{name}={}",
            fields::combine(cells(&rows, name), how)?
        ))
    });
    Some(cells.collect::<Option<Vec<_>>>()?.join(","))
}

/// `cmdstat_*`: everything is added but the mean, which follows from the sums.
pub(super) fn calls<'v>(rows: impl Iterator<Item = &'v str>) -> Option<String> {
    let sums = combine(rows, Combine::Sum)?;
    let mean = |calls: f64, usec: f64| match calls > 0.0 {
        true => usec / calls,
        false => 0.0,
    };
    let (calls, usec) = (decimal(&sums, "calls")?, decimal(&sums, "usec")?);
    Some(replaced(
        &sums,
        "usec_per_call",
        &format!("{:.2}", mean(calls, usec)),
    ))
}

/// `db0`: everything is added but the mean time to live, which counts for as many keys as have one.
pub(super) fn keyspace<'v>(rows: impl Iterator<Item = &'v str>) -> Option<String> {
    let rows: Vec<&str> = rows.collect();
    let sums = combine(rows.iter().copied(), Combine::Sum)?;
    let weight = |row: &&str| number(row, "expires").unwrap_or(0);
    let total: u64 = rows.iter().map(weight).sum();
    let ttl: u128 = rows
        .iter()
        .map(|row| u128::from(number(row, "avg_ttl").unwrap_or(0)) * u128::from(weight(row)))
        .sum();
    let mean = ttl.checked_div(u128::from(total)).unwrap_or(0);
    Some(replaced(&sums, "avg_ttl", &mean.to_string()))
}

/// A number of a row.
pub(super) fn number(row: &str, name: &str) -> Option<u64> {
    cell(row, name)?.parse().ok()
}

fn decimal(row: &str, name: &str) -> Option<f64> {
    cell(row, name)?.parse().ok()
}

fn cell<'v>(row: &'v str, name: &str) -> Option<&'v str> {
    let (_, value) = parse(row)?.into_iter().find(|(known, _)| *known == name)?;
    Some(value)
}

/// The row with another value for `name`, if it has one.
fn replaced(row: &str, name: &str, value: &str) -> String {
    let cells = row.split(',').map(|cell| match cell.split_once('=') {
        Some((known, _)) if known == name => format!("{name}={value}"),
        _ => cell.to_owned(),
    });
    cells.collect::<Vec<_>>().join(",")
}

fn parse(row: &str) -> Option<Row<'_>> {
    row.split(',').map(|cell| cell.split_once('=')).collect()
}

fn parse_all<'v>(rows: impl Iterator<Item = &'v str>) -> Option<Vec<Row<'v>>> {
    rows.map(parse).collect()
}

fn names<'v>(rows: &[Row<'v>]) -> Vec<&'v str> {
    let mut names = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

fn cells<'v>(rows: &[Row<'v>], name: &str) -> impl Iterator<Item = &'v str> {
    rows.iter()
        .flatten()
        .filter(move |(known, _)| *known == name)
        .map(|(_, value)| *value)
}
