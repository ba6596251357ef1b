//! The record of a fleet, as an operator publishes it and looks at it.
