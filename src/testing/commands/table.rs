//! The table of the commands that the node has.
//!
//! Not the table of `command`, which is under test: names and arities are written down once more.

use super::{Answer, Call, Command, Failure};
use super::{counters, expiry, hashes, keys, lists, pubsub, server, sets, strings, transactions};
use super::{upper, wrong_arity};

/// Returns the command of a request, or the error if the node does not have it, or the number of arguments is
/// wrong.
pub(in crate::testing) fn find(args: &[Vec<u8>]) -> Result<&'static Command, Failure> {
    let name = args.first().map(|name| upper(name)).unwrap_or_default();
    // A search through ninety rows is fast enough here.
    let Some(command) = TABLE.iter().find(|command| command.name == name) else {
        return Err(Failure::new(format!(
            "ERR unknown command '{name}': this in-process test node does not implement it; use a real server"
        )));
    };
    let count = i32::try_from(args.len()).unwrap_or(i32::MAX);
    let fits = match command.arity {
        exactly @ 0.. => count == exactly,
        at_least => count >= -at_least,
    };
    match fits {
        true => Ok(command),
        false => Err(wrong_arity(&name.to_ascii_lowercase())),
    }
}

/// One row: name, number of arguments, function.
const fn row(name: &'static str, arity: i32, run: fn(&mut Call<'_>) -> Answer) -> Command {
    Command { name, arity, run }
}

/// All commands, sorted by name.
static TABLE: &[Command] = &[
    row("APPEND", 3, strings::append),
    row("AUTH", -2, server::auth),
    row("BLPOP", -3, lists::blpop),
    row("BRPOP", -3, lists::brpop),
    row("CLIENT", -2, server::client),
    row("CONFIG", -2, server::config),
    row("DBSIZE", 1, keys::dbsize),
    row("DECR", 2, counters::decr),
    row("DECRBY", 3, counters::decrby),
    row("DEL", -2, keys::del),
    row("DISCARD", 1, transactions::discard),
    row("ECHO", 2, server::echo),
    row("EXEC", 1, transactions::exec),
    row("EXISTS", -2, keys::exists),
    row("EXPIRE", -3, expiry::expire),
    row("EXPIREAT", -3, expiry::expireat),
    row("EXPIRETIME", 2, expiry::expiretime),
    row("FLUSHALL", -1, keys::flush),
    row("FLUSHDB", -1, keys::flush),
    row("GET", 2, strings::get),
    row("GETDEL", 2, strings::getdel),
    row("GETEX", -2, strings::getex),
    row("GETRANGE", 4, strings::getrange),
    row("GETSET", 3, strings::getset),
    row("HDEL", -3, hashes::hdel),
    row("HELLO", -1, server::hello),
    row("HEXISTS", 3, hashes::hexists),
    row("HGET", 3, hashes::hget),
    row("HGETALL", 2, hashes::hgetall),
    row("HINCRBY", 4, hashes::hincrby),
    row("HKEYS", 2, hashes::hkeys),
    row("HLEN", 2, hashes::hlen),
    row("HMGET", -3, hashes::hmget),
    row("HMSET", -4, hashes::hmset),
    row("HSET", -4, hashes::hset),
    row("HSETNX", 4, hashes::hsetnx),
    row("HVALS", 2, hashes::hvals),
    row("INCR", 2, counters::incr),
    row("INCRBY", 3, counters::incrby),
    row("INCRBYFLOAT", 3, counters::incrbyfloat),
    row("INFO", -1, server::info),
    row("KEYS", 2, keys::keys),
    row("LLEN", 2, lists::llen),
    row("LPOP", -2, lists::lpop),
    row("LPUSH", -3, lists::lpush),
    row("LRANGE", 4, lists::lrange),
    row("MGET", -2, strings::mget),
    row("MSET", -3, strings::mset),
    row("MSETNX", -3, strings::msetnx),
    row("MULTI", 1, transactions::multi),
    row("PERSIST", 2, expiry::persist),
    row("PEXPIRE", -3, expiry::pexpire),
    row("PEXPIREAT", -3, expiry::pexpireat),
    row("PEXPIRETIME", 2, expiry::pexpiretime),
    row("PING", -1, server::ping),
    row("PSETEX", 4, strings::psetex),
    row("PSUBSCRIBE", -2, pubsub::psubscribe),
    row("PTTL", 2, expiry::pttl),
    row("PUBLISH", 3, pubsub::publish),
    row("PUNSUBSCRIBE", -1, pubsub::punsubscribe),
    row("QUIT", -1, server::quit),
    row("RANDOMKEY", 1, keys::randomkey),
    row("RENAME", 3, keys::rename),
    row("RENAMENX", 3, keys::renamenx),
    row("RESET", 1, server::reset),
    row("RPOP", -2, lists::rpop),
    row("RPUSH", -3, lists::rpush),
    row("SADD", -3, sets::sadd),
    row("SCAN", -2, keys::scan),
    row("SCARD", 2, sets::scard),
    row("SDIFF", -2, sets::sdiff),
    row("SELECT", 2, server::select),
    row("SET", -3, strings::set),
    row("SETEX", 4, strings::setex),
    row("SETNX", 3, strings::setnx),
    row("SETRANGE", 4, strings::setrange),
    row("SINTER", -2, sets::sinter),
    row("SISMEMBER", 3, sets::sismember),
    row("SMEMBERS", 2, sets::smembers),
    row("SREM", -3, sets::srem),
    row("STRLEN", 2, strings::strlen),
    row("SUBSCRIBE", -2, pubsub::subscribe),
    row("SUNION", -2, sets::sunion),
    row("TIME", 1, server::time),
    row("TOUCH", -2, keys::exists),
    row("TTL", 2, expiry::ttl),
    row("TYPE", 2, keys::kind),
    row("UNLINK", -2, keys::del),
    row("UNSUBSCRIBE", -1, pubsub::unsubscribe),
    row("UNWATCH", 1, transactions::unwatch),
    row("WAIT", 3, server::wait),
    row("WATCH", -2, transactions::watch),
];
