//! What a client has sent and nobody has taken yet.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Read at once at least.
const READ_BYTES: usize = 16 << 10;

/// Read at once at most.
const READ_BYTES_MAX: usize = 1 << 20;

/// A buffer of more bytes is given back when it is empty.
const BYTES_KEPT: usize = 256 << 10;

/// Bytes, of which a first part may have been taken.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
}

impl Input {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > BYTES_KEPT {
                self.bytes = Vec::new();
            }
        }
    }

    /// Reads what is there, unless there is as much as is wanted. How many bytes came.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        wanted: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let there = self.rest().len();
        if there >= wanted {
            return Poll::Pending;
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes
            .reserve((wanted - there).clamp(READ_BYTES, READ_BYTES_MAX));
        // Into the room behind the bytes, which need not be cleared. It holds nothing between two calls.
        pin!(stream.read_buf(&mut self.bytes)).poll(cx)
    }
}
