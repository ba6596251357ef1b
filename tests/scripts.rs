//! Scripts and functions over many servers, as if they were one: nodes that lack them, pipelines, transactions, scripts
//! without keys. Every test is run through both clients.
#![cfg(all(feature = "script", feature = "tokio-comp"))]

mod support;

use std::fmt;

use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Script, Value, cmd, pipe};
use redis_sharding::{ErrorKind, ShardedClient, aio};
use support::Servers;
use tokio::runtime::Runtime;

/// A client of either kind.
enum Client {
    Blocking(ShardedClient),
    Async(aio::ShardedClient, Runtime),
}

impl Client {
    /// One of each kind over its own fresh servers, one after the other.
    fn each(nodes: usize, test: impl Fn(&Servers, &mut Self)) {
        for asynchronously in [false, true] {
            let Some(servers) = Servers::start(nodes) else {
                return;
            };
            test(&servers, &mut Self::over(&servers, asynchronously));
        }
    }

    fn over(servers: &Servers, asynchronously: bool) -> Self {
        let builder = support::builder(servers);
        match asynchronously {
            false => Self::Blocking(builder.build().unwrap()),
            true => {
                let runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = { runtime }.enable_all().build().unwrap();
                Self::Async(builder.build_async().unwrap(), runtime)
            }
        }
    }

    fn run<T: FromRedisValue>(&mut self, cmd: &Cmd) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => cmd.query(client),
            Self::Async(client, runtime) => runtime.block_on(cmd.query_async(client)),
        }
    }

    fn pipe<T: FromRedisValue>(&mut self, pipeline: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => pipeline.query(client),
            Self::Async(client, runtime) => runtime.block_on(pipeline.query_async(client)),
        }
    }

    fn invoke<T: FromRedisValue>(&mut self, script: &Script, key: &str) -> RedisResult<T> {
        let invocation = script.key(key);
        match self {
            Self::Blocking(client) => invocation.invoke(client),
            Self::Async(client, runtime) => runtime.block_on(invocation.invoke_async(client)),
        }
    }

    fn node<T: FromRedisValue>(&mut self, number: usize, cmd: &Cmd) -> RedisResult<T> {
        let name = format!("node-{number}");
        match self {
            Self::Blocking(client) => cmd.query(&mut client.node(&name).unwrap()),
            Self::Async(client, runtime) => {
                runtime.block_on(cmd.query_async(&mut client.node(&name).unwrap()))
            }
        }
    }

    /// On a private connection to the owner of `key`.
    fn dedicated<T: FromRedisValue>(&mut self, key: &str, cmd: &Cmd) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => cmd.query(&mut client.dedicated(key).unwrap()),
            Self::Async(client, runtime) => runtime.block_on(async {
                cmd.query_async(&mut client.dedicated(key).await.unwrap())
                    .await
            }),
        }
    }

    fn transaction<T: FromRedisValue>(&mut self, key: &str, filled: &Pipeline) -> RedisResult<T> {
        match self {
            Self::Blocking(client) => client.transaction(key, |connection, pipe| {
                pipe.clone_from(filled);
                pipe.query(connection)
            }),
            Self::Async(client, runtime) => {
                runtime.block_on(client.transaction(key, async |connection, pipe| {
                    pipe.clone_from(filled);
                    pipe.query_async(connection).await
                }))
            }
        }
    }

    fn explain(&self, cmd: &Cmd) -> String {
        let explained = match self {
            Self::Blocking(client) => client.explain(cmd),
            Self::Async(client, _) => client.explain(cmd),
        };
        explained.map_or_else(|error| error.to_string(), |plan| plan.to_string())
    }

    /// Two keys of every node, in node order.
    fn keys(&self) -> Vec<[String; 2]> {
        let topology = match self {
            Self::Blocking(client) => client.topology(),
            Self::Async(client, _) => client.topology(),
        };
        let of_node = |node| {
            let mut keys = (0..)
                .map(|number| format!("key:{number}"))
                .filter(|key| topology.locate(key.as_bytes()) == Some(node));
            [keys.next().unwrap(), keys.next().unwrap()]
        };
        topology.indices().map(of_node).collect()
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocking(_) => "blocking",
            Self::Async(..) => "async",
        })
    }
}

fn words(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command
}

