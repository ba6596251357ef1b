#!/usr/bin/env python3
"""Reads an archive by docs/archive.md alone, and prints its texts and entries. Needs xxhash, and zstandard for compressed ones."""
import struct, sys
import xxhash

def check32(data):
    return xxhash.xxh3_64_intdigest(data) & 0xffffffff

data = open(sys.argv[1], "rb").read()
magic, version, flags, check = struct.unpack_from("<8sHHI", data)
assert magic == b"\x89RSB\r\n\x1a\n" and (version, flags) == (1, 0) and check == check32(data[:12])
at, frames, chain, texts, seen, expected, bodies, index = 16, 0, b"", {1: b"", 4: b""}, {}, b"", {}, b""
totals = None
while True:
    header = struct.unpack_from("<4sBBHIIQIIIIQ", data, at)
    magic, kind, flags, node, archive, sequence, before, entries, stored, plain, check, checksum = header
    assert magic == b"\xf1RSF" and check == check32(data[at:at + 36]) and stored <= plain <= 4 << 20
    payload = data[at + 48:at + 48 + stored]
    assert xxhash.xxh3_64_intdigest(data[at:at + 40] + payload) == checksum
    assert seen.get(node, (0, 0)) == (sequence, before), "a frame is missing or misplaced"
    seen[node] = (sequence + 1, before + entries)
    if kind == 6:
        assert struct.unpack("<QQQQ", payload) == (totals, frames, xxhash.xxh3_64_intdigest(chain), len(data))
        assert at + 48 + stored == len(data) and index == expected
        break
    frames, chain = frames + 1, chain + struct.pack("<Q", checksum)
    if flags & 1:
        import zstandard
        payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=plain)
    assert len(payload) == plain
    if kind in texts:
        totals = at if kind == 4 and totals is None else totals
        texts[kind] += payload
    elif kind == 5:
        index += payload
    elif kind in (2, 3):
        expected += struct.pack("<QIHBB", at, entries, node, kind, 0)
        p = 0
        while p < plain:
            tag, p = payload[p], p + 1
            if tag in (1, 2) and kind == 2:
                value_type, bits, rdb, db, length = struct.unpack_from("<BBHII", payload, p)
                p += 12
                head = {"type": value_type, "rdb": rdb, "db": db}
                for bit, form, name in ((1, "<q", "expires_at"), (2, "<Q", "idle"), (4, "<B", "frequency")):
                    if bits & bit:
                        head[name], = struct.unpack_from(form, payload, p)
                        p += struct.calcsize(form)
                bodies[node] = (head, length, b"")
            elif tag in (1, 2):
                bodies[node] = ({"function, rdb": struct.unpack_from("<H", payload, p)[0]}, 0, b"")
                p += 2
            size, = struct.unpack_from("<I", payload, p)
            head, length, body = bodies[node]
            bodies[node] = (head, length, body + payload[p + 4:p + 4 + size])
            p += 4 + size
            if tag in (1, 4):
                head, length, body = bodies.pop(node)
                print(node, head, body[:length], len(body) - length, "bytes", body[length:length + 16])
    at += 48 + stored
assert not bodies and check32(texts[1]) == archive
print(texts[1].decode() + texts[4].decode())
