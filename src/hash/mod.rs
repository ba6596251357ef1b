//! Which bytes of a key count, and what number do they give?
//!
//! [`HashTag`] picks the bytes, [`KeyHash`] turns them into a number. Every algorithm is named and frozen.

mod tag;

pub use tag::HashTag;
