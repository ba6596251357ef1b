#!/usr/bin/env python3
"""Records keys of a server: the payload of DUMP, and what the server answers to the commands that read the key.

    record.py NAME PATH-OF-SERVER

writes NAME.txt beside itself. Bytes are in hexadecimal digits, none as a dot. Each key is a block of lines:

    key KEY, expires MS (if it does), dump PAYLOAD, and what it holds:
    text BYTES | item BYTES | member BYTES | scored MEMBER SCORE | field FIELD VALUE EXPIRY-OR-DASH
    entry ID FIELD VALUE ..., last ID, group NAME LAST-ID, consumer NAME, pending ID DELIVERIES
"""
import os, socket, subprocess, sys, tempfile, time

YEAR_2100 = 4102444800000
FOLDER = os.path.dirname(os.path.abspath(__file__))
NUMBERS = """0 1 12 13 63 64 127 128 -1 -128 -129 255 4095 4096 -4096 -4097 32767 32768 -32768 -32769 8388607 8388608
    -8388608 -8388609 2147483647 2147483648 -2147483648 -2147483649 9223372036854775807 -9223372036854775808
    9223372036854775808 00 -0""".split()
TEXTS = NUMBERS + ["", "a", "-"]


class Server:
    def __init__(self, program, folder):
        path, self.log = os.path.join(folder, "socket"), os.path.join(folder, "log")
        arguments = [program, "--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--appendonly", "no"]
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        if "v=6" not in version:
            arguments += ["--enable-debug-command", "yes"]
        self.process = subprocess.Popen(arguments, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT)
        for _ in range(200):
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        else:
            sys.exit(open(self.log).read())
        self.file = self.socket.makefile("rb")

    def __call__(self, *arguments):
        arguments = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
        request = b"*%d\r\n" % len(arguments)
        self.socket.sendall(request + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in arguments))
        reply = self.reply()
        if isinstance(reply, Exception):
            sys.exit(f"{arguments[:4]}: {reply}")
        return reply

    def line(self, text):
        return self(*text.split(" "))

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            return Exception(rest.decode())
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest

    def stop(self):
        self.process.terminate()
        self.process.wait()


def noise(count, seed):
    out, x = bytearray(), seed | 1
    for _ in range(count):
        x ^= x << 13 & 2**64 - 1
        x ^= x >> 7
        x ^= x << 17 & 2**64 - 1
        out.append(x >> 24 & 255)
    return bytes(out)