fn load(source: &str) -> Cmd {
    cmd("SCRIPT").arg("LOAD").arg(source).clone()
}

fn evalsha(sum: &str, key: &str) -> Cmd {
    cmd("EVALSHA").arg(sum).arg(1).arg(key).clone()
}

fn fcall(function: &str, key: &str) -> Cmd {
    cmd("FCALL").arg(function).arg(1).arg(key).clone()
}

/// Somebody else makes a server forget all scripts and libraries.
fn empty(servers: &Servers, node: usize) {
    let mut connection = servers.connection(node);
    words("SCRIPT FLUSH").exec(&mut connection).unwrap();
    words("FUNCTION FLUSH").exec(&mut connection).unwrap();
}

fn empty_all(servers: &Servers) {
    (0..servers.len()).for_each(|node| empty(servers, node));
}

/// Starts a server again, empty, and has the client notice that its connections are gone.
fn restart(servers: &Servers, client: &mut Client, node: usize) {
    servers.restart(node);
    for _ in 0..100 {
        if client.run::<Value>(&words("DBSIZE")).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the client does not find the server again");
}

const INCR: &str = "return redis.call('INCR', KEYS[1])";

const LIBRARY: &str = "#!lua name=counters
redis.register_function('up', function(keys) return redis.call('INCR', keys[1]) end)";

const CLOCK: &str = "#!lua name=clocks
redis.register_function('tick', function() return redis.call('ECHO', 'tick') end)";

fn function_load(code: &str) -> Cmd {
    cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(code).clone()
}

fn code(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

#[test]
fn evalsha_loads_the_script_on_a_node_that_lacks_it() {
    Client::each(3, |servers, client| {
        let keys = client.keys();
        // EVAL leaves it with one node only.
        let eval = cmd("EVAL").arg(INCR).arg(1).arg(&keys[0][0]).clone();
        assert_eq!(client.run(&eval), Ok(1));
        let script = Script::new(INCR);
        let sum = script.get_hash();
        for [key, other] in &keys {
            let before: i64 = client.run(&evalsha(sum, key)).unwrap();
            assert_eq!(
                client.run(&evalsha(&sum.to_uppercase(), key)),
                Ok(before + 1)
            );
            assert_eq!(client.run(&evalsha(sum, other)), Ok(1));
        }
        empty_all(servers);
        for [key, _] in &keys {
            let read = cmd("EVALSHA_RO").arg(sum).arg(1).arg(key).clone();
            let refused = client.run::<Value>(&read).unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("Write commands are not allowed"),
                "it was found, and run: {refused}"
            );
        }
        restart(servers, client, 1);
        assert_eq!(client.run(&evalsha(sum, &keys[1][0])), Ok(1));
        assert_eq!(client.invoke(&script, &keys[2][0]), Ok(3));
    });
}

#[test]
fn evalsha_of_an_unknown_script_is_noscript() {
    Client::each(2, |servers, client| {
        let keys = client.keys();
        let script = Script::new(INCR);
        let error = client
            .run::<Value>(&evalsha(script.get_hash(), &keys[0][0]))
            .unwrap_err();
        assert_eq!(code(&error), "NOSCRIPT");
        let error = client
            .pipe::<Value>(pipe().add_command(evalsha(script.get_hash(), &keys[1][0])))
            .unwrap_err();
        assert_eq!(error.into_server_errors().unwrap()[0].1.code(), "NOSCRIPT");
        assert_eq!(client.invoke(&script, &keys[0][0]), Ok(1));
        empty_all(servers);
        assert_eq!(client.invoke(&script, &keys[0][0]), Ok(2));
    });
}

#[test]
fn pipeline_with_evalsha_keeps_its_order_on_nodes_that_lack_the_script() {
    Client::each(3, |servers, client| {
        let keys = client.keys();
        let sum: String = client.run(&load(INCR)).unwrap();
        let mut pipeline = pipe();
        let mut wanted: Vec<i64> = Vec::new();
        for [one, other] in &keys {
            for key in [one, other] {
                pipeline
                    .add_command(evalsha(&sum, key))
                    .get(key)
                    .add_command(evalsha(&sum, key))
                    .get(key);
                wanted.extend([1, 1, 2, 2]);
            }
        }
        empty_all(servers);
        assert_eq!(client.pipe(&pipeline), Ok(wanted.clone()), "{client}");
        restart(servers, client, 1);
        let wanted: Vec<i64> = (0..)
            .zip(wanted)
            .map(|(at, value)| if at / 8 == 1 { value } else { value + 2 })
            .collect();
        assert_eq!(client.pipe(&pipeline), Ok(wanted), "{client}");
        // Each node was given the source once.
        for node in 0..servers.len() {
            let stats: redis::InfoDict = client.node(node, &words("INFO commandstats")).unwrap();
            let calls = |name: &str| -> Option<String> {
                let stat: String = stats.get(&format!("cmdstat_{name}"))?;
                Some(stat.split(',').next()?.to_owned())
            };
            let twice = if node == 1 { "calls=1" } else { "calls=2" };
            assert_eq!(calls("eval").as_deref(), Some(twice));
        }
    });
}

#[test]
fn evalsha_in_a_pipeline_runs_a_script_loaded_earlier_in_it_on_another_node() {
    Client::each(2, |_, client| {
        let keys = client.keys();
        let script = Script::new(INCR);
        let sum = script.get_hash();
        let pipeline = pipe()
            .cmd("EVAL")
            .arg(INCR)
            .arg(1)
            .arg(&keys[0][0])
            .add_command(evalsha(sum, &keys[1][0]))
            .add_command(evalsha(sum, &keys[0][0]))
            .cmd("SCRIPT")
            .arg("EXISTS")
            .arg(sum)
            .clone();
        let all: (i64, i64, i64, [i64; 1]) = client.pipe(&pipeline).unwrap();
        assert_eq!(all, (1, 1, 2, [1]));
        let flushed = pipe()
            .cmd("SCRIPT")
            .arg("FLUSH")
            .ignore()
            .cmd("SCRIPT")
            .arg("EXISTS")
            .arg(sum)
            .add_command(evalsha(sum, &keys[1][0]))
            .ignore_errors()
            .clone();
        let (exists, run): ([i64; 1], RedisResult<i64>) = client.pipe(&flushed).unwrap();
        assert_eq!(exists, [0]);
        assert_eq!(code(&run.unwrap_err()), "NOSCRIPT");
        let pipeline = pipe()
            .load_script(&script)
            .ignore()
            .invoke_script(&script.key(&keys[1][0]))
            .clone();
        assert_eq!(client.pipe(&pipeline), Ok((2,)));
    });
}

#[test]
fn atomic_pipeline_with_evalsha_and_fcall_works_on_a_node_that_lacks_them() {
    Client::each(2, |servers, client| {
        let sum: String = client.run(&load(INCR)).unwrap();
        client.run::<Value>(&function_load(LIBRARY)).unwrap();
        client.run::<Value>(&function_load(CLOCK)).unwrap();
        let filled = pipe()
            .atomic()
            .add_command(evalsha(&sum, "{t}n"))
            .get("{t}n")
            .add_command(evalsha(&sum, "{t}n"))
            .add_command(fcall("up", "{t}n"))
            .add_command(words("EVAL return{} 0"))
            .ignore()
            .get("{t}n")
            .clone();
        empty_all(servers);
        let all: [i64; 5] = client.pipe(&filled).unwrap();
        assert_eq!(all, [1, 1, 2, 3, 3], "{client}");
        empty_all(servers);
        let all: [i64; 5] = client.transaction("{t}n", &filled).unwrap();
        assert_eq!(all, [4, 4, 5, 6, 6], "{client}");
        // Once more, where all is there: loading a library again changes nothing.
        let all: [i64; 5] = client.pipe(&filled).unwrap();
        assert_eq!(all, [7, 7, 8, 9, 9], "{client}");
        // A script that first went through a transaction is known afterwards.
        let source = "return redis.call('GET', KEYS[1])";
        let eval = cmd("EVAL").arg(source).arg(1).arg("{t}n").clone();
        let _: (i64,) = client.pipe(pipe().atomic().add_command(eval)).unwrap();
        empty_all(servers);
        let sum = Script::new(source).get_hash().to_owned();
        assert_eq!(client.run(&evalsha(&sum, "{t}n")), Ok(9));
        let aborted = pipe()
            .atomic()
            .add_command(fcall("up", "{t}n"))
            .cmd("GET")
            .clone();
        let error = client.pipe::<Value>(&aborted).unwrap_err();
        assert_ne!(error.to_string(), "", "{error}");
        assert_eq!(client.run(&words("GET {t}n")), Ok(9), "nothing was done");
    });
}

#[test]
fn fcall_loads_the_library_on_a_node_that_lacks_it() {
    Client::each(3, |servers, client| {
        let keys = client.keys();
        let unknown = client.run::<Value>(&fcall("up", &keys[0][0])).unwrap_err();
        assert!(
            unknown.to_string().contains("Function not found"),
            "{unknown}"
        );
        client.run::<Value>(&function_load(LIBRARY)).unwrap();
        restart(servers, client, 1);
        for [key, _] in &keys {
            assert_eq!(client.run(&fcall("up", key)), Ok(1), "{client}");
        }
        empty_all(servers);
        let mut pipeline = pipe();
        for [key, other] in &keys {
            pipeline
                .add_command(fcall("up", key))
                .add_command(fcall("UP", other));
        }
        assert_eq!(
            client.pipe(&pipeline),
            Ok(vec![2, 1, 2, 1, 2, 1]),
            "{client}"
        );
        let other = fcall("nosuch", &keys[0][0]);
        let unknown = client.run::<Value>(&other).unwrap_err();
        assert!(
            unknown.to_string().contains("Function not found"),
            "{unknown}"
        );
        client
            .run::<Value>(&words("FUNCTION DELETE counters"))
            .unwrap();
        let deleted = client.run::<Value>(&fcall("up", &keys[0][0])).unwrap_err();
        assert!(
            deleted.to_string().contains("Function not found"),
            "{deleted}"
        );
    });
}

#[test]
fn function_restore_is_repeated_on_a_node_that_lacks_the_libraries() {
    Client::each(2, |servers, client| {
        let keys = client.keys();
        client.run::<Value>(&function_load(LIBRARY)).unwrap();
        let dump: Vec<u8> = client.run(&words("FUNCTION DUMP")).unwrap();
        client.run::<Value>(&words("FUNCTION FLUSH")).unwrap();
        let restore = cmd("FUNCTION").arg("RESTORE").arg(&dump).clone();
        client.run::<Value>(&restore).unwrap();
        for round in 1..=2 {
            empty_all(servers);
            for [key, _] in &keys {
                let whole = pipe().atomic().add_command(fcall("up", key)).clone();
                match round {
                    1 => assert_eq!(client.run(&fcall("up", key)), Ok(1)),
                    _ => assert_eq!(client.pipe(&whole), Ok((2,))),
                }
            }
        }
    });
}

#[test]
fn script_exists_is_true_when_the_script_can_run_on_every_node() {
    Client::each(2, |servers, client| {
        let keys = client.keys();
        let sum = Script::new(INCR).get_hash().to_owned();
        let exists = cmd("SCRIPT").arg("EXISTS").arg(&sum).arg("ffff").clone();
        assert_eq!(client.run(&exists), Ok([0, 0]));
        let eval = cmd("EVAL").arg(INCR).arg(1).arg(&keys[0][0]).clone();
        client.run::<Value>(&eval).unwrap();
        assert_eq!(client.run(&exists), Ok([1, 0]));
        empty_all(servers);
        assert_eq!(client.run(&exists), Ok([1, 0]));
        assert_eq!(client.node(0, &exists), Ok([0, 0]), "of one server");
        client.run::<Value>(&words("SCRIPT FLUSH")).unwrap();
        assert_eq!(client.run(&exists), Ok([0, 0]));
        let error = client
            .run::<Value>(&evalsha(&sum, &keys[0][0]))
            .unwrap_err();
        assert_eq!(code(&error), "NOSCRIPT");
    });
}

#[test]
fn eval_and_evalsha_without_keys_are_routed_by_the_keys_in_the_text() {
    Client::each(3, |servers, client| {
        let clock = "return redis.call('ECHO', ARGV[1])";
        let eval = cmd("EVAL").arg(clock).arg(0).arg("x").clone();
        assert!(
            client.explain(&eval).contains("any one node"),
            "{}",
            client.explain(&eval)
        );
        assert_eq!(client.run(&eval), Ok("x".to_owned()));
        let sum = Script::new(clock).get_hash().to_owned();
        let by_sum = cmd("EVALSHA").arg(&sum).arg(0).arg("y").clone();
        assert!(client.explain(&by_sum).contains("any one node"));
        empty_all(servers);
        assert_eq!(client.run(&by_sum), Ok("y".to_owned()));
        empty_all(servers);
        assert_eq!(
            client.pipe(pipe().add_command(by_sum.clone())),
            Ok(("y".to_owned(),))
        );

        for number in 0..10 {
            let set = format!("return redis.call('SET', 'key:{number}', 'v')");
            assert_eq!(client.run(cmd("EVAL").arg(set).arg(0)), Ok("OK".to_owned()));
            let get = words(&format!("GET key:{number}"));
            assert_eq!(
                client.run(&get),
                Ok("v".to_owned()),
                "it is where it belongs"
            );
        }

        let harmful = cmd("EVAL")
            .arg("return redis.call('GET', 'k' .. 1)")
            .arg(0)
            .clone();
        let error = client.run::<Value>(&harmful).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable);
        assert!(
            error
                .to_string()
                .contains("declare its keys, or name a node with `client.node(name)`"),
            "{error}"
        );
        assert_eq!(client.node(2, &harmful), Ok(None::<String>));
        // What the node was told the client knows, and judges alike.
        let by_sum = Script::new("return redis.call('GET', 'k' .. 1)")
            .get_hash()
            .to_owned();
        let by_sum = cmd("EVALSHA").arg(by_sum).arg(0).clone();
        let error = client.run::<Value>(&by_sum).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable);
        assert_eq!(client.dedicated("k", &by_sum), Ok(None::<String>));

        let mut unknown = cmd("EVALSHA");
        unknown
            .arg("e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
            .arg(0);
        let error = client.run::<Value>(&unknown).unwrap_err();
        assert_eq!(code(&error), "NOSCRIPT");
        assert_eq!(error.detail(), Some("No matching script. Please use EVAL."));
        match client {
            Client::Blocking(client) => {
                assert_eq!(Script::new("return 1").invoke(client), Ok(1));
            }
            Client::Async(client, runtime) => {
                let script = Script::new("return 1");
                assert_eq!(runtime.block_on(script.invoke_async(client)), Ok(1));
            }
        }
    });
}

