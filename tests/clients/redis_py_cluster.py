"""What programs do with redis-py's client for Redis Cluster, through a proxy that emulates one: `redis_py_cluster.py PORT
PROTOCOL`, protocol 2 or 3."""

import sys

import redis

port, protocol = int(sys.argv[1]), int(sys.argv[2])
r = redis.RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True, socket_timeout=20)
checks = 0


def same(got, expected):
    global checks
    checks += 1
    assert got == expected, f"check {checks}: {got!r}, not {expected!r}"


nodes = r.get_nodes()
same([(node.host, node.port, node.server_type) for node in nodes], [("127.0.0.1", port, "primary")])
same(r.ping(), True)
same(r.flushall(), True)
keys = [f"key:{number}" for number in range(100)]
for key in keys:
    same(r.set(key, key), True)
same([r.get(key) for key in keys], keys)
same(r.mget_nonatomic(keys), keys)
same(r.mset_nonatomic({key: "x" for key in keys}) is not None, True)
same(r.exists(*keys), 100)
same(r.dbsize(), 100)
same(sorted(r.scan_iter("key:*", count=7)), sorted(keys))
same(r.keyslot("key:1"), r.cluster_keyslot("key:1"))
same(r.delete(*keys), 100)
with r.pipeline() as pipe:
    for key in keys:
        pipe.incr(key)
    same(pipe.execute(), [1] * 100)
same(r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "x"), ["k", "x"])
same(list(r.blpop(["{q}none"], timeout=0.05) or []), [])
same(r.rpush("{q}queue", "job"), 1)
same(list(r.blpop(["{q}queue"], timeout=10)), ["{q}queue", "job"])
same(r.cluster_info(target_nodes=redis.RedisCluster.PRIMARIES)["cluster_state"], "ok")
same(r.flushall(), True)
r.close()

# Reads from replicas, of which there are none.
r = redis.RedisCluster(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True, read_from_replicas=True)
same(r.set("k", "v"), True)
same(r.get("k"), "v")
r.flushall()
print(f"redis-py {redis.__version__}, protocol {protocol}: {checks} checks")
