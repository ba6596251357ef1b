//! What the quickstart needs besides the client: servers to talk to, and a data set worth sharding.

pub mod fleet;
pub mod shop;