def fill(r, is_redis_7, has_field_expiry):
    for name, value in dict(empty="", int8=12, int8neg=-128, int16=-30000, int32=2000000000, int64=2**63 - 1, zeros="007",
                            plus="+1", float="1.5", embstr="hello").items():
        r("SET", "string:" + name, value)
    r("SET", "string:lzf", "abcabc" * 100)
    r("SET", "string:lzf2", b"x" * 3000 + noise(40, 3) + b"y" * 300 + noise(40, 3))
    r("SET", "string:noise", noise(300, 7))
    r("SET", "string:expiring", "soon")
    r("PEXPIREAT", "string:expiring", YEAR_2100)
    r("SET", "1234", "integer key")
    r("SET", "k" * 200, "long key")
    r("SET", b"\0\r\n", "bytes")

    r("RPUSH", "list:one", "x")
    r("RPUSH", "list:numbers", *TEXTS)
    r("RPUSH", "list:lengths", *(noise(n, n) for n in (5, 62, 63, 64, 65, 126, 127, 128, 300)))
    r("CONFIG", "SET", "list-max-ziplist-size", 4)
    for number in range(11):
        r("RPUSH", "list:nodes", f"item {number}")
    r("CONFIG", "SET", "list-max-ziplist-size", -2)
    if is_redis_7:
        r("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "100b")
    for length in (50, 150, 30, 250):
        r("RPUSH", "list:plain", noise(length, length))
    if is_redis_7:
        r("DEBUG", "QUICKLIST-PACKED-THRESHOLD", 0)

    r.line("SADD set:int16 1 -2 300")
    r.line("SADD set:int32 1 -2 300000")
    r.line("SADD set:int64 1 -2 30000000000000")
    r.line("SADD set:small a b c 1 2 -70000")
    r("CONFIG", "SET", "set-max-intset-entries", 4)
    r("SADD", "set:table", *range(10))

    r.line("ZADD zset:small 1 a -1 b 1.5 c inf d -inf e -0 f 1e300 g 0.1 h 3.0000000000000004 i -2.5e-310 j 100000 k "
           "12345678901234567 l")
    for number in NUMBERS:
        r("ZADD", "zset:numbers", number, number)
    for number in range(150):
        r("ZADD", "zset:large", repr(number / 7 - 3), f"m{number}")
    r.line("ZADD zset:large inf high -inf low -0 zero")

    for number, text in enumerate(TEXTS):
        r("HSET", "hash:numbers", text, number, f"f{number}", text)
    r("HSET", "hash:small", "f", "v", "g", 1, "h", -1, "empty", "")
    r("HSET", "hash:table", "f", noise(70, 5), "n", 5, "z", "z" * 500)
    for number in range(120):
        r("HSET", "hash:packed", f"field{number}", f"value{number * number}")
    r("PEXPIREAT", "hash:packed", YEAR_2100)
    streams(r)
    if has_field_expiry:
        fields(r)


def streams(r):
    r("CONFIG", "SET", "stream-node-max-entries", 4)
    for number in range(1, 4):
        r.line(f"XADD stream:plain {number}-1 a {number} b x")
    r("PEXPIREAT", "stream:plain", YEAR_2100)
    for number in range(1, 12):
        r.line(f"XADD stream:groups {number * 1000}-{number % 3} name n{number} age {number * 70000}")
        if number == 5:
            r.line("XADD stream:groups 5500-7 other thing")
            r.line("XADD stream:groups 5500-8 name x age -7 more 1 1 more")
    r.line("XADD stream:groups 18446744073709551-5 last one")
    r.line("XDEL stream:groups 2000-2 5500-7 11000-2")
    r.line("XGROUP CREATE stream:groups none 0")
    r.line("XGROUP CREATE stream:groups half 5500-7")
    r.line("XGROUP CREATE stream:groups busy 0")
    r.line("XREADGROUP GROUP busy alice COUNT 3 STREAMS stream:groups >")
    r.line("XREADGROUP GROUP busy bob COUNT 4 STREAMS stream:groups >")
    r.line("XREADGROUP GROUP busy alice COUNT 3 STREAMS stream:groups 0")
    r.line("XCLAIM stream:groups busy carol 0 4000-1 TIME 1600000000000 RETRYCOUNT 9")
    r.line("XGROUP CREATECONSUMER stream:groups busy idle")
    r.line("XREADGROUP GROUP half 12 COUNT 2 STREAMS stream:groups >")
    r.line("XACK stream:groups busy 1000-1")
    r.line("XDEL stream:groups 5000-2 3000-0")
    r.line("XADD stream:empty 5-5 a b")
    r.line("XGROUP CREATE stream:empty g 0")
    r.line("XREADGROUP GROUP g c STREAMS stream:empty >")
    r.line("XDEL stream:empty 5-5")
    r.line("XGROUP CREATE stream:made g $ MKSTREAM")
    r.line("XADD stream:trimmed 5-5 a b")
    r.line("XADD stream:trimmed 6-5 a b")
    r.line("XTRIM stream:trimmed MAXLEN 0")
    r.line("XSETID stream:trimmed 9-9")


def fields(r):
    r.line("HSET fields:packed a 1 b 2 c -3 d four")
    r.line(f"HPEXPIREAT fields:packed {YEAR_2100} FIELDS 2 a c")
    r.line(f"HPEXPIREAT fields:packed {YEAR_2100 + 5000} FIELDS 1 d")
    for number in range(150):
        r("HSET", "fields:table", f"f{number}", number)
        if number % 3 == 0:
            r.line(f"HPEXPIREAT fields:table {YEAR_2100 + number * 1000} FIELDS 1 f{number}")
    r("HSET", "fields:long", "a", noise(100, 9), "b", 2, "c", "c" * 200, "d", -5)
    r.line(f"HPEXPIREAT fields:long {YEAR_2100} FIELDS 2 a b")
    r.line(f"HPEXPIREAT fields:long {YEAR_2100 + 77} FIELDS 1 c")
    r.line("HSET fields:persisted a 1 b 2")
    r.line(f"HPEXPIREAT fields:persisted {YEAR_2100} FIELDS 1 a")
    r.line("HPERSIST fields:persisted FIELDS 1 a")


def number(score):
    """As Rust's `{:e}` writes it: the fewest digits that are the same number."""
    score = float(score) + 0.0
    if score in (float("inf"), float("-inf")):
        return str(score)
    for digits in range(17):
        text = f"{score:.{digits}e}"
        if float(text) == score:
            break
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def text(data):
    return data.hex() or "."


def pairs(items):
    return list(zip(items[::2], items[1::2]))


def holds(r, key, has_field_expiry):
    kind = r("TYPE", key)
    if kind == b"string":
        return ["text " + text(r("GET", key))]
    if kind == b"list":
        return ["item " + text(item) for item in r("LRANGE", key, 0, -1)]
    if kind == b"set":
        return sorted("member " + text(member) for member in r("SMEMBERS", key))
    if kind == b"zset":
        members = pairs(r("ZRANGE", key, 0, -1, "WITHSCORES"))
        return sorted(f"scored {text(member)} {number(score)}" for member, score in members)
    if kind == b"hash":
        lines = []
        for field, value in pairs(r("HGETALL", key)):
            expiry = r("HPEXPIRETIME", key, "FIELDS", 1, field)[0] if has_field_expiry else -1
            lines.append(f"field {text(field)} {text(value)} {expiry if expiry > 0 else '-'}")
        return sorted(lines)
    lines = ["entry " + " ".join([id.decode()] + [text(item) for item in items]) for id, items in r("XRANGE", key, "-", "+")]
    full = dict(pairs(r("XINFO", "STREAM", key, "FULL", "COUNT", 0)))
    lines.append("last " + full[b"last-generated-id"].decode())
    groups = []
    for group in full[b"groups"]:
        group, consumers = dict(pairs(group)), []
        for consumer in group[b"consumers"]:
            consumer = dict(pairs(consumer))
            pending = consumer.get(b"pel", consumer.get(b"pending"))
            consumers.append(["consumer " + text(consumer[b"name"])]
                             + [f"pending {id.decode()} {count}" for id, _, count in pending])
        head = f"group {text(group[b'name'])} {group[b'last-delivered-id'].decode()}"
        groups.append([head] + sum(sorted(consumers), []))
    return lines + sum(sorted(groups), [])


def main():
    name, program = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        r = Server(program, folder)
        try:
            info = dict(line.split(":", 1) for line in r("INFO", "server").decode().split("\r\n") if ":" in line)
            version = info.get("valkey_version", info["redis_version"])
            numbers = tuple(int(part) for part in version.split(".")[:2])
            has_field_expiry = numbers >= ((9, 0) if "valkey_version" in info else (7, 4))
            fill(r, numbers >= (7, 0), has_field_expiry)
            blocks = []
            for key in sorted(r("KEYS", "*")):
                lines = ["key " + text(key)]
                if r("PTTL", key) > 0:
                    lines.append(f"expires {YEAR_2100}")
                lines.append("dump " + text(r("DUMP", key)))
                blocks.append("\n".join(lines + holds(r, key, has_field_expiry)))
        finally:
            r.stop()
    with open(os.path.join(FOLDER, name + ".txt"), "w") as file:
        file.write("\n\n".join(blocks) + "\n")
    print(name, version, len(blocks), "keys")


main()
