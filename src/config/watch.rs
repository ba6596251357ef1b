//! The setter of [`Builder`] for a topology in a file that may change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Builder;
use crate::config::topology_file::{TopologyFile, hash_content, read_topology_file};
use crate::error::Error;
use crate::topology::Topology;

impl Builder {
    /// Takes the topology from a file, and follows it: when the file changes, the client's nodes and their placement are
    /// [replaced](crate::ShardedClient::set_topology), within about two seconds, for all handles and clones. The text
    /// is that of [`Topology`]; passwords belong in [`password`](Self::password), user names, certificates and so on
    /// in the other setters.
    ///
    /// If no other nodes are given, the first ones are those in the file when the client is built. Otherwise the client
    /// begins with the nodes given, and takes those in the file over soon after.
    ///
    /// A file that cannot be read or parsed, that does not fit the client, or that would move keys of a store changes
    /// nothing: it is reported once, as [`ClientEvent::TopologyRefused`](crate::ClientEvent::TopologyRefused). A
    /// content counts when it has been read twice within a quarter of a second, so a file may be written in place;
    /// renaming a complete one into its place is better. At most
    /// [`TOPOLOGY_FILE_BYTES_MAX`](crate::builder::TOPOLOGY_FILE_BYTES_MAX) bytes.
    ///
    /// The file is read by a thread, every second if it has changed, which ends after the last handle is dropped.
    /// Rules of the program's own are not read from a file: see [`Topology::parse_with`]. The nodes of a
    /// [cluster](Self::cluster) come from its servers, and not from a file.
    ///
    /// ```no_run
    /// use redis_sharding::{ClientEvent, ShardedClient};
    ///
    /// let client = ShardedClient::builder()
    ///     .watch_topology("/etc/users.topology")
    ///     .on_event(|event| match event {
    ///         ClientEvent::TopologyChanged { .. } => println!("{event}"),
    ///         ClientEvent::TopologyRefused { .. } => eprintln!("{event}"),
    ///         _ => {}
    ///     })
    ///     .build()?;
    /// # Ok::<(), redis_sharding::Error>(())
    /// ```
    ///
    /// Defaults to none.
    pub fn watch_topology(mut self, path: impl Into<PathBuf>) -> Self {
        self.topology_file = Some(path.into());
        self
    }

    /// Takes the nodes from the file if there are no others.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if they are needed and the file cannot be read or parsed.
    pub(super) fn with_nodes_of_file(self) -> Result<(Self, Option<TopologyFile>), Error> {
        let Some(path) = self.topology_file.as_deref() else {
            return Ok((self, None));
        };
        let path: Arc<Path> = path.into();
        if !self.nodes.is_empty() {
            return Ok((
                self,
                Some(TopologyFile {
                    path,
                    content: None,
                }),
            ));
        }
        let text = read_topology_file(&path);
        let content = Some(hash_content(&text));
        let topology = Topology::parse(&text?)
            .map_err(|error| Error::config(format!("the topology in {path:?}: {error}")))?;
        let file = TopologyFile { path, content };
        Ok((self.topology(&topology), Some(file)))
    }
}
