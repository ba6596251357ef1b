//! Handles with other timeouts and another retry policy than the client they are made from.

use crate::aio::{Dedicated, Node, ShardedClient};
use crate::config::{set_request_options, with_request_options};

with_request_options!(ShardedClient);
with_request_options!(Node);
set_request_options!(Dedicated);
