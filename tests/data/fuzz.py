"""A fuzzer of the readers: damages small valid corpora of every format, prepares them, and checks what comes out.

    python tests/data/fuzz.py --folder=DIR [--names=html,tar] [--first=0] [--count=1000000] [--seconds=60]

A case is a name of ``CORPORA`` and a number, which decide everything. The case that is being tried is in DIR/now, and
its files are in DIR/NAME-NUMBER, where they stay if it fails; so a crash of the process leaves it there.
"""

from __future__ import annotations

import argparse
import base64
import faulthandler
import functools
import gzip
import io
import json
import os
import pathlib
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from archives import response
from PIL import Image
from prepared import pack

from flamingo_jax.config import CorpusConfig, DuplicateRules, ImageRules, TextRules
from flamingo_jax.data import image, media
from flamingo_jax.data.corpus import Corpus
from flamingo_jax.data.document import Document, Dropped, decode, encode
from flamingo_jax.data.filters import duplicates
from flamingo_jax.data.formats import FORMATS
from flamingo_jax.data.prepare.make import Maker
from flamingo_jax.data.prepare.plan import make_plan

SECONDS = 5.0
"""Of processor time that one case may take."""

BYTES = 2_000_000_000
"""That the process may hold at its peak."""

SIZE = 48

Files = dict[str, bytes]


# Valid files.


def picture(format: str, mode: str = "RGB", size: tuple[int, int] = (80, 70), frames: int = 1, **options) -> bytes:
    coarse = np.random.default_rng(len(format)).integers(0, 256, (4, 4, 3), np.uint8)
    still = Image.fromarray(coarse).resize(size).convert(mode)
    buffer = io.BytesIO()
    if frames > 1:
        options |= {"save_all": True, "append_images": [still.rotate(90 * i) for i in range(1, frames)]}
    still.save(buffer, format, **options)
    return buffer.getvalue()


