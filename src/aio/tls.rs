//! Encrypted streams: the TLS handshake on a new TCP connection, and streams that need no explicit flush.
//!
//! The driver only calls `poll_write` and `poll_read`. tokio-native-tls sends what it encrypts; tokio-rustls
//! may keep some of it until it is flushed, which `Flushing` does.

use std::io;

use tokio::net::TcpStream;

use crate::aio::peek::Duplex;
use crate::endpoint::tls::Tls;

/// Performs the TLS handshake on a new connection.
#[cfg(any(feature = "tls-native-tls", feature = "tls-rustls"))]
pub(super) async fn connect(tls: &Tls, tcp: TcpStream) -> io::Result<Box<dyn Duplex>> {
    match tls.config {
        #[cfg(feature = "tokio-rustls-comp")]
        crate::endpoint::tls::Config::Rustls(ref config, ref name) => {
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(config));
            let stream = connector.connect(name.clone(), tcp).await?;
            Ok(Box::new(flushing::Flushing::new(stream)))
        }
        #[cfg(feature = "tokio-native-tls-comp")]
        crate::endpoint::tls::Config::NativeTls(ref connector) => {
            let connector = tokio_native_tls::TlsConnector::from(connector.clone());
            let stream = connector.connect(&tls.server_name, tcp).await;
            let stream: tokio_native_tls::TlsStream<TcpStream> =
                stream.map_err(io::Error::other)?;
            Ok(Box::new(stream))
        }
        // The builder refuses these: the library is compiled in for the blocking client only.
        #[cfg(all(feature = "tls-rustls", not(feature = "tokio-rustls-comp")))]
        crate::endpoint::tls::Config::Rustls(..) => unsupported(tcp),
        #[cfg(all(feature = "tls-native-tls", not(feature = "tokio-native-tls-comp")))]
        crate::endpoint::tls::Config::NativeTls(_) => unsupported(tcp),
    }
}

/// Never called: without a TLS library there is no [`Tls`].
#[cfg(not(any(feature = "tls-native-tls", feature = "tls-rustls")))]
pub(super) async fn connect(tls: &Tls, _: TcpStream) -> io::Result<Box<dyn Duplex>> {
    match tls.config {}
}

#[cfg(feature = "tokio-native-tls-comp")]
impl crate::aio::peek::Peek for tokio_native_tls::TlsStream<TcpStream> {
    fn is_closed(&self) -> bool {
        crate::aio::peek::is_encrypted_closed(self.get_ref().get_ref().get_ref())
    }
}

#[cfg(any(
    all(feature = "tls-rustls", not(feature = "tokio-rustls-comp")),
    all(feature = "tls-native-tls", not(feature = "tokio-native-tls-comp"))
))]
/// The error for a library that has no async side; unreachable.
fn unsupported(_: TcpStream) -> io::Result<Box<dyn Duplex>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(feature = "tokio-rustls-comp")]
mod flushing {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::net::TcpStream;

    use crate::aio::peek::{Peek, is_encrypted_closed};

    /// Turns a stream that may keep written bytes until it is flushed into one that does not: every read and
    /// every write first sends what was kept.
    pub(super) struct Flushing<S> {
        /// The TLS stream.
        stream: S,
        /// True if bytes may have been written that are not flushed.
        holds_back: bool,
    }

    impl<S: AsyncWrite + Unpin> Flushing<S> {
        pub(super) fn new(stream: S) -> Self {
            Self {
                stream,
                holds_back: false,
            }
        }

        /// Ready when nothing is kept any more.
        fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.holds_back {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.holds_back = false;
            }
            Poll::Ready(Ok(()))
        }
    }

    impl Peek for Flushing<tokio_rustls::client::TlsStream<TcpStream>> {
        fn is_closed(&self) -> bool {
            is_encrypted_closed(self.stream.get_ref().0)
        }
    }

    impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Flushing<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            // The socket may be full, and reading goes on all the same. An error is met again by the read.
            let _ = self.poll_send(cx);
            Pin::new(&mut self.stream).poll_read(cx, into)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Flushing<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            ready!(self.poll_send(cx))?;
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            self.holds_back = true;
            // The stream has taken these bytes, so they count as written whether they are sent now or later.
            // An error is met again by the next read or write.
            let _ = self.poll_send(cx);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            ready!(self.poll_send(cx))?;
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
