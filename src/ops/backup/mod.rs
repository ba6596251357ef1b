//! One archive of all nodes of a fleet, and back to any number of nodes.
