//! redis-rs' configurations of async connections; its own do not show what was set.

use std::sync::Arc;
use std::time::Duration;

use redis_rs::PushKind;
use redis_rs::aio::AsyncPushSender;

use crate::nodes::{FIRST, Nodes};

/// In place of no limit: ours always has one.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// Declares a configuration with the settings that both kinds of connections have.
macro_rules! config {
    ($name:ident) => {
        #[derive(Clone, Default)]
        pub struct $name {
            connection_timeout: Option<Option<Duration>>,
            response_timeout: Option<Option<Duration>>,
            push_sender: Option<Arc<dyn AsyncPushSender>>,
        }

        impl $name {
            pub fn new() -> Self {
                Self::default()
            }

            pub fn set_connection_timeout(mut self, timeout: Option<Duration>) -> Self {
                self.connection_timeout = Some(timeout);
                self
            }

            pub fn set_response_timeout(mut self, timeout: Option<Duration>) -> Self {
                self.response_timeout = Some(timeout);
                self
            }

            pub fn set_push_sender(mut self, sender: impl AsyncPushSender) -> Self {
                self.push_sender = Some(Arc::new(sender));
                self
            }

            /// About redis-rs' own queues: nothing of ours.
            pub fn set_pipeline_buffer_size(self, _: usize) -> Self {
                self
            }

            /// About redis-rs' own queues: nothing of ours.
            pub fn set_write_backpressure_boundary(self, _: usize) -> Self {
                self
            }

            /// Applies the settings.
            pub(crate) fn apply(&self, nodes: &mut Nodes) {
                if let Some(timeout) = self.connection_timeout {
                    nodes.connect_timeout = Some(timeout.unwrap_or(CONNECT_MAX));
                }
                if let Some(timeout) = self.response_timeout {
                    nodes.response_timeout = Some(timeout);
                }
                if let Some(sender) = self.push_sender.clone() {
                    nodes.pushes.set(move |node, push| {
                        if push.kind != PushKind::Disconnection || node == FIRST {
                            drop(sender.send(push));
                        }
                    });
                }
            }
        }
    };
}

config!(AsyncConnectionConfig);
config!(ConnectionManagerConfig);

/// How redis-rs' manager reconnects. Ours has a backoff of its own.
impl ConnectionManagerConfig {
    pub fn set_number_of_retries(self, _: usize) -> Self {
        self
    }

    pub fn set_exponent_base(self, _: f32) -> Self {
        self
    }

    pub fn set_max_delay(self, _: Duration) -> Self {
        self
    }

    pub fn set_automatic_resubscription(self) -> Self {
        self
    }
}
