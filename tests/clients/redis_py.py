"""What programs do with redis-py, through a proxy: `redis_py.py PORT PROTOCOL`, protocol 2 or 3."""

import sys
import threading
import time

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.Redis(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True, socket_timeout=20)
checks = 0


def same(got, expected):
    global checks
    checks += 1
    assert got == expected, f"check {checks}: {got!r}, not {expected!r}"


def fails(error, part, call):
    global checks
    checks += 1
    try:
        got = call()
    except error as raised:
        assert part in str(raised), f"check {checks}: {raised}"
        return
    raise AssertionError(f"check {checks}: {got!r}, not an error")


def connect():
    same(r.ping(), True)
    same(r.echo("hello"), "hello")
    same(r.client_setname("me"), True)
    same(isinstance(r.client_id(), int), True)
    same(r.flushall(), True)
    same(r.dbsize(), 0)
    same("redis_version" in r.info(), True)
    same(r.config_get("maxmemory"), {"maxmemory": "0"})
    same(isinstance(r.time()[0], int), True)
    same(r.command_count() > 200, True)


def types():
    keys = [f"key:{number}" for number in range(100)]
    same(r.mset({key: key for key in keys}), True)
    same(r.mget(keys + ["missing"]), keys + [None])
    same(r.exists(*keys), 100)
    same(r.dbsize(), 100)
    same(sorted(r.keys("key:*")), sorted(keys))
    same(sorted(r.scan_iter("key:*", count=7)), sorted(keys))
    same(r.delete(*keys), 100)
    same(r.set("bytes", b"\x00\xff".decode("latin1")), True)
    same(r.set("short", "x", px=100_000, nx=True), True)
    same(r.set("short", "y", nx=True), None)
    same(0 < r.ttl("short") <= 100, True)
    same(r.hset("h", mapping={"a": 1, "b": "two"}), 2)
    same(r.hgetall("h"), {"a": "1", "b": "two"})
    same(dict(r.hscan_iter("h")), {"a": "1", "b": "two"})
    same(r.rpush("l", *range(5)), 5)
    same(r.lrange("l", 0, -1), ["0", "1", "2", "3", "4"])
    same(r.sadd("s", "a", "b"), 2)
    same(r.smembers("s"), {"a", "b"})
    same(r.sismember("s", "a"), 1)
    same(r.zadd("z", {"one": 1, "half": 0.5}), 2)
    same([tuple(pair) for pair in r.zrange("z", 0, -1, withscores=True)], [("half", 0.5), ("one", 1.0)])
    same(r.zscore("z", "half"), 0.5)
    same(r.xadd("x", {"f": "v"}, id="1-1"), "1-1")
    same(r.xrange("x"), [("1-1", {"f": "v"})])
    same(r.geoadd("g", (13.361389, 38.115556, "Palermo")), 1)
    same(round(r.geopos("g", "Palermo")[0][0], 3), 13.361)
    fails(redis.ResponseError, "WRONGTYPE", lambda: r.get("l"))
    fails(redis.ResponseError, "CROSSNODE", lambda: r.sunion([f"set:{number}" for number in range(50)]))
    fails(redis.ResponseError, "unknown command", lambda: r.execute_command("NOSUCH", "a", "b"))


def pipelines():
    with r.pipeline(transaction=False) as pipe:
        for number in range(500):
            pipe.set(f"p:{number}", number)
            pipe.get(f"p:{number}")
        replies = pipe.execute()
    same(replies[1::2], [str(number) for number in range(500)])
    with r.pipeline(transaction=False) as pipe:
        pipe.set("p:0", "x").incr("p:0").get("p:0")
        replies = pipe.execute(raise_on_error=False)
    same((replies[0], type(replies[1]).__name__, replies[2]), (True, "ResponseError", "x"))


