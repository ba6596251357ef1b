//! Properties that must hold for any bytes, of everything that reads what others send.
//!
//! * `requests`: requests of the proxy's clients: all readers agree on where a request ends and what it
//!   contains.
//! * `replies`: replies of nodes: decoder and scanner agree, however the bytes arrive; values survive being
//!   written and read.
//! * `scripts`: the keys that the text of a script shows. `topology`: topologies as text.
//! * `archive`: archives, strictly and with damage left out.
//! * `steps`: counts the bytes that a reader looks at and reserves, so that quadratic time and excessive
//!   memory are failures too, on any machine.
//! * `mutate`: gives each property the seeds of `tests/corpus` and bytes changed at random, for `cargo test`.
//!
//! Each property is a function that takes arbitrary bytes and panics when it does not hold. Compiled for unit
//! tests and for `cargo fuzz`, which sets `cfg(fuzzing)`; a user of the crate never gets it. The targets in
//! `fuzz/` call the same functions with inputs of libFuzzer.

#[cfg(feature = "backup")]
mod archive;
#[cfg(test)]
mod mutate;
mod replies;
#[cfg(feature = "tokio-comp")]
mod requests;
mod scripts;
pub(crate) mod steps;
mod topology;

#[cfg(feature = "backup")]
pub use archive::archive;
pub use replies::{frames, replies};
#[cfg(feature = "tokio-comp")]
pub use requests::requests;
pub use scripts::scripts;
pub use topology::topology;

/// Splits an input into the size of the pieces in which it arrives, from 1 to 256 bytes, and the bytes
/// themselves.
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
    #[cfg(feature = "backup")]
    fn strict_and_recovering_readers_of_archives_agree_on_arbitrary_bytes() {
        mutate::check("archive", archive);
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
