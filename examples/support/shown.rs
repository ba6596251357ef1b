//! Words of the command line in messages.

use std::borrow::Cow;

use redis_sharding::NodeSpec;
use redis_sharding::partition::{PlacementError, check_nodes};

/// The word, unless it may hold a password.
pub fn shown(word: &str) -> Cow<'_, str> {
    match holds_password(word) {
        true => "(not shown, as it may hold a password)".into(),
        false => word.into(),
    }
}

/// Whether it may hold a password, as the library sees it: such a name of a node is refused.
pub fn holds_password(word: &str) -> bool {
    let refusal = check_nodes(&[NodeSpec::new(word, "")]);
    matches!(refusal, Err(PlacementError::Password { .. }))
}
