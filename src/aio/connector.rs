//! How connections to one node are made: for the pools and the shared connections, and for those who drive a stream
//! themselves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use redis::{ConnectionAddr, RedisResult};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::runtime::{Handle, Id, RuntimeFlavor};

use crate::aio::connect::{connect_stream, connect_tcp, run_handshake};
use crate::aio::driver::{Driver, WriteCoalescing};
use crate::aio::multiplexed::{MultiplexedConnection, SendQueue};
use crate::aio::peek::Duplex;
use crate::endpoint::{Deadline, Endpoint, NodeBackoff, PrimaryVersion};
use crate::observe::{NodeObserver, OpenConnection, PoolKind};
use crate::policy::{ConnectError, HandshakeScope, IoFailure};
use crate::resp::Handshake;
use crate::resp::ReplyDecoder;

/// How to make connections to one node. Clones share the node's backoff.
#[derive(Clone)]
pub(crate) struct Connector {
    endpoint: Endpoint,
    /// The node's address, for messages.
    pub(crate) address: String,
    /// Maximum duration of an attempt, handshake included.
    pub(crate) timeout: Duration,
    /// How the drivers of new connections gather requests.
    coalescing: WriteCoalescing,
    /// One for all connections to the node, including those made by other clones.
    pub(crate) backoff: Arc<NodeBackoff>,
}

/// A stream that its user drives itself.
pub(crate) struct OpenStream {
    pub(crate) stream: Box<dyn Duplex>,
    /// With whatever has arrived behind the replies to the handshake.
    pub(crate) decoder: ReplyDecoder,
    /// The version of the address that the stream was connected to, if it may change.
    pub(crate) primary: Option<PrimaryVersion>,
    /// The epoch of the record that the stream has presented. Zero for a stream of subscriptions.
    #[cfg(feature = "proxy")]
    pub(crate) epoch: u64,
}

