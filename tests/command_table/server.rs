//! A server of our own, and what it says about its commands.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::{Connection, FromRedisValue, Value};
use redis_sharding::command::write_command;
use redis_test::server::RedisServer;

/// Says that the tests may pass without a server.
const SKIP: &str = "REDIS_SHARDING_SKIP_SERVER_TESTS";

/// A server on a free loopback port; stops when dropped.
pub struct Server {
    pub connection: Connection,
    pub facts: Vec<Fact>,
    _process: RedisServer,
}

/// What COMMAND says about one command or subcommand.
#[derive(Debug)]
pub struct Fact {
    /// As our table calls it: `CONFIG|GET`.
    pub name: String,
    pub arity: i64,
    pub flags: BTreeSet<String>,
    pub tips: Vec<String>,
    /// Where its key specs say that a number of keys stands.
    pub count_at: Option<usize>,
    pub has_subcommands: bool,
}

/// What COMMAND GETKEYS says.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    Found(Vec<Vec<u8>>),
    None,
    WrongArity,
    Invalid,
    /// 7.0 does not take the question when it is about a name alone.
    Unasked,
}

impl Server {
    /// Starts the binary named by `REDISRS_SERVER_BIN`, or else `redis-server`.
    ///
    /// `None` when there is none and the environment allows that.
    pub fn start() -> Option<Self> {
        let binary = std::env::var("REDISRS_SERVER_BIN").unwrap_or_else(|_| "redis-server".into());
        if let Err(error) = std::process::Command::new(&binary)
            .arg("--version")
            .output()
        {
            let skip = std::env::var_os(SKIP).is_some();
            assert!(
                skip,
                "{binary}: {error}; set REDISRS_SERVER_BIN, or {SKIP}=1 to do without"
            );
            eprintln!("SKIPPED: {binary}: {error}");
            return None;
        }
        // Loopback, a free port and `--save ""` are redis-test's defaults.
        let process = RedisServer::new();
        let client = redis::Client::open(process.connection_info()).unwrap();
        let mut connection = (0..100)
            .find_map(|_| {
                std::thread::sleep(Duration::from_millis(50));
                client
                    .get_connection_with_timeout(Duration::from_secs(1))
                    .ok()
            })
            .expect("the server answers within five seconds");
        connection
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut facts = Vec::new();
        for entry in redis::cmd("COMMAND")
            .query::<Vec<Value>>(&mut connection)
            .unwrap()
        {
            Fact::read(&entry, &mut facts);
        }
        facts.sort_by(|one, other| one.name.cmp(&other.name));
        Some(Self {
            connection,
            facts,
            _process: process,
        })
    }

    /// Sends all requests at once; error replies are `Value::ServerError`.
    pub fn ask<A: AsRef<[u8]>>(&mut self, requests: &[Vec<A>]) -> Vec<Value> {
        let mut packed = Vec::new();
        for request in requests {
            let args: Vec<&[u8]> = request.iter().map(AsRef::as_ref).collect();
            write_command(&mut packed, &args);
        }
        self.connection.send_packed_command(&packed).unwrap();
        let mut answer = |request: &Vec<A>| {
            let shown = || {
                request
                    .iter()
                    .map(|arg| String::from_utf8_lossy(arg.as_ref()))
                    .collect::<Vec<_>>()
            };
            self.connection
                .recv_response()
                .unwrap_or_else(|error| panic!("{:?}: {error}", shown()))
        };
        requests.iter().map(&mut answer).collect()
    }

    pub fn keys_of(&mut self, requests: &[Vec<Vec<u8>>]) -> Vec<Keys> {
        let asked: Vec<Vec<&[u8]>> = requests
            .iter()
            .map(|request| {
                let prefix: [&[u8]; 2] = [b"COMMAND", b"GETKEYS"];
                prefix
                    .into_iter()
                    .chain(request.iter().map(Vec::as_slice))
                    .collect()
            })
            .collect();
        self.ask(&asked).into_iter().map(Keys::read).collect()
    }
}

impl Fact {
    fn read(entry: &Value, facts: &mut Vec<Self>) {
        let Value::Array(fields) = entry else {
            panic!("COMMAND answered {entry:?}")
        };
        let subcommands: Vec<Value> = of(&fields[9]);
        facts.push(Self {
            name: of::<String>(&fields[0]).to_ascii_uppercase(),
            arity: of(&fields[1]),
            flags: of::<Vec<String>>(&fields[2]).into_iter().collect(),
            tips: of(&fields[7]),
            count_at: of::<Vec<Value>>(&fields[8]).iter().find_map(count_at),
            has_subcommands: !subcommands.is_empty(),
        });
        for subcommand in &subcommands {
            Self::read(subcommand, facts);
        }
    }

    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// The value of a tip, such as `request_policy`.
    pub fn tip(&self, name: &str) -> Option<&str> {
        self.tips
            .iter()
            .find_map(|tip| tip.strip_prefix(name)?.strip_prefix(':'))
    }
}

impl Keys {
    fn read(value: Value) -> Self {
        match value {
            Value::ServerError(error) => match error.details().unwrap_or_default() {
                text if text.contains("no key arguments") => Self::None,
                text if text.contains("Invalid number of arguments") => Self::WrongArity,
                text if text.contains("wrong number of arguments for 'command|getkeys'") => {
                    Self::Unasked
                }
                text if text.contains("Invalid arguments") => Self::Invalid,
                _ => panic!("COMMAND GETKEYS answered {error:?}"),
            },
            keys => match of::<Vec<Vec<u8>>>(&keys) {
                keys if keys.is_empty() => Self::None,
                keys => Self::Found(keys),
            },
        }
    }
}

/// The place of the number of keys, if the key spec has one that is found by index.
fn count_at(spec: &Value) -> Option<usize> {
    let begin = field(&field(spec, "begin_search")?, "spec")?;
    let find = field(&field(spec, "find_keys")?, "spec")?;
    let index: usize = of(&field(&begin, "index")?);
    let offset: usize = of(&field(&find, "keynumidx")?);
    Some(index + offset)
}

fn field(map: &Value, name: &str) -> Option<Value> {
    let Value::Array(pairs) = map else {
        return None;
    };
    let at = pairs
        .chunks(2)
        .find(|pair| of::<String>(&pair[0]) == name)?;
    Some(at[1].clone())
}

fn of<T: FromRedisValue>(value: &Value) -> T {
    T::from_redis_value_ref(value).unwrap_or_else(|error| panic!("{value:?}: {error}"))
}
