//! Encrypted streams.

use std::io;

use tokio::net::TcpStream;

use crate::aio::peek::Duplex;
use crate::endpoint::tls::Tls;

/// Shakes hands over a new connection.
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
        // The builder has refused these.
        #[cfg(all(feature = "tls-rustls", not(feature = "tokio-rustls-comp")))]
        crate::endpoint::tls::Config::Rustls(..) => unsupported(tcp),
        #[cfg(all(feature = "tls-native-tls", not(feature = "tokio-native-tls-comp")))]
        crate::endpoint::tls::Config::NativeTls(_) => unsupported(tcp),
    }
}

/// Without a backend there is no [`Tls`], so this is never called.
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

    /// A stream that takes bytes and holds back some of them until it is flushed, made to one that needs no flushing:
    /// whoever reads or writes sends what is held back.
    pub(super) struct Flushing<S> {
        stream: S,
        holds_back: bool,
    }

    impl<S: AsyncWrite + Unpin> Flushing<S> {
        pub(super) fn new(stream: S) -> Self {
            Self {
                stream,
                holds_back: false,
            }
        }

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
            // Reading goes on meanwhile, and meets the error too.
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
            // These bytes are taken, whether they go out now or later.
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