def transactions():
    with r.pipeline(transaction=True) as pipe:
        replies = pipe.set("{t}n", 1).incr("{t}n").expire("{t}n", 100).get("{t}n").execute()
    same(replies, [True, 2, True, "2"])
    with r.pipeline(transaction=True) as pipe:
        for number in range(50):
            pipe.incr(f"apart:{number}")
        fails(redis.ResponseError, "CROSSNODE", pipe.execute)
    same(r.exists(*[f"apart:{number}" for number in range(50)]), 0)

    def increment(pipe):
        value = int(pipe.get("{t}n"))
        pipe.multi()
        pipe.set("{t}n", value + 1)

    def increments():
        for _ in range(20):
            r.transaction(increment, "{t}n")

    threads = [threading.Thread(target=increments) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    same(r.get("{t}n"), "82")
    with r.pipeline() as pipe:
        pipe.watch("{t}n")
        r.incr("{t}n")
        pipe.multi()
        pipe.set("{t}n", 0)
        fails(redis.WatchError, "", pipe.execute)
    same(r.get("{t}n"), "83")
    with r.lock("a lock", timeout=10):
        same(r.exists("a lock"), 1)
    same(r.exists("a lock"), 0)


def publish_and_subscribe():
    channels = [f"channel:{number}" for number in range(10)]
    listener = r.pubsub()
    listener.subscribe(*channels)
    listener.psubscribe("other:*")
    for _ in range(11):
        same(listener.get_message(timeout=10)["type"] in ("subscribe", "psubscribe"), True)
    for channel in channels + ["other:1"]:
        same(r.publish(channel, "to " + channel), 1)
    heard = [listener.get_message(timeout=10) for _ in range(11)]
    same(sorted(message["data"] for message in heard), sorted("to " + channel for channel in channels + ["other:1"]))
    same(sorted(r.pubsub_channels()), sorted(channels))
    same([(name, int(count)) for name, count in r.pubsub_numsub("channel:1", "nobody")], [("channel:1", 1), ("nobody", 0)])
    same(r.pubsub_numpat(), 1)
    listener.unsubscribe()
    listener.punsubscribe()
    listener.close()


def scripts():
    script = r.register_script("return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}")
    for number in range(20):
        same(script(keys=[f"script:{number}"], args=["x"]), [f"script:{number}", "x", 1])
    r.script_flush()
    same(script(keys=["script:0"], args=["x"])[2], 2)
    sha = r.script_load("return ARGV[1]")
    same(r.script_exists(sha, "0" * 40), [True, False])
    same([r.evalsha(sha, 1, f"any:{number}", number) for number in range(20)], [str(number) for number in range(20)])
    with r.pipeline(transaction=False) as pipe:
        for number in range(20):
            script(keys=[f"script:{number}"], args=["y"], client=pipe)
        same([reply[1] for reply in pipe.execute()], ["y"] * 20)
    fails(redis.ResponseError, "my error", lambda: r.eval("return redis.error_reply('my error')", 1, "k"))
    r.function_load("#!lua name=l\nredis.register_function('f', function(keys, args) return keys[1] end)", replace=True)
    same([r.fcall("f", 1, f"any:{number}") for number in range(20)], [f"any:{number}" for number in range(20)])
    r.function_flush()


def waiting():
    same(r.blpop(["nothing"], timeout=0.05), None)

    def later():
        time.sleep(0.05)
        r.rpush("queue", "job")

    threading.Thread(target=later).start()
    same(list(r.blpop(["queue"], timeout=10)), ["queue", "job"])
    r.xgroup_create("jobs", "workers", id="0", mkstream=True)
    r.xadd("jobs", {"n": "1"}, id="1-1")
    got = r.xreadgroup("workers", "w", {"jobs": ">"}, block=1000)
    entries = got["jobs"][0] if isinstance(got, dict) else got[0][1]
    same(entries, [("1-1", {"n": "1"})])
    same(r.xack("jobs", "workers", "1-1"), 1)


for part in (connect, types, pipelines, transactions, publish_and_subscribe, scripts, waiting):
    part()
r.flushall()
print(f"redis-py {redis.__version__}, protocol {protocol}: {checks} checks")