#[test]
fn fcall_without_keys_runs_on_any_node_when_its_library_touches_no_data() {
    Client::each(2, |servers, client| {
        let tick = words("FCALL tick 0");
        let unknown = client.run::<Value>(&tick).unwrap_err();
        assert_eq!(unknown.detail(), Some("Function not found"));
        client.run::<Value>(&function_load(CLOCK)).unwrap();
        client.run::<Value>(&function_load(LIBRARY)).unwrap();
        assert_eq!(client.run(&tick), Ok("tick".to_owned()));
        empty_all(servers);
        assert_eq!(client.run(&tick), Ok("tick".to_owned()));
        let error = client.run::<Value>(&words("FCALL up 0")).unwrap_err();
        assert_eq!(ErrorKind::of(&error), ErrorKind::Unroutable);
        let both = pipe()
            .add_command(function_load(CLOCK))
            .ignore()
            .add_command(tick.clone())
            .clone();
        assert_eq!(client.pipe(&both), Ok(("tick".to_owned(),)));
    });
}

#[test]
fn wrong_numkeys_of_eval_evalsha_and_fcall_has_the_error_of_the_server() {
    Client::each(2, |servers, client| {
        client.run::<Value>(&load("return")).unwrap();
        client.run::<Value>(&function_load(CLOCK)).unwrap();
        let sum = Script::new("return").get_hash().to_owned();
        let mut server = servers.connection(0);
        for number in ["-1", "5", "x", "", "01", "+1", "99999999999999999999"] {
            for (name, what) in [
                ("EVAL", "return"),
                ("EVAL_RO", "return"),
                ("EVALSHA", sum.as_str()),
                ("EVALSHA_RO", "ffff"),
                ("FCALL", "tick"),
                ("FCALL_RO", "tick"),
            ] {
                let request = cmd(name).arg(what).arg(number).arg("a").clone();
                let theirs = request.query::<Value>(&mut server).unwrap_err();
                let ours = client.run::<Value>(&request).unwrap_err();
                assert_eq!(
                    (ours.code(), ours.detail()),
                    (theirs.code(), theirs.detail()),
                    "{name} {what} {number}"
                );
            }
        }
    });
}

