//! The options of a proxy, and the signals that stop it or let it read its topology again. Shared with the example `proxy`.

use std::io::{self, Write};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use redis_sharding::proxy::{ClusterMode, OutputLimit, Proxy, THREADS_MAX, parse_bytes};
use redis_sharding::{Builder, Error, PartialReads};

#[cfg(unix)]
use super::{fleet::Fleet, shown::shown};

/// Least time between two reports of connections that could not be accepted.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Options that both command lines have.
#[derive(Default)]
pub struct ProxyOptions {
    /// The password that clients must send.
    pub password: Option<String>,
    pub threads: Option<usize>,
    pub clients: Option<usize>,
    pub max_memory: Option<usize>,
    pub query_limit: Option<usize>,
    pub output_limits: Vec<(ClientClass, OutputLimit)>,
    pub tcp_keepalive: Option<Option<Duration>>,
    pub timeout: Option<Option<Duration>>,
    pub partial_reads: bool,
    pub cluster_mode: ClusterMode,
    /// Host and port.
    pub cluster_announce: Option<(String, u16)>,
}

/// Classes of clients with an output limit of their own: without subscriptions, and with.
#[derive(Clone, Copy, Debug)]
pub enum ClientClass {
    Normal,
    PubSub,
}

impl ProxyOptions {
    /// Builds the proxy.
    pub fn build(&self, mut builder: Builder) -> Result<Proxy, Error> {
        if self.partial_reads {
            builder = builder.partial_reads(PartialReads::Allowed);
        }
        if let Some(clients) = self.clients {
            builder = builder.max_clients(clients);
        }
        let mut proxy = builder.build_proxy()?.with_cluster_mode(self.cluster_mode);
        if let Some((host, port)) = &self.cluster_announce {
            proxy = proxy.with_cluster_announce(host, *port);
        }
        if let Some(password) = &self.password {
            proxy = proxy.with_password(password);
        }
        if let Some(bytes) = self.max_memory {
            proxy = proxy.with_memory_limit(bytes);
        }
        if let Some(bytes) = self.query_limit {
            proxy = proxy.with_query_limit(bytes);
        }
        if let Some(idle) = self.tcp_keepalive {
            proxy = proxy.with_tcp_keepalive(idle);
        }
        if let Some(timeout) = self.timeout {
            proxy = proxy.with_idle_timeout(timeout);
        }
        for (class, limit) in &self.output_limits {
            proxy = match class {
                ClientClass::Normal => proxy.with_output_limit(*limit),
                ClientClass::PubSub => proxy.with_pub_sub_output_limit(*limit),
            };
        }
        Ok(proxy)
    }

    /// The number of threads. By default half of the cores: with fewer threads each sends more requests in
    /// one write, and servers on this machine need cores too.
    pub fn threads(&self) -> Result<usize, String> {
        let half = || thread::available_parallelism().map_or(1, |cores| cores.get() / 2);
        match self.threads {
            None => Ok(half().clamp(1, THREADS_MAX)),
            Some(threads) if (1..=THREADS_MAX).contains(&threads) => Ok(threads),
            Some(threads) => Err(format!(
                "--threads is {threads}, but must be in 1..={THREADS_MAX}"
            )),
        }
    }
}

/// Parses the password in a file that the command line names: its text up to a line break at the end.
pub fn password(text: &str, file: &str) -> Result<String, String> {
    match text.trim_end_matches(['\r', '\n']) {
        // Every client would be let in, which nobody means who names a file.
        "" => Err(format!("{file} holds no password")),
        password => Ok(password.to_owned()),
    }
}

/// Parses what programs are told that ask for a Redis Cluster.
pub fn cluster_mode(value: &str) -> Result<ClusterMode, String> {
    match value {
        "disabled" => Ok(ClusterMode::Disabled),
        "emulated" => Ok(ClusterMode::Emulated),
        _ => Err("--cluster-mode is disabled or emulated".into()),
    }
}

