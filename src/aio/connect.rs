//! Connecting to the address of an endpoint: the socket, TLS, and the handshake.

use std::io;

use redis::{ConnectionAddr, RedisResult};
use socket2::SockRef;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::aio::multiplexed::MultiplexedConnection;
use crate::aio::peek::Duplex;
use crate::aio::tls;
use crate::endpoint::{Deadline, Endpoint};
use crate::plan::{Answers, Cause, ExpectedEnd};
use crate::resp::Handshake;

/// Connects a stream of whichever kind the address asks for.
pub(super) async fn connect_stream(endpoint: &Endpoint) -> io::Result<Box<dyn Duplex>> {
    match endpoint.info.addr() {
        ConnectionAddr::Tcp(host, port) => Ok(Box::new(connect_tcp(endpoint, host, *port).await?)),
        ConnectionAddr::TcpTls { host, port, .. } => connect_tls(endpoint, host, *port).await,
        #[cfg(unix)]
        ConnectionAddr::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Connects a TCP socket and sets its options.
pub(super) async fn connect_tcp(
    endpoint: &Endpoint,
    host: &str,
    port: u16,
) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    endpoint.options.apply(SockRef::from(&stream))?;
    Ok(stream)
}

/// Connects a TCP socket and performs the TLS handshake.
pub(super) async fn connect_tls(
    endpoint: &Endpoint,
    host: &str,
    port: u16,
) -> io::Result<Box<dyn Duplex>> {
    let Some(tls) = &endpoint.tls else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    let stream = connect_tcp(endpoint, host, port).await?;
    // Boxed: the state of a TLS handshake is large, and most connections have none.
    let shaken = Box::pin(tls::connect(tls, stream)).await;
    shaken.map_err(|error| tls.handshake_error(&error))
}

/// Sends a handshake over a connection that has a driver, and checks its replies.
pub(super) async fn run_handshake(
    endpoint: &Endpoint,
    connection: &MultiplexedConnection,
    handshake: &Handshake,
    deadline: Deadline,
) -> RedisResult<()> {
    let (packed, count) = (handshake.packed(), handshake.count());
    let answers: Answers = connection
        .exchange(&packed, count, ExpectedEnd::Any, deadline)
        .await;
    if let Some(failure) = answers.failure {
        let error = match failure.cause {
            Cause::Dropped(failure) => endpoint.handshake_broke(failure),
            Cause::Timeout(_) => io::ErrorKind::TimedOut.into(),
            other => io::Error::other(other.to_string()),
        };
        return Err(error.into());
    }
    endpoint.check(handshake, &answers.values)
}
