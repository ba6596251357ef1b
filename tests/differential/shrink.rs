//! Makes a failing sequence shorter, as long as it fails.

use super::run::{Difference, run};
use super::sequence::Step;
use super::world::World;

/// So often is it tried.
const TRIES_MAX: usize = 400;

/// A sequence of which no step can be left out, or which cost all tries, and what it fails with.
pub fn shrink(
    world: &mut World,
    steps: Vec<Step>,
    difference: Difference,
) -> (Vec<Step>, Difference) {
    let mut best = (steps, difference);
    // What comes after the difference has no part in it.
    if let Some(step) = best.1.step {
        let prefix = best.0[..=step].to_vec();
        if let Err(difference) = run(world, &prefix) {
            best = (prefix, difference);
        }
    }
    let mut tries = 0;
    let mut size = best.0.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.0.len() && tries < TRIES_MAX {
            tries += 1;
            let end = best.0.len().min(at + size);
            let fewer = [&best.0[..at], &best.0[end..]].concat();
            match run(world, &fewer) {
                Ok(()) => at += size,
                Err(difference) => best = (fewer, difference),
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    apart(world, best)
}

/// Sent one by one, if it fails all the same.
fn apart(world: &mut World, best: (Vec<Step>, Difference)) -> (Vec<Step>, Difference) {
    let mut steps = best.0.clone();
    steps.iter_mut().for_each(|step| step.joined = false);
    match run(world, &steps) {
        Ok(()) => best,
        Err(difference) => (steps, difference),
    }
}