impl Connector {
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration, coalescing: WriteCoalescing) -> Self {
        Self {
            address: endpoint.address.clone(),
            backoff: NodeBackoff::of_endpoint(&endpoint),
            endpoint,
            timeout,
            coalescing,
        }
    }

    /// The observer of the node.
    pub(crate) fn observer(&self) -> &Arc<NodeObserver> {
        &self.endpoint.observer
    }

    /// Opens a stream for commands that the caller drives itself: connects, sends the handshake and checks its
    /// replies.
    #[cfg(feature = "proxy")]
    pub(crate) async fn open(&self) -> Result<OpenStream, ConnectError> {
        let (handshake, presented) = self.endpoint.handshake(HandshakeScope::Full)?;
        let mut opened = self.open_with(&handshake).await?;
        opened.epoch = presented.epoch;
        Ok(opened)
    }

    /// Opens a stream for subscriptions, as `open` does.
    pub(crate) async fn open_pub_sub(&self) -> Result<OpenStream, ConnectError> {
        self.open_with(&self.endpoint.pub_sub_handshake()?).await
    }

    async fn open_with(&self, handshake: &Handshake) -> Result<OpenStream, ConnectError> {
        let open = async {
            let located = self.endpoint.locate_async().await?;
            let endpoint = &located.endpoint;
            let opened = Self::open_at(endpoint, handshake).await;
            let (stream, decoder) =
                opened.map_err(|error| ConnectError::new(&endpoint.address, &error))?;
            if let Some(primary) = &located.primary {
                primary.confirmed();
            }
            Ok(OpenStream {
                stream,
                decoder,
                primary: located.primary,
                #[cfg(feature = "proxy")]
                epoch: 0,
            })
        };
        match tokio::time::timeout(self.timeout, open).await {
            Ok(opened) => opened,
            Err(_) => Err(self.endpoint.timed_out()),
        }
    }

    /// Opens a stream to the address of `endpoint`, without a time limit.
    async fn open_at(
        endpoint: &Endpoint,
        handshake: &Handshake,
    ) -> RedisResult<(Box<dyn Duplex>, ReplyDecoder)> {
        let mut decoder = ReplyDecoder::new();
        let mut stream = connect_stream(endpoint).await?;
        stream.write_all(&handshake.packed()).await?;
        let mut answers = Vec::new();
        while answers.len() < handshake.count() {
            match decoder.next_reply()? {
                Some(answer) => answers.push(answer),
                None => {
                    let read = read(&mut stream, &mut decoder).await;
                    let hung_up =
                        |error: io::Error| endpoint.handshake_broke(IoFailure::broken(&error));
                    decoder.advance(read.map_err(hung_up)?);
                }
            }
        }
        endpoint.check(handshake, &answers)?;
        Ok((stream, decoder))
    }

    /// The error of an attempt whose time is over.
    pub(crate) fn timed_out(&self) -> ConnectError {
        self.endpoint.timed_out()
    }

    /// True if the credentials or the name of the client have changed since `connection` presented them.
    #[inline]
    pub(crate) fn is_renewal_due(&self, connection: &MultiplexedConnection) -> bool {
        connection.login() != self.endpoint.login.version()
    }

    /// Has a connection present the record that the client goes by now, if that is newer than what it has presented.
    /// Waits for nothing. Not for one on which a transaction is open, or keys are watched.
    #[inline]
    pub(crate) fn acknowledge(&self, connection: &MultiplexedConnection) {
        if let Some(record) = &self.endpoint.record {
            let epoch = record.epoch();
            if epoch > connection.epoch() {
                connection.acknowledge(epoch, false, |epoch| self.endpoint.name_at(epoch));
            }
        }
    }

    /// Presents the current credentials and the name of the client on a connection that exists, unless another
    /// request is doing so. After an error the connection must not be used by further requests.
    pub(crate) async fn renew(
        &self,
        connection: &MultiplexedConnection,
        deadline: Deadline,
    ) -> Result<(), ConnectError> {
        let Some(_renewal) = connection.begin_renewal() else {
            return Ok(());
        };
        let (renewal, login) = self.endpoint.login_renewal(connection.login())?;
        let presented = run_handshake(&self.endpoint, connection, &renewal, deadline).await;
        presented.map_err(|error| ConnectError::new(&self.address, &error))?;
        connection.set_login(login);
        if let Some(record) = &self.endpoint.record {
            let name = |epoch| self.endpoint.name_at(epoch);
            connection.acknowledge(record.epoch(), true, name);
        }
        Ok(())
    }

    /// Makes a connection for commands of this pool, and spawns its driver. `closed` is called when the
    /// connection ends, whether or not its handshake succeeded.
    pub(crate) async fn connect(
        &self,
        pool: PoolKind,
        scope: HandshakeScope,
        closed: impl FnOnce() + Send + 'static,
    ) -> Result<MultiplexedConnection, ConnectError> {
        let (handshake, presented) = self.endpoint.handshake(scope)?;
        let deadline = Deadline::start(Some(self.timeout));
        let connect = async {
            let located = self.endpoint.locate_async().await?;
            let endpoint = &located.endpoint;
            let made = self
                .try_connect(endpoint, &handshake, deadline, closed)
                .await;
            let made = made.map_err(|error| ConnectError::new(&endpoint.address, &error))?;
            if let Some(primary) = &located.primary {
                primary.confirmed();
            }
            Ok(made.with_primary(located.primary))
        };
        // Boxed, as it is large and rare.
        match tokio::time::timeout(self.timeout, Box::pin(connect)).await {
            Ok(Ok(connection)) => {
                connection.set_open(OpenConnection::new(&self.endpoint.observer, pool));
                connection.set_login(presented.login);
                connection.set_epoch(presented.epoch);
                Ok(connection)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.endpoint.timed_out()),
        }
    }

    /// One attempt, without its time limit.
    async fn try_connect(
        &self,
        endpoint: &Endpoint,
        handshake: &Handshake,
        deadline: Deadline,
        closed: impl FnOnce() + Send + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        // Plain streams are driven by their own type: boxed, each read and write would be a virtual call.
        let connection = match endpoint.info.addr() {
            ConnectionAddr::Tcp(host, port) => {
                self.drive(connect_tcp(endpoint, host, *port).await?, closed)
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => self.drive(UnixStream::connect(path).await?, closed),
            _ => self.drive(connect_stream(endpoint).await?, closed),
        };
        run_handshake(endpoint, &connection, handshake, deadline).await?;
        Ok(connection)
    }

    /// Spawns the driver of `stream` on this runtime and returns the handle of the connection. `closed` is
    /// called when it ends.
    fn drive<S>(&self, stream: S, closed: impl FnOnce() + Send + 'static) -> MultiplexedConnection
    where
        S: Duplex + 'static,
    {
        let queue = Arc::new(SendQueue::default());
        let backoff = Arc::clone(&self.backoff);
        let driver = Driver::new(stream, Arc::clone(&queue), self.coalescing, backoff)
            .with_pushes(self.endpoint.pushes.clone());
        tokio::spawn(async move {
            driver.await;
            closed();
        });
        MultiplexedConnection::new(queue, current_thread_runtime())
    }
}

/// Reads once into the decoder's spare room and returns the number of bytes. Dropping the future loses
/// nothing.
pub(crate) async fn read(
    stream: &mut Box<dyn Duplex>,
    decoder: &mut ReplyDecoder,
) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut room = ReadBuf::new(decoder.spare_mut());
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        Poll::Ready(match room.filled().len() {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => Ok(count),
        })
    })
    .await
}

/// The runtime of the caller if it is a current-thread one: tasks on it only run inside `block_on`, so other
/// runtimes cannot rely on them.
pub(crate) fn current_thread_runtime() -> Option<Id> {
    let handle = Handle::try_current().ok()?;
    let is_blocked_on = handle.runtime_flavor() == RuntimeFlavor::CurrentThread;
    is_blocked_on.then(|| handle.id())
}