/// Parses the address at which clients reach the proxy: `host:port`, with an IPv6 host in brackets.
pub fn cluster_announce(value: &str) -> Result<(String, u16), String> {
    let error = || "--cluster-announce takes host:port, such as proxy.example:7000".to_owned();
    let (host, port) = value.rsplit_once(':').ok_or_else(error)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(host) => host,
        None if host.contains(':') => return Err(error()),
        None => host,
    };
    let odd = |letter: char| letter.is_whitespace() || matches!(letter, '/' | '@' | ',');
    let port = port.parse().ok().filter(|&port| port != 0);
    match port {
        Some(port) if !host.is_empty() && !host.contains(odd) => Ok((host.to_owned(), port)),
        _ => Err(error()),
    }
}

pub fn bytes(flag: &str, value: &str) -> Result<usize, String> {
    let bytes = parse_bytes(value);
    bytes.ok_or_else(|| format!("{flag} takes a number of bytes, such as 512mb"))
}

/// Parses seconds; zero means never.
pub fn seconds(flag: &str, value: &str) -> Result<Option<Duration>, String> {
    let seconds: u32 = value
        .parse()
        .map_err(|_| format!("{flag} takes a number of seconds"))?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

pub fn output_limit(value: &str) -> Result<(ClientClass, OutputLimit), String> {
    let flag = "--client-output-buffer-limit";
    let (class, limit) = value.split_once(' ').unwrap_or((value, ""));
    let class = match class {
        "normal" => ClientClass::Normal,
        "pubsub" => ClientClass::PubSub,
        _ => return Err(format!("{flag} begins with normal or pubsub")),
    };
    let limit = limit.parse().map_err(|error| format!("{flag}: {error}"))?;
    Ok((class, limit))
}

/// Returns a handler that writes errors of the listener to standard error, at most one a second.
pub fn accept_error_reporter(program: &'static str) -> impl Fn(&io::Error) + Send + Sync {
    let last: Mutex<Option<Instant>> = Mutex::new(None);
    move |error| {
        // A panic while the lock was held leaves a time, which is as good as any.
        let mut last = last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if last.is_none_or(|last| last.elapsed() >= REPORT_EVERY) {
            *last = Some(Instant::now());
            // Nobody may read it; the proxy goes on.
            let _ = writeln!(
                io::stderr(),
                "{program}: a connection could not be accepted: {error}"
            );
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
#[cfg(unix)]
pub async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Waits for Ctrl-C.
#[cfg(not(unix))]
pub async fn shutdown_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// The SIGHUP signals that this process gets. Until there is one of these, SIGHUP ends the process.
#[cfg(unix)]
pub struct Hangups(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangups {
    /// Catches the signals from now on. Needs a runtime.
    pub fn catch() -> io::Result<Self> {
        let kind = tokio::signal::unix::SignalKind::hangup();
        tokio::signal::unix::signal(kind).map(Self)
    }

    /// Takes the topology in `file` over on each signal, and reports the outcome to standard error. Never ends.
    pub async fn reload(mut self, program: &'static str, proxy: Proxy, file: Option<String>) {
        while self.0.recv().await.is_some() {
            let (proxy, file) = (proxy.clone(), file.clone());
            // Placing many nodes takes a while.
            let reloaded = tokio::task::spawn_blocking(move || reload(&proxy, file.as_deref()));
            let outcome = reloaded.await.unwrap_or_else(|error| error.to_string());
            // Nobody may read it; the proxy goes on.
            let _ = writeln!(io::stderr(), "{program}: {outcome}");
        }
    }
}

/// Takes the topology in the file over. Returns the outcome for a log.
#[cfg(unix)]
fn reload(proxy: &Proxy, file: Option<&str>) -> String {
    let Some(file) = file else {
        return "SIGHUP reloads the topology, but the nodes are not from a --topology file".into();
    };
    let reloaded = Fleet::read_topology(file).and_then(|fleet| {
        let done = proxy.set_topology(&fleet.topology);
        done.map(|()| fleet.names.len())
            .map_err(|error| format!("{}: {error}", shown(file)))
    });
    match reloaded {
        Ok(nodes) => format!("topology reloaded from {}: {nodes} nodes", shown(file)),
        Err(error) => format!("topology not reloaded: {error}"),
    }
}

/// No such signal on this system.
#[cfg(not(unix))]
pub struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    pub fn catch() -> io::Result<Self> {
        Ok(Self)
    }

    pub async fn reload(self, _: &'static str, _: Proxy, _: Option<String>) {}
}