def clip(codec: str, format: str) -> bytes:
    """Two seconds."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=4, options={"g": "3"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 64, 48, "yuv420p", 1
        for i in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 4)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


@functools.cache
def images() -> Files:
    grey = Image.fromarray(np.linspace(0, 65535, 4900).astype(np.uint16).reshape(70, 70))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    return {
        "a.jpg": picture("JPEG"),
        "progressive.jpg": picture("JPEG", progressive=True),
        "large.jpg": picture("JPEG", size=(400, 300), quality=60, exif=exif(6)),
        "cmyk.jpg": picture("JPEG", "CMYK"),
        "grey.jpg": picture("JPEG", "L", exif=exif(3)),
        "a.png": picture("PNG"),
        "palette.png": picture("PNG", "P", transparency=0),
        "alpha.png": picture("PNG", "LA", exif=exif(5)),
        "16.png": buffer.getvalue(),
        "a.gif": picture("GIF"),
        "moving.gif": picture("GIF", "P", frames=3, duration=200, comment=b"a comment"),
        "a.webp": picture("WEBP"),
        "lossless.webp": picture("WEBP", "RGBA", lossless=True, exif=exif(8)),
        "moving.webp": picture("WEBP", frames=2),
        "a.avif": picture("AVIF", exif=exif(6)),
        "moving.avif": picture("AVIF", frames=2),
    }


@functools.cache
def clips() -> Files:
    kinds = {
        "a.mp4": "libx264 mp4",
        "b.mp4": "mpeg4 mp4",
        "a.mov": "libx264 mov",
        "a.webm": "libvpx webm",
        "a.mkv": "libx264 matroska",
        "a.avi": "mpeg4 avi",
    }
    return {name: clip(*kind.split()) for name, kind in kinds.items()}


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": data for name, data in files.items()}


# Valid corpora: a function that returns files, and the options that read them, whose paths are relative to the files.

Corpora = tuple[Files, dict]
PAGE = """<!DOCTYPE html><html><head><meta charset="utf-8"><title>t</title><base href="/"></head><body><nav>menu</nav>
<article><h1>Heading &amp; more</h1><p>One <b>bold</b> word.{}</p><pre>a\n  b</pre><ul><li>x<li>y</ul></article>
<picture><source srcset="images/a.webp 1x, images/lossless.webp 2x"><img src="images/a.jpg"></picture>
<p>end</p><footer>foot</footer></body></html>"""


def html() -> Corpora:
    shown = "".join(f'<img src="images/{name}" alt="x">' for name in images())
    files = {"a.html": PAGE.format(shown).encode(), "b/c.html": PAGE.format("").encode("utf-16")}
    return files | below("images", images()), {"format": "html", "source": "**/*.html"}


def warc() -> Corpora:
    def archive(compress: Callable[[bytes], bytes]) -> bytes:
        names = ("a.jpg", "a.png", "a.webp")
        page = PAGE.format("".join(f'<img src="http://x.example/{name}">' for name in names)).encode()
        packed = gzip.compress(page)
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
        return b"".join(
            (
                response("http://x.example/", page, compress=compress),
                *(response(f"http://x.example/{n}", images()[n], "image/x", compress=compress) for n in names),
                response("http://x.example/b", chunked, headers="Transfer-Encoding: chunked\r\n", compress=compress),
                response("http://x.example/c", packed, headers="Content-Encoding: gzip\r\n", compress=compress),
            )
        )

    return {"a.warc": archive(bytes), "b.warc.gz": archive(gzip.compress)}, {"format": "warc", "source": "*.warc*"}


def mmc4_lines() -> str:
    def entry(name: str, match: int) -> dict:
        similarity = {"matched_text_index": match, "matched_sim": 0.3}
        return {"image_name": name, "raw_url": f"http://x.example/{name}"} | similarity

    sentences = ["First.", "Second one.", "Third."]
    pages = [
        {
            "url": f"http://x.example/{i}",
            "text_list": sentences,
            "image_info": [entry(name, (2 - k) % 3) for k, name in enumerate(("a.jpg", "a.png", "a.webp"))],
            "similarity_matrix": np.random.default_rng(i).random((3, 3)).round(3).tolist(),
        }
        for i in range(3)
    ]
    return "\n".join(map(json.dumps, pages))


def mmc4() -> Corpora:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("docs_shard_1_v2.jsonl", mmc4_lines())
    files = {"docs_shard_0_v2.jsonl": mmc4_lines().encode(), "docs_shard_1_v2.jsonl.zip": buffer.getvalue()}
    options = {"format": "mmc4", "source": "*.jsonl*", "images": "images", "reassign": True, "min_similarity": 0.01}
    return files | below("images/0", images()) | below("images/1", images()), options


def mmc4_tar() -> Corpora:
    pages = [json.loads(line) for line in mmc4_lines().split("\n")]
    for page in pages:
        for info in page["image_info"]:
            info["image_base64"] = base64.b64encode(images()[info["image_name"]]).decode()
    mark, encoded = "_!_IMAGE1_!_", {"base64_image": base64.b64encode(images()["a.gif"]).decode()}
    pages.append({"is_gpt": True, "example": f"See {mark} here.", "image_map": {mark: encoded}})
    members = [(f"{i}.json", json.dumps(page).encode()) for i, page in enumerate(pages)]
    return {"000000000.tar": pack(*members)}, {"format": "mmc4", "source": "*.tar"}


def parquet_file(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=2)
    return buffer.getvalue()


def interleaved(format: str, index: str, general: Callable[[str], object]) -> Corpora:
    shown, texts = [["a.jpg", None, "a.png"], [None, "a.webp"]], [[None, "One.\n\nTwo.", None], ["Three.", None]]
    columns = {
        "images": pa.array([[n and f"http://x.example/{n}" for n in row] for row in shown], pa.list_(pa.string())),
        "texts": pa.array(texts, pa.list_(pa.string())),
        "metadata": [json.dumps([n and {"src": n} for n in row]) for row in shown],
        "general_metadata": [general(f"http://x.example/{i}") for i in range(2)],
    }
    places = {"url": [f"http://x.example/{name}" for name in images()], "file": [*below("images", images())]}
    lines = "\n".join(map(",".join, [places, *zip(*places.values(), strict=True)])).encode()
    files = {"a.parquet": parquet_file(columns), index: lines if index.endswith(".csv") else parquet_file(places)}
    return files | below("images", images()), {"format": format, "source": "a.parquet", "images": index}


def mint() -> Corpora:
    stills = [Image.open(io.BytesIO(images()[name])).convert(mode) for name, mode in (("a.jpg", "RGB"), ("a.png", "L"))]
    tiff = io.BytesIO()
    stills[0].save(tiff, "TIFF", save_all=True, append_images=stills[1:], compression="tiff_lzw")
    found = [{"page": page, "xref": 7 + page} for page in range(2)]
    fields = {
        "url": "http://x.example/a.pdf",
        "texts": ["Before.", None, "Between.", None],
        "images": [None, "page_0_image_7", None, "page_1_image_8"],
        "image_metadata": found,
    }
    members = [(f"{i}.json", json.dumps(fields).encode()) for i in range(2)]
    members.insert(1, ("0.tiff", tiff.getvalue()))
    members.append(("1.tiff", picture("TIFF", "CMYK", frames=2)))
    return {"a.tar": pack(*members)}, {"format": "mint", "source": "*.tar"}


def samples(clips_too: bool) -> bytes:
    members = []
    for i, (name, data) in enumerate((images() | (clips() if clips_too else {})).items()):
        record = {"caption": f"in json {i}", "url": f"http://x.example/{name}", "key": f"{i:05d}", "status": "success"}
        members.append((f"{i:05d}.{name.rpartition('.')[2]}", data))
        if i % 2:
            members.append((f"{i:05d}.txt", f"caption {i}".encode()))
        members.append((f"{i:05d}.json", json.dumps(record).encode()))
    return pack(*members)


def tar() -> Corpora:
    files = {"00000.tar": samples(True), "00001.tar.gz": gzip.compress(samples(False))}
    return files, {"format": "tar", "source": "*.tar*"}


def parquet() -> Corpora:
    found = list((images() | clips()).items())
    columns = {
        "url": [f"http://x.example/{name}" for name, _ in found],
        "caption": [f"caption of {name}" for name, _ in found],
        "jpg": pa.array([data for _, data in found], pa.binary()),
    }
    nested = {
        "image": [{"bytes": data, "path": name} for name, data in found[:3]],
        "text": [["one", "two"], ["three"], []],
    }
    files = {"a.parquet": parquet_file(columns), "b.parquet": parquet_file(nested)}
    return files, {"format": "parquet", "source": "*.parquet"}


def table(suffix: str, separator: str) -> Corpora:
    files = images() | clips()
    rows = [("caption", "path"), *((f"caption of {name}", f"files/{name}") for name in files)]
    text = "\n".join(separator.join(row) for row in rows).encode()
    listed = {f"a.{suffix}": text, f"b.{suffix}.gz": gzip.compress(text)}
    return listed | below("files", files), {"format": "table", "source": f"*.{suffix}*"}


def captioned(format: str, name: str, text: str) -> Corpora:
    """A file of captions whose images are found by their addresses in img2dataset's tar files."""
    files = {name: text.encode(), "images/00000.tar": samples(False)}
    return files, {"format": format, "source": name, "images": "images/*.tar"}


