//! What the quickstart needs besides the client: servers, and a data set worth sharding.

pub mod fleet;
pub mod shop;
