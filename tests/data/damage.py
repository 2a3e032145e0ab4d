"""Damage to files, by chance: of their bytes, and of what they hold."""

from __future__ import annotations

import functools
import gzip
import io
import json
import pathlib
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence

import msgpack
import numpy as np
import pyarrow.parquet as pq
from array_record.python import array_record_module
from prepared import pack
from valid import parquet_file, zipped

from flamingo_jax.data import record

NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = [
    token.encode()
    for token in """\0|\ufeff|NaN|1e999|-1|99999999999999999999|{|}|[|]|"|\\ud800|\\u0000|,|;|\t|\r\n|\n|null|true|
    ../../x|http://[|file:///etc/passwd|%00|%2e%2e|<!--|-->|<![CDATA[|<script>|</p>|<img src=x>|<base href=//[>|
    &#x110000;|&#0;|<image>|<EOC>|<plaintext>|srcset|data:|\x1b[31m|\x85|\u2028|\U0001f600""".split("|")
] + [b"\xff\xfe", b"\xed\xa0\x80", b"\x80" * 9, b"[" * 3000, b"<div>" * 3000, b"a" * 70_000, b" " * 70_000]
ODD = [None, True, -1, 0.5, 10**30, float("nan"), float("inf"), [], {}, [None], [[]], {"url": 3}, {"bytes": 3}]
ODD += ["", "x", "\ud800", "\0", "[]", "3", "x" * 70_000, functools.reduce(lambda a, _: [a], range(500), [])]


def damage(rng: np.random.Generator, name: str, data: bytes, other: bytes) -> bytes:
    """``data`` of a file of that name, damaged within its packing or as it is. ``other``: another file's content."""
    if rng.random() < 0.6:
        try:
            return damage_within(rng, name, data, other)
        except Exception:  # what was damaged within cannot be packed any more
            pass
    damaged = overwrite(rng, data, other)
    return repair(name, damaged) if rng.random() < 0.5 else damaged


def damage_within(rng: np.random.Generator, name: str, data: bytes, other: bytes) -> bytes:
    """Damages what the file holds, so that it is still a file of its kind; other kinds of files as they are."""
    suffix = name.rpartition(".")[2]
    if suffix == "gz":
        return gzip.compress(damage(rng, name.removesuffix(".gz"), gzip.decompress(data), other))
    if suffix == "zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        return zipped({path: damage(rng, path, content, other) for path, content in members.items()})
    if suffix in ("json", "jsonl"):
        lines = data.split(b"\n")
        at = int(rng.integers(len(lines)))
        lines[at] = json.dumps(replace(rng, json.loads(lines[at]))).encode()
        return b"\n".join(lines)
    if suffix == "parquet":
        rows = replace(rng, pq.read_table(io.BytesIO(data)).to_pylist())
        return parquet_file({column: [row[column] for row in rows] for column in rows[0]})
    if suffix == "tar":
        members = unpack(data)
        at = int(rng.integers(len(members)))
        members[at] = members[at][0], damage(rng, *members[at], other)
        return pack(*members)
    if suffix == "array_record":
        return damage_records(rng, data, other)
    return repair(name, overwrite(rng, data, other))


def damage_records(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """Damages a record of a dataset's file, or what it holds: the file's own checksums are right."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/file"
        pathlib.Path(path).write_bytes(data)
        reader = array_record_module.ArrayRecordReader(path)
        records = reader.read(list(range(reader.num_records())))
        reader.close()
        at = int(rng.integers(len(records)))
        if rng.random() < 0.5:
            records[at] = overwrite(rng, records[at], other)
        else:
            records[at] = msgpack.packb(replace(rng, msgpack.unpackb(records[at])), unicode_errors="surrogatepass")
        record.write_file(path, records)
        return pathlib.Path(path).read_bytes()


def unpack(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(member.name, archive.extractfile(member).read()) for member in archive]


def replace(rng: np.random.Generator, node):
    """Replaces, removes or repeats something at a random place in nested lists and dicts."""
    if not isinstance(node, (list, dict)) or not node or rng.random() < 0.15:
        return pick(rng, ODD)
    node = list(node) if isinstance(node, list) else dict(node)
    key = rng.integers(len(node)) if isinstance(node, list) else pick(rng, list(node))
    kind = rng.random()
    if kind < 0.1:
        del node[key]
    elif kind < 0.2 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = replace(rng, node[key])
    return node


def overwrite(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """A few changes at random places."""
    for _ in range(rng.geometric(0.4)):
        data = change(rng, data, other)
    return data


def change(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    at, start = (int(rng.integers(len(whole) + 1)) for whole in (data, other))
    before, end = data[:at], at + int(2 ** rng.uniform(0, 12))
    width = int(2 ** rng.integers(4))
    kinds = (
        lambda: bytes([rng.integers(256)]) + data[at + 1 :],
        lambda: bytes(b ^ (1 << rng.integers(8)) for b in data[at : at + 1]) + data[at + 1 :],
        lambda: (pick(rng, NUMBERS) % 256**width).to_bytes(width, pick(rng, ("little", "big"))) + data[at + width :],
        lambda: pick(rng, TOKENS) + data[at:],
        lambda: rng.bytes(end - at) + data[end:],
        lambda: rng.bytes(end - at) + data[at:],
        lambda: data[end:],
        lambda: data[at:end] * int(rng.integers(2, 9)) + data[end:],
        lambda: b"",
        lambda: other[start:],
        lambda: other[start : start + end - at] + data[end:],
    )
    return before + pick(rng, kinds)()


def pick(rng: np.random.Generator, items: Sequence):
    return items[rng.integers(len(items))]


def repair(name: str, data: bytes) -> bytes:
    """Makes checksums right again, so that what they guard is read."""
    data = bytearray(data)
    if name.endswith(".png"):
        at = 8
        while at + 12 <= len(data):
            size = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
            data[at + 8 + size : at + 12 + size] = struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + size]))
            at += 12 + size
    elif name.endswith(".tar"):
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)
