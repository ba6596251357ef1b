//! [`TopologyFile`]: a topology in a file that may change.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;

/// Largest size of a topology file, in bytes.
pub const TOPOLOGY_FILE_BYTES_MAX: u64 = 16 << 20;

/// A file with the topology of a client.
#[derive(Clone, Debug)]
pub(crate) struct TopologyFile {
    pub(crate) path: Arc<Path>,
    /// The [hash](hash_content) of its content, if the first nodes were taken from it.
    pub(crate) content: Option<u64>,
}

/// The text of a topology file.
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) if it cannot be read, is too large, or is no text.
pub(crate) fn read_topology_file(path: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| {
        Error::config(format!("the topology in {path:?} cannot be read: {error}"))
    };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One more than is allowed: a file may grow while it is read.
    file.take(TOPOLOGY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > TOPOLOGY_FILE_BYTES_MAX {
        return Err(Error::config(format!(
            "the topology in {path:?} is larger than {TOPOLOGY_FILE_BYTES_MAX} bytes"
        )));
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::config(format!("the topology in {path:?} is not UTF-8")))
}

/// A hash of what was read. Errors have one as well: each is reported once.
pub(crate) fn hash_content(content: &Result<String, Error>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match content {
        Ok(text) => (true, text).hash(&mut hasher),
        Err(error) => (false, error.to_string()).hash(&mut hasher),
    }
    hasher.finish()
}
