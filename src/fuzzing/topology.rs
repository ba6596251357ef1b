//! A property of topologies as text: [`topology`].

use crate::Topology;

/// Maximum number of digits of a weight. Building a placement takes time in proportion to the weights.
const WEIGHT_DIGITS_MAX: usize = 2;

/// A topology that can be read is written so that it is read as the same topology, with its passwords only
/// where they are asked for.
pub fn topology(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let is_heavy =
        |rest: &str| rest.bytes().take_while(u8::is_ascii_digit).count() > WEIGHT_DIGITS_MAX;
    if text.split("weight=").skip(1).any(is_heavy) {
        return;
    }
    let Ok(topology) = Topology::parse(&text) else {
        return;
    };
    let written = topology.to_string();
    let again = match Topology::parse(&written) {
        Ok(again) => again,
        Err(error) => panic!("{error}: {written:?}"),
    };
    assert_eq!(again.fingerprint(), topology.fingerprint());
    // A URL that adds only a password to an address is shown as that address.
    let full = topology.text_with_passwords();
    let third = again.to_string();
    assert!(
        third == written || full != written,
        "{written:?} is read as {third:?}"
    );
    assert_eq!(
        Topology::parse(&third)
            .map(|third| third.to_string())
            .ok()
            .as_ref(),
        Some(&third)
    );
    let names = |topology: &Topology| {
        let nodes = topology.nodes().iter();
        nodes
            .map(|node| {
                (
                    node.name().to_owned(),
                    node.address().to_owned(),
                    node.weight(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&again), names(&topology));
    for key in [b"".as_slice(), b"user:1", b"{tag}\xff"] {
        assert_eq!(again.locate(key), topology.locate(key));
    }
    let again = match Topology::parse(&full) {
        Ok(again) => again,
        Err(error) => panic!("with passwords: {error}"),
    };
    assert_eq!(again.text_with_passwords(), full);
    assert_eq!(again.to_string(), written);
}
