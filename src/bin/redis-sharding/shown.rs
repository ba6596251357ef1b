//! Shows words of the command line in messages. Shared with the examples `locate` and `proxy`.

use std::borrow::Cow;

use redis_sharding::NodeSpec;
use redis_sharding::partition::{PlacementError, check_nodes};

/// Returns the word, unless it may contain a password.
pub fn shown(word: &str) -> Cow<'_, str> {
    match holds_password(word) {
        true => "(not shown, as it may hold a password)".into(),
        false => word.into(),
    }
}

/// True if the word may contain a password: the library refuses such a node name.
pub fn holds_password(word: &str) -> bool {
    let refusal = check_nodes(&[NodeSpec::new(word, "")]);
    matches!(refusal, Err(PlacementError::Password { .. }))
}
