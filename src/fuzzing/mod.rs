//! Properties that must hold for any bytes, of everything that reads what others send.
//!
//! Compiled for unit tests and for `cargo fuzz`, which sets `cfg(fuzzing)`; a user of the crate never gets it. Each function takes
//! arbitrary bytes and panics when a property does not hold. The tests below give them the seeds in `tests/corpus`
//! and bytes changed at random; the targets in `fuzz/` give them what libFuzzer finds.

#[cfg(test)]
mod mutate;
mod replies;
#[cfg(feature = "tokio-comp")]
mod requests;
mod scripts;
pub(crate) mod steps;
mod topology;

pub use replies::{frames, replies};
#[cfg(feature = "tokio-comp")]
pub use requests::requests;
pub use scripts::scripts;
pub use topology::topology;

/// The first byte says how large the pieces are in which the others arrive.
fn pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, bytes) = data.split_first()?;
    Some((usize::from(first) + 1, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "tokio-comp")]
    fn requests_of_any_bytes_are_read_alike_by_all_readers() {
        mutate::check("requests", requests);
    }

    #[test]
    fn replies_of_any_bytes_are_read_alike_however_they_arrive() {
        mutate::check("replies", replies);
    }

    #[test]
    fn frames_of_any_bytes_end_where_the_replies_end() {
        mutate::check("replies", frames);
    }

    #[test]
    fn scripts_of_any_text_show_the_same_keys_beside_other_text() {
        mutate::check("scripts", scripts);
    }

    #[test]
    fn topologies_of_any_text_are_written_as_they_are_read() {
        mutate::check("topology", topology);
    }
}