#[test]
fn evalsha_and_fcall_recover_on_node_handles_and_dedicated_connections() {
    Client::each(2, |servers, client| {
        let key = &client.keys()[1][0];
        let sum: String = client.run(&load(INCR)).unwrap();
        client.run::<Value>(&function_load(LIBRARY)).unwrap();
        empty_all(servers);
        assert_eq!(client.node(1, &evalsha(&sum, key)), Ok(1));
        assert_eq!(client.node(1, &fcall("up", key)), Ok(2));
        empty_all(servers);
        assert_eq!(client.dedicated(key, &evalsha(&sum, key)), Ok(3));
        assert_eq!(client.dedicated(key, &fcall("up", key)), Ok(4));
        // What is loaded or flushed on one node is not taken for all.
        client.node::<Value>(1, &function_load(CLOCK)).unwrap();
        let unknown = client.run::<Value>(&words("FCALL tick 0")).unwrap_err();
        assert_eq!(unknown.detail(), Some("Function not found"));
        client.node::<Value>(1, &words("SCRIPT FLUSH")).unwrap();
        assert_eq!(client.run(&evalsha(&sum, key)), Ok(5));
    });
}

#[test]
fn evalsha_in_multi_on_a_dedicated_connection_recovers() {
    Client::each(2, |servers, client| {
        let sum: String = client.run(&load(INCR)).unwrap();
        empty_all(servers);
        let commands = [
            words("WATCH k"),
            words("MULTI"),
            evalsha(&sum, "k"),
            evalsha(&sum, "k"),
            words("EXEC"),
        ];
        let last = match client {
            Client::Blocking(client) => {
                let mut connection = client.dedicated("k").unwrap();
                let answers = commands.map(|command| command.query::<Value>(&mut connection));
                answers.into_iter().next_back().unwrap()
            }
            Client::Async(client, runtime) => runtime.block_on(async {
                let mut connection = client.dedicated("k").await.unwrap();
                let mut last = Ok(Value::Nil);
                for command in commands {
                    last = command.query_async::<Value>(&mut connection).await;
                }
                last
            }),
        };
        assert_eq!(last, Ok(Value::Array(vec![Value::Int(1), Value::Int(2)])));
    });
}

