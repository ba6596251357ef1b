//! Nothing: the tests are what is of interest.
