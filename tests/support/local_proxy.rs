//! A proxy in this process, and a program that talks to it over a socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use redis_sharding::Builder;
use redis_sharding::proxy::Proxy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy that listens on a free port until it is dropped.
pub struct LocalProxy {
    pub proxy: Proxy,
    address: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl LocalProxy {
    pub fn open(builder: Builder) -> Self {
        Self::open_for(builder.build_proxy().unwrap())
    }

    pub fn open_for(proxy: Proxy) -> Self {
        Self::open_with(proxy, |proxy, stream| async move {
            proxy.serve_tcp(stream).await
        })
    }

    /// Clients come over TLS.
    #[cfg(feature = "tokio-rustls-comp")]
    pub fn open_tls(proxy: Proxy, acceptor: tokio_rustls::TlsAcceptor) -> Self {
        Self::open_with(proxy, move |proxy, stream| {
            let acceptor = acceptor.clone();
            async move {
                let stream = acceptor.accept(stream).await?;
                proxy.serve(stream, "peer", "local").await
            }
        })
    }

    fn open_with<F>(
        proxy: Proxy,
        serve_one: impl Fn(Proxy, TcpStream) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let served = proxy.clone();
        let (close, closed) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    _ = closed => {}
                    _ = serve(listener, served.clone(), serve_one) => {}
                }
                served.stop();
                served.drain(Duration::from_secs(5)).await;
            });
        });
        Self {
            proxy,
            address: told.recv().unwrap(),
            close: Some(close),
            thread: Some(thread),
        }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn talk(&self) -> RawClient {
        RawClient::connect(&self.address())
    }
}

async fn serve<F>(listener: TcpListener, proxy: Proxy, serve_one: impl Fn(Proxy, TcpStream) -> F)
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve_one(proxy.clone(), stream));
    }
}

impl Drop for LocalProxy {
    fn drop(&mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program that speaks the wire format itself.
pub struct RawClient {
    input: BufReader<std::net::TcpStream>,
    stream: std::net::TcpStream,
}

impl RawClient {
    /// To a server or a proxy at `host:port`.
    pub fn connect(address: &str) -> Self {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            input: BufReader::new(stream.try_clone().unwrap()),
            stream,
        }
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends a request without waiting for its reply. Words are divided by blanks.
    pub fn say(&mut self, request: &str) {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        self.say_words(&words);
    }

    pub fn say_words(&mut self, words: &[&[u8]]) {
        let mut packed = Vec::new();
        redis_sharding::command::write_command(&mut packed, words);
        self.write(&packed);
    }

    /// The next reply, as it came, in text: nested replies follow each other, divided by blanks.
    pub fn hear(&mut self) -> String {
        self.try_hear().unwrap()
    }

    pub fn try_hear(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let number = line[1..].parse::<i64>().unwrap_or(-1);
        let inner = match (line.as_bytes()[0], number) {
            (b'$' | b'=', 0..) => {
                let mut text = vec![0; number as usize + 2];
                self.input.read_exact(&mut text)?;
                text.truncate(number as usize);
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            (b'*' | b'>' | b'~', 0..) => number,
            (b'%', 0..) => number * 2,
            _ => return Ok(line),
        };
        let mut text = line;
        for _ in 0..inner {
            text = format!("{text} {}", self.try_hear()?);
        }
        Ok(text)
    }

    /// Sends a request; its reply.
    pub fn ask(&mut self, request: &str) -> String {
        self.say(request);
        self.hear()
    }

    /// The same for words that may hold blanks.
    pub fn ask_words(&mut self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.say_words(&words);
        self.hear()
    }

    /// Whether the other side hangs up, after whatever it still has to say.
    pub fn is_hung_up_on(&mut self) -> bool {
        let mut rest = Vec::new();
        self.input.read_to_end(&mut rest).is_ok()
    }

    /// Whether nothing comes for a while.
    pub fn hears_nothing(&mut self) -> bool {
        let short = Some(Duration::from_millis(150));
        self.stream.set_read_timeout(short).unwrap();
        let nothing = matches!(self.input.fill_buf(), Err(error) if is_late(&error));
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        nothing
    }

    /// Says that no more requests will come; replies are still read.
    pub fn close_output(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Says that nothing more will come.
    pub fn hang_up(self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