#[test]
fn script_cache_evicts_the_oldest_of_scripts_max_scripts() {
    Client::each(1, |servers, client| {
        let mut pipeline = pipe();
        for number in 0..=redis_sharding::SCRIPTS_MAX {
            pipeline
                .add_command(load(&format!("return {number}")))
                .ignore();
        }
        client.pipe::<()>(&pipeline).unwrap();
        empty_all(servers);
        let sum = |number: usize| {
            Script::new(&format!("return {number}"))
                .get_hash()
                .to_owned()
        };
        assert_eq!(client.run(&evalsha(&sum(1), "k")), Ok(1));
        let error = client.run::<Value>(&evalsha(&sum(0), "k")).unwrap_err();
        assert_eq!(code(&error), "NOSCRIPT");
    });
}

#[test]
fn fcall_without_keys_of_a_function_loaded_elsewhere_is_routed_by_function_list() {
    Client::each(3, |servers, client| {
        let missing = client.run::<Value>(&words("FCALL nosuch 0")).unwrap_err();
        assert_eq!(missing.detail(), Some("Function not found"));
        let harmless =
            "#!lua name=foreign\nredis.register_function('harmless', function() return 7 end)";
        let harmful = "#!lua name=harm\nredis.register_function('harmful', function(k, a) return redis.call('GET', a[1]) end)";
        for index in 0..servers.len() {
            for library in [harmless, harmful] {
                let mut load = cmd("FUNCTION");
                load.arg("LOAD")
                    .arg(library)
                    .exec(&mut servers.connection(index))
                    .unwrap();
            }
        }
        assert_eq!(client.run(&words("FCALL harmless 0")), Ok(7));
        let refused = client
            .run::<Value>(&words("FCALL harmful 0 k"))
            .unwrap_err();
        assert_eq!(ErrorKind::of(&refused), ErrorKind::Unroutable);
        let missing = client.run::<Value>(&words("FCALL nosuch 0")).unwrap_err();
        assert_eq!(missing.detail(), Some("Function not found"));
    });
}
