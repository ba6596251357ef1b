//! Properties of values in RDB bytes.

use super::steps;
use crate::rdb::bytes::Malformed;
use crate::rdb::convert::{FieldExpiries, Fit, Obstacle, Target, fit};
use crate::rdb::elements::{Building, build};
use crate::rdb::server::{ServerFamily, ServerVersion};
use crate::rdb::value::{Element, visit};
use crate::rdb::{Access, KeyDigest, KeyInfo, RdbVersion, digest};

/// Maximum number of bytes reserved for each byte of a value: what LZF makes of one.
const RESERVED_PER_BYTE: usize = 88;

/// The most commands of a batch.
const COMMANDS: usize = 3;

/// Servers that differ in what they take.
const SERVERS: [(ServerFamily, u32, u32); 6] = [
    (ServerFamily::Redis, 6, 2),
    (ServerFamily::Redis, 7, 0),
    (ServerFamily::Redis, 7, 2),
    (ServerFamily::Redis, 8, 2),
    (ServerFamily::Valkey, 8, 1),
    (ServerFamily::Valkey, 9, 1),
];

/// The bytes of a value: the first one says whether Redis or Valkey has written them, the second one is the type.
///
/// They are read, or refused with an offset that is not behind their end, with no more memory than their strings take
/// when they are decompressed. A value that is read has a digest, which it keeps when it is written for another server,
/// and commands that make it.
pub fn values(data: &[u8]) {
    let [writer, value_type, value @ ..] = data else {
        return;
    };
    let (value_type, version) = (
        *value_type,
        RdbVersion(if writer % 2 == 1 { 80 } else { 12 }),
    );
    let mut elements = 0;
    let (visited, spent) = steps::of(|| {
        visit::<Malformed>(value_type, value, version, &mut |element| {
            elements += usize::from(!matches!(
                element,
                Element::State(_) | Element::VectorSet(..) | Element::Vector { .. }
            ));
            Ok(())
        })
    });
    assert!(
        spent.reserved <= RESERVED_PER_BYTE * value.len(),
        "{spent:?} for {} bytes",
        value.len()
    );
    let digested = digest_of(value_type, value, version);
    match visited {
        Ok(()) => assert!(digested.is_some()),
        Err(malformed) => {
            assert!(malformed.at <= value.len() as u64, "{malformed}");
            assert_eq!(digested, None);
        }
    }
    for (family, major, minor) in SERVERS {
        let server = ServerVersion {
            family,
            major,
            minor,
        };
        check_fit(value_type, value, version, server, digested);
        check_commands(
            value_type,
            value,
            version,
            server,
            digested.map(|_| elements),
        );
    }
}

/// A value that can be read comes into every server, unless it has what that cannot hold, and is the same there.
fn check_fit(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    server: ServerVersion,
    digested: Option<KeyDigest>,
) {
    let target = |field_expiries| Target {
        server,
        argument_max: 512 << 20,
        field_expiries,
    };
    let fits = fit(value_type, value, version, &target(FieldExpiries::Required));
    match fits {
        Ok(Fit::AsIs(footer)) => {
            assert!(server.takes_footer(footer));
            assert_eq!(digest_of(value_type, value, footer), digested);
        }
        Ok(Fit::Rewritten {
            value_type,
            value,
            version,
            is_lossy,
        }) => {
            assert!(!is_lossy && server.takes_footer(version));
            assert!(digested.is_none() || digest_of(value_type, &value, version) == digested);
        }
        Ok(Fit::Impossible(Obstacle::FieldExpiry)) => {
            let dropped = fit(value_type, value, version, &target(FieldExpiries::Dropped));
            assert!(matches!(dropped, Ok(Fit::Rewritten { is_lossy: true, .. })));
        }
        Ok(Fit::Impossible(Obstacle::FieldExpiryTooLate | Obstacle::UnknownType(_))) => {}
        Ok(other) => panic!("{other:?} for {server:?}"),
        Err(_) => assert_eq!(digested, None),
    }
}

/// The commands come in bounded batches, and there are some for every value that can be read.
fn check_commands(
    value_type: u8,
    value: &[u8],
    version: RdbVersion,
    server: ServerVersion,
    elements: Option<usize>,
) {
    let building = Building {
        key: b"k",
        rename_to: None,
        expires_at: Some(1),
        server,
        batch_bytes: 100,
        batch_commands: COMMANDS,
    };
    let (mut commands, mut arguments) = (0, 0);
    let built = build::<Malformed>(value_type, value, version, &building, &mut |batch| {
        assert!((1..=COMMANDS).contains(&batch.len()));
        commands += batch.len();
        arguments += batch.iter().map(Vec::len).sum::<usize>();
        Ok(())
    });
    assert_eq!(built.is_ok(), elements.is_some());
    if let Some(elements) = elements {
        // DEL and PEXPIREAT have five.
        assert!(commands >= 2 && arguments >= 5 + elements.saturating_sub(1));
    }
}

fn digest_of(value_type: u8, value: &[u8], version: RdbVersion) -> Option<KeyDigest> {
    let info = KeyInfo {
        db: 0,
        key: b"k".to_vec(),
        expires_at: None,
        access: Access::Unknown,
        value_type,
    };
    digest(&info, value, version).ok()
}
