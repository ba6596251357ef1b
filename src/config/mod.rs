//! What did the user choose?
//!
//! * [`Builder`]: describes a client, and checks the description.
//! * `settings`: the timeouts and sizes that connections follow, and the limits of every number that can be set.
//! * [`ClientConfig`]: the checked description, from which `sync`, `aio` and `proxy` build what they offer.
//!
//! Nothing here knows an executor: `build`, `build_async` and `build_proxy` stand beside what they build.

pub mod builder;
mod settings;

pub use builder::Builder;

pub(crate) use builder::ClientConfig;
#[cfg(feature = "tokio-comp")]
pub(crate) use builder::DEFAULT_RESPONSE_TIMEOUT;
pub(crate) use settings::{PROBE_AFTER, Settings, limits};
