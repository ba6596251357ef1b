//! Fields of INFO whose value is a row of its own: `calls=3,usec=12`.
//!
//! A row is split into names and values, merged by name, and written back in the order of the first node's
//! names. Numbers of a row that another node lacks are kept: servers of different versions have different ones.

use super::fields::{self, Combine};

/// Names and values of one row, in its order.
type Row<'v> = Vec<(&'v str, &'v str)>;

/// Combines the numbers of equal names: `a=1,b=2` and `a=3` with a sum are `a=4,b=2`. `None` if a value is
/// not a row, or not of numbers.
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

/// Merges `cmdstat_*`: all numbers are added but `usec_per_call`, which is computed from the sums.
/// `calls=1,usec=10,usec_per_call=10.00` and `calls=3,usec=10,usec_per_call=3.33` are
/// `calls=4,usec=20,usec_per_call=5.00`.
pub(super) fn calls<'v>(rows: impl Iterator<Item = &'v str>) -> Option<String> {
    let sums = combine(rows, Combine::Sum)?;
    // No calls, no mean: 0.00 is what a server prints then.
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

/// Merges `db0`: all numbers are added but `avg_ttl` in milliseconds, the mean over keys that expire, which
/// is weighted with their number. `keys=2,expires=1,avg_ttl=10` and `keys=4,expires=3,avg_ttl=20` are
/// `keys=6,expires=4,avg_ttl=17`.
pub(super) fn keyspace<'v>(rows: impl Iterator<Item = &'v str>) -> Option<String> {
    let rows: Vec<&str> = rows.collect();
    let sums = combine(rows.iter().copied(), Combine::Sum)?;
    let weight = |row: &&str| number(row, "expires").unwrap_or(0);
    let total: u64 = rows.iter().map(weight).sum();
    // Milliseconds times keys exceed 64 bits at a billion keys with a TTL of centuries, which clients do set.
    let ttl: u128 = rows
        .iter()
        .map(|row| u128::from(number(row, "avg_ttl").unwrap_or(0)) * u128::from(weight(row)))
        .sum();
    // Without a key that expires the mean is 0, as on one server.
    let mean = ttl.checked_div(u128::from(total)).unwrap_or(0);
    Some(replaced(&sums, "avg_ttl", &mean.to_string()))
}

/// Returns the number called `name` in a row.
pub(super) fn number(row: &str, name: &str) -> Option<u64> {
    cell(row, name)?.parse().ok()
}

/// Returns the number called `name` in a row, which may have decimals.
fn decimal(row: &str, name: &str) -> Option<f64> {
    cell(row, name)?.parse().ok()
}

/// Returns the value called `name` in a row.
fn cell<'v>(row: &'v str, name: &str) -> Option<&'v str> {
    let (_, value) = parse(row)?.into_iter().find(|(known, _)| *known == name)?;
    Some(value)
}

/// Returns the row with another value for `name`, if it has one.
fn replaced(row: &str, name: &str, value: &str) -> String {
    let cells = row.split(',').map(|cell| match cell.split_once('=') {
        Some((known, _)) if known == name => format!("{name}={value}"),
        _ => cell.to_owned(),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// Splits a row. `None` if a part of it has no `=`.
fn parse(row: &str) -> Option<Row<'_>> {
    row.split(',').map(|cell| cell.split_once('=')).collect()
}

/// Splits the rows of all nodes. `None` if one of them is not a row.
fn parse_all<'v>(rows: impl Iterator<Item = &'v str>) -> Option<Vec<Row<'v>>> {
    rows.map(parse).collect()
}

/// Returns the names of all rows, in the order of their first occurrence.
fn names<'v>(rows: &[Row<'v>]) -> Vec<&'v str> {
    let mut names = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

/// Iterates over the values called `name`. A node that lacks it contributes nothing.
fn cells<'v>(rows: &[Row<'v>], name: &str) -> impl Iterator<Item = &'v str> {
    rows.iter()
        .flatten()
        .filter(move |(known, _)| *known == name)
        .map(|(_, value)| *value)
}
