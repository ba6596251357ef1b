//! Who reads the records of the nodes, and is told when they change?
//!
//! * `connection`: [`NodeConnection`], a connection to one node over which its record is read and written.
//!
//! Plain threads with blocking sockets, for clients of every kind and on every runtime. What a record is, and which one
//! counts, is decided by `topology::record`.

mod connection;

pub(crate) use self::connection::NodeConnection;
