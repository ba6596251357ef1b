//! The user's choices: what a client is built from.
//!
//! * `builder`: [`Builder`], which collects and checks them, and [`ClientConfig`], the checked result, from
//!   which `sync`, `aio` and `proxy` build their handles.
//! * `observe`: the setters for watching a client.
//! * `reads`: [`Builder::missing_nodes`].
//! * `settings`: timeouts and sizes, and the limits of every number that can be set.
//!
//! Nothing here knows an executor: `build`, `build_async` and `build_proxy` are defined beside what they
//! build.

pub mod builder;
mod observe;
mod reads;
mod settings;

pub use builder::Builder;

pub(crate) use builder::ClientConfig;
#[cfg(feature = "tokio-comp")]
pub(crate) use builder::DEFAULT_RESPONSE_TIMEOUT;
pub(crate) use settings::{PROBE_AFTER, Settings, limits};
