//! The format of archives: one file with the keys of all nodes, whatever their number. `docs/archive.md` describes every
//! byte.
//!
//! Nothing here knows a connection or a server.
