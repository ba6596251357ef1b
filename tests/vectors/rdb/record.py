#!/usr/bin/env python3
"""Records an RDB file of a server, and the payload that DUMP returns for each of its keys.

    record.py NAME PATH-OF-SERVER [OPTION VALUE]...

writes NAME.rdb and NAME.tsv beside itself. The options are those of the server, without the dashes. With `loadmodule`,
which is to be FalkorDB's, there is a graph too; with `cluster-enabled yes` there are only a few strings.
"""
import os, socket, subprocess, sys, tempfile, time

YEAR_2100 = 4102444800000
FOLDER = os.path.dirname(os.path.abspath(__file__))


class Server:
    def __init__(self, program, options, folder):
        self.path = os.path.join(folder, "socket")
        arguments = [program, "--port", "0", "--unixsocket", self.path, "--dir", folder, "--save", "", "--appendonly", "no",
                     "--dbfilename", "dump.rdb"]
        for name, value in options:
            arguments += ["--" + name] + value.split(" ")
        self.log = os.path.join(folder, "log")
        self.process = subprocess.Popen(arguments, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT)
        for _ in range(200):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(self.path)
                break
            except OSError:
                time.sleep(0.05)
        else:
            sys.exit(open(self.log).read())
        self.file = self.socket.makefile("rb")

    def __call__(self, *arguments, may_fail=False):
        arguments = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        request = b"*%d\r\n" % len(arguments)
        self.socket.sendall(request + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments))
        reply = self.reply()
        if isinstance(reply, Exception) and not may_fail:
            sys.exit(f"{arguments[:3]}: {reply}")
        return reply

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return Exception(rest.decode())
        if kind == b"$":
            if rest == b"-1":
                return None
            return self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def stop(self):
        self.process.terminate()
        self.process.wait()


def noise(count, seed):
    out, state = bytearray(), seed
    while len(out) < count:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out += state.to_bytes(8, "little")
    return bytes(out[:count])


def strings(r):
    r("SET", "plain", "text")
    r("SET", "", "the key is empty")
    r("SET", "empty", "")
    for number in (0, -1, 127, -128, 128, -129, 32767, -32769, 2147483647, -2147483648, 2147483648, -9223372036854775808):
        r("SET", f"number {number}", number)
        r("SET", str(number), "the key is a number")
    r("SET", "007", "the key is text")
    r("SET", b"\x00\xff\r\n\x80{}", b"\x00\xff\r\n")
    r("SET", "compressed " + "k" * 300, "v" * 500 + "w" * 500)
    r("SET", "noise", noise(300, 1))
    r("SET", "of 14 bits", noise(63, 2) + b"x")
    r("SET", "of 32 bits", b"ab" * 8192 + noise(100, 3))
    r("SETBIT", "bitmap", 3000, 1)
    r("PFADD", "hyperloglog", *range(20))
    r("SET", "expires", "later", "PX", YEAR_2100 - int(time.time() * 1000))
    r("PEXPIREAT", "expires", YEAR_2100)