def webvid() -> Corpora:
    rows = ["videoid,contentUrl,duration,page_dir,name"]
    rows += [f"{name.partition('.')[0]},http://x.example/{name},PT00H00M02S,d,caption" for name in clips()]
    files = {"results.csv": "\n".join(rows).encode()} | below("clips/d", clips())
    return files, {"format": "webvid", "source": "*.csv", "images": "clips"}


def coco() -> Corpora:
    names = list(images())
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": 100 + i, "image_id": i, "caption": f"caption {i}"} for i in range(len(names))],
    }
    files = {"captions_val2014.json": json.dumps(content).encode()}
    return files | below("val2014", images()), {"format": "coco", "source": "*.json"}


def text() -> Corpora:
    lines = "\n".join(json.dumps({"text": f"Line {i}.\nAnd more.", "meta": {"n": i}}) for i in range(5)).encode()
    files = {
        "a.jsonl": lines,
        "b.jsonl.gz": gzip.compress(lines),
        "c.jsonl.zst": pa.compress(lines, "zstd", asbytes=True),
        "d.parquet": parquet_file({"text": ["one", "two", "three"]}),
    }
    return files, {"format": "text", "source": "*.*"}


def prepared_by_tfds() -> Corpora:
    import tensorflow_datasets as tfds  # takes two seconds

    class Fuzzed(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        url_infos = {}  # nothing is downloaded

        def _info(self):
            features = {"image": tfds.features.Image(), "caption": tfds.features.Text()}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for name in ("a.jpg", "a.png"):
                yield name, {"image": io.BytesIO(images()[name]), "caption": f"caption of {name}"}

    with tempfile.TemporaryDirectory() as folder:
        builder = Fuzzed(data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
        files = {path.name: path.read_bytes() for path in pathlib.Path(builder.data_dir).iterdir()}
    return files, {"format": "tfds", "source": ""}


ADDRESSES = [f"http://x.example/{name}" for name in ("a.jpg", "a.png", "a.gif", "a.webp")]

CORPORA: dict[str, Callable[[], Corpora]] = {
    "html": html,
    "warc": warc,
    "mmc4": mmc4,
    "mmc4 tar": mmc4_tar,
    "obelics": lambda: interleaved("obelics", "index.csv", lambda url: json.dumps({"url": url})),
    "omnicorpus": lambda: interleaved("omnicorpus", "index.parquet", lambda url: {"url": url, "id": "0"}),
    "mint": mint,
    "tar": tar,
    "parquet": parquet,
    "table csv": lambda: table("csv", ","),
    "table tsv": lambda: table("tsv", "\t"),
    "cc3m": lambda: captioned("cc3m", "a.tsv", "\n".join(f"a caption\t{url}" for url in ADDRESSES)),
    "cc12m": lambda: captioned("cc12m", "a.tsv", "\n".join(f"{url}\ta caption" for url in ADDRESSES)),
    "sbu": lambda: captioned("sbu", "a.json", json.dumps({"image_urls": ADDRESSES, "captions": ["one"] * 4})),
    "webvid": webvid,
    "coco": coco,
    "tfds": prepared_by_tfds,
    "text": text,
}
"""A name, which begins with the format -> what makes a valid corpus."""


# Damage.

NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
TOKENS = [
    token.encode()
    for token in """\0|\ufeff|NaN|1e999|-1|99999999999999999999|{|}|[|]|"|\\ud800|\\u0000|,|;|\t|\r\n|\n|null|true|
    ../../x|http://[|file:///etc/passwd|%00|%2e%2e|<!--|-->|<![CDATA[|<script>|</p>|<img src=x>|<base href=//[>|
    &#x110000;|&#0;|<image>|<EOC>|<plaintext>|srcset|data:|\x1b[31m|\x85|\u2028|\U0001f600""".split("|")
] + [b"\xff\xfe", b"\xed\xa0\x80", b"\x80" * 9, b"[" * 3000, b"<div>" * 3000, b"a" * 70_000, b" " * 70_000]
ODD = [
    None,
    True,
    -1,
    0.5,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\0",
    "[]",
    "3",
    "x" * 70_000,
    [],
    {},
]
ODD += [[None], [[]], {"url": 3}, {"bytes": 3}, {"text": None}, functools.reduce(lambda a, _: [a], range(500), [])]


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
    return repair(name, overwrite(rng, data, other))


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


# What must hold.


def prepare(options: CorpusConfig, folder: pathlib.Path) -> Iterator[Document | Dropped]:
    """What the preparation makes of a corpus, in this process; the files of the index go to ``folder``."""
    plan = make_plan(options)
    if options.images and not os.path.isdir(options.images):
        media.write_index(options.images, f"{folder}/index")
        find = media.Index(f"{folder}/index", plan.root)
    else:
        find = media.in_folder(options.images or plan.root)
    corpus, known = Corpus(options, plan.root, find), duplicates.Duplicates(duplicates.count([]), np.empty(0), 0)
    make = Maker(options, known)
    for number, task in enumerate(task for tasks in plan.shards for task in tasks):
        started = False
        try:
            for item in FORMATS[options.format].read(task, corpus):
                started = True
                if isinstance(item, Dropped):
                    yield item
                else:
                    assert all(0 <= key < 2**64 for key in duplicates.census(item, options.duplicates))
                    yield from make(item, number)
        except (ValueError, OSError):
            assert not started, "An error after the first item."
            raise


def check(outcome: Document | Dropped, options: CorpusConfig) -> None:
    """That an outcome is one that can be written, trained on and reported."""
    if isinstance(outcome, Dropped):
        assert 5 < len(outcome.reason) < 50 and outcome.reason.replace(" ", "").isalpha(), outcome.reason
        assert 0 < len(outcome.place) < 5_000, f"{outcome.reason}: a place of {len(outcome.place)} characters"
        json.dumps([outcome.reason, outcome.place, outcome.bad])
        return
    again = decode(encode(outcome))
    assert (again.positions, again.media) == (outcome.positions, outcome.media)
    assert len(again.text) == len(outcome.text) and again.text.strip()
    assert FORMATS[options.format].kind == "text" or again.media
    for frames in again.media:
        assert len(frames) <= options.max_frames
        for frame in frames:
            assert max(image.decode(frame).shape) <= options.size


def try_case(name: str, number: int, folder: pathlib.Path) -> str:
    """Runs one case; raises for what must not be. Number -1 leaves the files whole. Returns what came out."""
    files, options = valid(name)
    rng = np.random.default_rng([number + 1, zlib.crc32(name.encode())])
    if number >= 0:
        target = choose(rng, files)
        damaged = damage(rng, target, files[target], files[choose(rng, files)])
        files = {name: data for name, data in files.items() if "/" not in name or rng.random() < 0.2}  # some media
        files[target] = damaged
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    options = options | {key: f"{folder}/{options[key]}" for key in ("source", "images") if key in options}
    rules = DuplicateRules(pages=True, image_copies=1, paragraph_copies=1)
    config = CorpusConfig(
        size=SIZE,
        max_frames=3,
        image=ImageRules(8),
        text=TextRules(formats=()),
        duplicates=rules,
        **options,
    )
    documents = drops = 0
    try:
        for outcome in prepare(config, folder):
            check(outcome, config)
            documents += isinstance(outcome, Document)
            drops += isinstance(outcome, Dropped) and outcome.bad
    except (ValueError, OSError) as error:
        assert type(error) in (ValueError, OSError) and str(folder) in str(error), repr(error)
        return "refused"
    return f"{documents} documents, {drops} bad"


@functools.cache
def valid(name: str) -> Corpora:
    return CORPORA[name]()


def choose(rng: np.random.Generator, files: Files) -> str:
    """A file: half the time one of those that are not media."""
    names = [name for name in files if "/" not in name] if rng.random() < 0.5 else list(files)
    return pick(rng, names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--names", default=",".join(CORPORA))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=10**9)
    options = parser.parse_args()
    faulthandler.enable()
    start, cases, failures, outcomes = time.monotonic(), 0, 0, {}
    for number in range(options.first, options.first + options.count):
        for name in options.names.split(","):
            if time.monotonic() - start > options.seconds:
                break
            case = options.folder / f"{name}-{number}".replace(" ", "_")
            (options.folder / "now").write_text(f"{name} {number}")
            case.mkdir(parents=True)
            begun = time.process_time()
            try:
                word = try_case(name, number, case)
                took, held = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                assert took < SECONDS, f"{took:.1f} seconds"
                assert held < BYTES, f"{held / 1e9:.1f} GB"
            except BaseException:
                failures += 1
                print(f"--- {name}, case {number}, in {case}:\n{traceback.format_exc()}", flush=True)
            else:
                shutil.rmtree(case)
                outcomes[word.partition(",")[0]] = outcomes.get(word.partition(",")[0], 0) + 1
            cases += 1
        else:
            continue
        break
    print(f"{cases} cases, {failures} failures; {outcomes}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
