//! What is printed at the end.

use std::collections::BTreeMap;

use crate::Options;
use crate::exceptions::Exceptions;
use crate::outcome::{Case, Outcome};

/// Prints a summary. Returns whether exactly the cases of the list failed.
pub fn print(
    options: &Options,
    exceptions: &Exceptions,
    cases: &[Case],
    outcomes: &[Outcome],
) -> bool {
    let mut excepted: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut failed, mut outdated) = (Vec::new(), Vec::new());
    let mut passed = 0;
    for (case, outcome) in cases.iter().zip(outcomes) {
        let reason = exceptions.reason(case, &options.mode);
        match (outcome.passed, reason) {
            (true, Some(_)) if outcome.skipped => {}
            (true, Some(_)) if exceptions.may_pass(case, &options.mode) => {
                passed += usize::from(outcome.applicable);
            }
            (true, Some(reason)) => outdated.push((case, reason)),
            (true, None) => passed += usize::from(outcome.applicable),
            (false, Some(reason)) => *excepted.entry(reason).or_default() += 1,
            (false, None) => failed.push((case, outcome)),
        }
    }
    for (case, outcome) in &failed {
        println!("FAILED: {case}");
        if options.verbose {
            println!("{}", outcome.output);
        } else if let Some(line) = why(&outcome.output) {
            println!("        {line}");
        }
    }
    for (case, reason) in &outdated {
        println!("PASSED, but is listed as an exception ({reason}): {case}");
    }
    let applicable = outcomes.iter().filter(|outcome| outcome.applicable).count();
    let skipped = outcomes.iter().filter(|outcome| outcome.skipped).count();
    let without = outcomes.len() - applicable - skipped;
    println!("{applicable} cases are applicable, {passed} of them pass");
    for (reason, count) in &excepted {
        println!("    {count} excepted: {reason}");
    }
    if !failed.is_empty() {
        println!("    {} FAILED", failed.len());
    }
    println!("    beside them, {without} need no server and {skipped} need a newer one");
    failed.is_empty() && outdated.is_empty()
}

/// The line of a case's output that most likely says what was wrong.
fn why(output: &str) -> Option<&str> {
    let lines = || {
        output
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let panic = lines().position(|line| line.contains("panicked at") || line.starts_with("Panic:"));
    match panic {
        Some(position) => lines().nth(position + 1),
        None => lines().last(),
    }
}
