//! The text of a node in the labels and the sort order of peers.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{PlacementError, indexed};
use crate::hash::named;
use crate::partition::{NodeIndex, NodeSpec};

named! {
    /// The text that stands for a node in the labels of its points, and by which a peer sorts its nodes.
    pub enum NodeText {
        /// Its name.
        Name = "name",
        /// Its name as libmemcached writes it, which takes it for `host:port`: without the port if that is
        /// 11211, and with port 0 if it is the path of a unix socket.
        Libmemcached = "libmemcached",
        /// As twemproxy writes it: a name of its own as it is; an address without its port if that is 11211;
        /// the path of a unix socket with a colon behind it.
        Twemproxy = "twemproxy",
    }
}

impl NodeText {
    pub(super) fn of(self, node: &NodeSpec) -> Cow<'_, str> {
        let name = node.name();
        match self {
            Self::Name => name.into(),
            Self::Twemproxy if node.is_named() => name.into(),
            Self::Twemproxy if name.starts_with('/') => format!("{name}:").into(),
            Self::Libmemcached if name.starts_with('/') => format!("{name}:0").into(),
            Self::Libmemcached | Self::Twemproxy => {
                name.strip_suffix(":11211").unwrap_or(name).into()
            }
        }
    }

    /// Refuses two nodes of one text. Names are checked elsewhere.
    pub(super) fn check(self, nodes: &[NodeSpec]) -> Result<(), PlacementError> {
        let mut seen = HashSet::new();
        match nodes
            .iter()
            .map(|node| self.of(node))
            .find(|text| !seen.insert(text.clone()))
        {
            None => Ok(()),
            Some(text) => Err(PlacementError::DuplicateName {
                name: text.into_owned(),
            }),
        }
    }

    /// The nodes sorted as twemproxy does: shorter texts first, then by bytes.
    pub(super) fn shortest_first(self, nodes: &[NodeSpec]) -> Vec<(NodeIndex, &NodeSpec)> {
        let mut sorted: Vec<_> = indexed(nodes).collect();
        sorted.sort_by_cached_key(|(_, node)| {
            let text = self.of(node).into_owned();
            (text.len(), text)
        });
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_text_of_port_11211_and_unix_sockets_is_as_peers_write_it() {
        let texts = |node: NodeSpec| {
            [NodeText::Name, NodeText::Libmemcached, NodeText::Twemproxy]
                .map(|text| text.of(&node).into_owned())
        };
        assert_eq!(texts(NodeSpec::unnamed("a:6379")), ["a:6379"; 3]);
        assert_eq!(texts(NodeSpec::unnamed("a:11211")), ["a:11211", "a", "a"]);
        assert_eq!(
            texts(NodeSpec::new("a:11211", "b:1")),
            ["a:11211", "a", "a:11211"]
        );
        assert_eq!(
            texts(NodeSpec::unnamed("/run/a.sock")),
            ["/run/a.sock", "/run/a.sock:0", "/run/a.sock:"]
        );
    }

    #[test]
    fn node_text_refuses_two_names_that_become_one_text() {
        let nodes = [NodeSpec::new("a", "b:1"), NodeSpec::unnamed("a:11211")];
        assert!(NodeText::Name.check(&nodes).is_ok());
        assert_eq!(
            NodeText::Twemproxy.check(&nodes),
            Err(PlacementError::DuplicateName { name: "a".into() })
        );
    }

    #[test]
    fn node_texts_are_sorted_shortest_first() {
        let nodes = ["delta", "b", "alpha", "aa"].map(|name| NodeSpec::new(name, name));
        let sorted: Vec<_> = NodeText::Twemproxy
            .shortest_first(&nodes)
            .into_iter()
            .map(|(index, _)| index.get())
            .collect();
        assert_eq!(sorted, [1, 3, 2, 0]);
    }
}
