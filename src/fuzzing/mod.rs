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
    fn all_request_parsers_agree_on_arbitrary_bytes() {
        mutate::check("requests", requests);
    }

    #[test]
    fn reply_decoders_agree_on_arbitrary_bytes_in_any_pieces() {
        mutate::check("replies", replies);
    }

    #[test]
    fn frame_scanner_and_reply_decoder_agree_on_where_a_frame_ends() {
        mutate::check("replies", frames);
    }

    #[test]
    fn script_analysis_finds_the_same_keys_beside_other_text() {
        mutate::check("scripts", scripts);
    }

    #[test]
    fn topology_parsed_from_arbitrary_text_is_written_and_parsed_back() {
        mutate::check("topology", topology);
    }
}