def collections(r, version):
    r("RPUSH", "list small", "a", "b", 12, "", 70000)
    r("CONFIG", "SET", "list-max-ziplist-size", 4)
    r("RPUSH", "list of nodes", *[f"element {i}" for i in range(15)])
    r("RPUSH", "list expires", 1, 2)
    r("PEXPIREAT", "list expires", YEAR_2100 + 1000 * 1)
    if version >= 7:
        r("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "100B", may_fail=True)
        r("RPUSH", "list of plain nodes", "small", "x" * 200, noise(200, 4), "small")
    r("SADD", "set of 16 bits", 1, -2, 300)
    r("SADD", "set of 32 bits", 1, -2, 70000)
    r("SADD", "set of 64 bits", 1, -2, 2**40)
    r("SADD", "set small", "a", "b", 3)
    r("SADD", "set large", *[f"member {i}" for i in range(140)])
    r("ZADD", "sorted set small", 1, "a", 2.5, "b", "-inf", "c", "+inf", 4)
    r("CONFIG", "SET", "zset-max-ziplist-value", 8)
    r("ZADD", "sorted set large", 0.1, "a long member " * 2, -1e300, "b", "inf", "c", 17, "d")
    r("GEOADD", "places", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")
    r("HSET", "hash small", "field", "value", 1, 2, "", "")
    r("HSET", "hash large", "field", "v" * 100, "other", noise(70, 5), 12, 34)


def field_expiries(r):
    if isinstance(r("HSET", "fields", "a", 1, "b", 2, "c", 3), Exception):
        return
    if isinstance(r("HPEXPIREAT", "fields", YEAR_2100, "FIELDS", 2, "a", "b", may_fail=True), Exception):
        r("DEL", "fields")
        return
    r("HPEXPIREAT", "fields", YEAR_2100 + 1000 * 5, "FIELDS", 1, "b")
    r("HSET", "fields large", "a", "v" * 100, "b", 2, "c", 3)
    r("HPEXPIREAT", "fields large", YEAR_2100, "FIELDS", 1, "a")
    r("HPEXPIREAT", "fields large", YEAR_2100 + 1000 * 7, "FIELDS", 1, "c")
    r("HSET", "fields and key", "a", 1)
    r("HPEXPIREAT", "fields and key", YEAR_2100, "FIELDS", 1, "a")
    r("PEXPIREAT", "fields and key", YEAR_2100 + 1000 * 9)


def streams(r):
    r("XADD", "stream", "1-1", "field", "value")
    for number in range(2, 8):
        r("XADD", "stream", f"{number}-0", "field", number, "other", "x" * number)
    r("XADD", "stream of groups", "5-5", "a", 1)
    for number in range(6, 12):
        r("XADD", "stream of groups", f"{number}-0", "a", number)
    r("XDEL", "stream of groups", "7-0", "11-0")
    r("XGROUP", "CREATE", "stream of groups", "none", "$")
    r("XGROUP", "CREATE", "stream of groups", "pending", "0")
    r("XREADGROUP", "GROUP", "pending", "ann", "COUNT", 3, "STREAMS", "stream of groups", ">")
    r("XREADGROUP", "GROUP", "pending", "bob", "COUNT", 1, "STREAMS", "stream of groups", ">")
    r("XACK", "stream of groups", "pending", "6-0")
    r("XGROUP", "CREATECONSUMER", "stream of groups", "pending", "idle")
    r("CONFIG", "SET", "stream-node-max-entries", 2)
    for number in range(1, 8):
        r("XADD", "stream of nodes", f"{number}-1", "a", number)
    r("XGROUP", "CREATE", "stream of nodes", "all", "3-1")
    r("XADD", "stream without entries", "9-9", "a", 1)
    r("XDEL", "stream without entries", "9-9")


def functions(r):
    library = "#!lua name={0}\nredis.register_function('{0}', function(keys, args) return '{1}' end)"
    r("FUNCTION", "LOAD", library.format("first", "a"), may_fail=True)
    r("FUNCTION", "LOAD", library.format("second", "b" * 200), may_fail=True)


def main():
    name, program, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    options = list(zip(rest[::2], rest[1::2]))
    with tempfile.TemporaryDirectory() as folder:
        r = Server(program, options, folder)
        try:
            record(r, name, dict(options), folder)
        finally:
            r.stop()


def record(r, name, options, folder):
    info = dict(line.split(":", 1) for line in r("INFO", "server").decode().split("\r\n") if ":" in line)
    version = int(info["redis_version"].split(".")[0])
    databases = [0]
    if options.get("cluster-enabled") == "yes":
        r("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in r("CLUSTER", "INFO"):
            time.sleep(0.05)
        for number in range(20):
            r("SET", f"key {number}", number)
        r("SET", "{tag}a", 1, "PXAT", YEAR_2100)
        r("HSET", "{tag}b", "field", "value")
    else:
        strings(r)
        collections(r, version)
        field_expiries(r)
        streams(r)
        functions(r)
        r("VADD", "vectors", "VALUES", 3, 0.5, 1.5, -2, "element", may_fail=True)
        if "loadmodule" in options:
            r("GRAPH.QUERY", "graph", "CREATE (:Person {name: 'Ann'})-[:KNOWS]->(:Person {name: 'Bob'})")
        for db in (1, 9):
            r("SELECT", db)
            r("SET", f"of database {db}", "x")
            r("SADD", "of several", db)
            r("PEXPIREAT", "of several", YEAR_2100 + 1000 * db)
        databases += [1, 9]
    r("SAVE")
    lines = []
    for db in databases:
        if db:
            r("SELECT", db)
        elif len(databases) > 1:
            r("SELECT", 0)
        for key in sorted(r("KEYS", "*")):
            expires = r("PEXPIRETIME", key, may_fail=True)
            if isinstance(expires, Exception):
                ttl = r("PTTL", key)
                expires = -1 if ttl < 0 else round(ttl / 1000 + time.time()) * 1000
            lines.append("\t".join([str(db), key.hex(), str(expires), r("DUMP", key).hex()]))
    libraries = r("FUNCTION", "DUMP", may_fail=True)
    if isinstance(libraries, bytes):
        lines.append("functions\t\t\t" + libraries.hex())
    with open(os.path.join(folder, "dump.rdb"), "rb") as file:
        rdb = file.read()
    with open(os.path.join(FOLDER, name + ".rdb"), "wb") as file:
        file.write(rdb)
    with open(os.path.join(FOLDER, name + ".tsv"), "w") as file:
        file.write("\n".join(lines) + "\n")
    print(name, info.get("valkey_version", info["redis_version"]), len(rdb), "bytes", len(lines), "lines")


main()
