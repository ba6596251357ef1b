//! nginx' `hash` of an `upstream` block.

use std::sync::Arc;

use super::super::catalogue::PartitionerInfo;
use super::super::ring::of_points;
use super::super::{
    HashMod, Partitioner, Placement, PlacementError, RingSpec, check_nodes, indexed,
};
use crate::hash::{HashTag, KeyHash};
use crate::partition::NodeSpec;

/// The placement of nginx' `hash $key` in an `upstream` block, where `$key` is the key:
/// [`consistent`](Self::consistent), or [`plain`](Self::plain) without that word.
///
/// - **Equals**: nginx 1.22.1, on little-endian machines. By their own documentation `consistent` is also the rule of
///   Cache::Memcached::Fast with `ketama_points => 160` and of pingora-ketama, and `plain` that of Cache::Memcached; these
///   are not recorded.
/// - **Nodes**: what stands behind `server`: `10.0.0.1:6379`, or the path of a unix socket with `unix:` before it
///   or without. Under `plain` only the order counts.
/// - **Weights**: 160 points for each unit of weight; under `plain` that many entries in a row.
/// - **Tag**: none.
/// - **Skew**: `consistent` on average 1.11 times its share for the largest of eight nodes, at worst 1.19.
/// - **While nodes are out**: `consistent` goes on to the next points, as here: the keys of nodes that are out
///   belong to the next point of a living node. For `plain` nginx hashes again by a rule that is not recorded;
///   here the keys of nodes that are out go where [`HashMod`] puts them.
/// - **Undefined in the original**: the empty key, which nginx does not hash but hands to the servers in turns; here it
///   has the CRC32 of no bytes. Which server has a point on which two fall; here the first in the order given.
/// - **Source**: `src/http/modules/ngx_http_upstream_hash_module.c` (1.22.1); the module of streams has the same
///   rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nginx {
    method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Consistent,
    Plain,
}

impl Nginx {
    /// `hash $key consistent`: a ring of 160 points per unit of weight, each the CRC32 of the server and of the
    /// point before it.
    pub const fn consistent() -> Self {
        let method = Method::Consistent;
        Self { method }
    }

    /// `hash $key`: 15 bits of the CRC32 of the key modulo the servers.
    pub const fn plain() -> Self {
        let method = Method::Plain;
        Self { method }
    }

    pub(in super::super) const CONSISTENT: PartitionerInfo = PartitionerInfo {
        name: "nginx-consistent/1",
        summary: "nginx hash consistent: CRC32 ring over servers",
        options: &[],
        make: |_| Ok(Arc::new(Self::consistent())),
    };

    pub(in super::super) const PLAIN: PartitionerInfo = PartitionerInfo {
        name: "nginx-plain/1",
        summary: "nginx hash without consistent: CRC32 modulo servers",
        options: &[],
        make: |_| Ok(Arc::new(Self::plain())),
    };
}

impl Partitioner for Nginx {
    fn name(&self) -> &str {
        match self.method {
            Method::Consistent => Self::CONSISTENT.name,
            Method::Plain => Self::PLAIN.name,
        }
    }

    fn place(&self, nodes: &[NodeSpec]) -> Result<Box<dyn Placement>, PlacementError> {
        if self.method == Method::Plain {
            return HashMod::new(KeyHash::Crc32Upper).place(nodes);
        }
        check_nodes(nodes)?;
        let mut points = Vec::new();
        for (index, node) in indexed(nodes) {
            let chain = points_of(node.name(), node.weight().get() * POINTS_PER_WEIGHT);
            points.extend(chain.map(|point| (u64::from(point) << 32, index)));
        }
        of_points(&RingSpec::new().with_key_hash(KeyHash::Crc32), points)
    }

    fn hash_tag(&self) -> HashTag {
        HashTag::None
    }
}

const POINTS_PER_WEIGHT: u32 = 160;

/// The points of a server: CRC32 of host, zero byte, port, and of the point before, at first zero.
fn points_of(server: &str, count: u32) -> impl Iterator<Item = u32> {
    let (host, port) = host_and_port(server);
    let mut base = crc32fast::Hasher::new();
    base.update(host.as_bytes());
    base.update(b"\0");
    base.update(port.as_bytes());
    (0..count).scan(0_u32, move |point, _| {
        let mut hasher = base.clone();
        hasher.update(&point.to_le_bytes());
        *point = hasher.finalize();
        Some(*point)
    })
}

/// Cuts a server as nginx does: at the last colon if only digits follow it; a unix socket has no port.
fn host_and_port(server: &str) -> (&str, &str) {
    if let Some((scheme, path)) = server.split_at_checked(UNIX.len())
        && scheme.eq_ignore_ascii_case(UNIX)
    {
        return (path, "");
    }
    match server.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (server, ""),
    }
}

const UNIX: &str = "unix:";

#[cfg(test)]
mod tests {
    use super::super::super::testing::weighted;
    use super::*;

    #[test]
    fn nginx_cuts_the_port_off_a_server() {
        for (server, parts) in [
            ("10.0.0.1:6379", ("10.0.0.1", "6379")),
            ("[::1]:6379", ("[::1]", "6379")),
            ("cache", ("cache", "")),
            ("cache:http", ("cache:http", "")),
            ("unix:/run/a:1", ("/run/a:1", "")),
            ("/run/a.sock", ("/run/a.sock", "")),
        ] {
            assert_eq!(host_and_port(server), parts);
        }
    }

    #[test]
    fn nginx_points_are_a_chain_of_crc32() {
        let points: Vec<u32> = points_of("a:1", 2).collect();
        let first = crc32fast::hash(b"a\x001\0\0\0\0");
        let label = [b"a\x001", &first.to_le_bytes()[..]].concat();
        assert_eq!(points, [first, crc32fast::hash(&label)]);
    }

    #[test]
    fn nginx_plain_takes_fifteen_bits_modulo_the_weights() {
        let placement = Nginx::plain().place(&weighted(&[1, 2])).unwrap();
        for i in 0..100_u32 {
            let key = i.to_le_bytes();
            let number = crc32fast::hash(&key) >> 16 & 0x7fff;
            let owner = [0, 1, 1][number as usize % 3];
            assert_eq!(placement.locate(&key).unwrap().get(), owner);
        }
    }
}
