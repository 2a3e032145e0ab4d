"""Small valid corpora of every format that can be prepared."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from archives import response
from PIL import Image
from prepared import pack

Files = dict[str, bytes]
"""A file's path below the corpus' folder -> its content."""

Corpora = tuple[Files, dict]
"""Files, and the options that read them; the paths among these are relative to the corpus' folder."""


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


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return buffer.getvalue()


def mmc4() -> Corpora:
    lines = mmc4_lines().encode()
    packed = zipped({"docs_shard_1_v2.jsonl": lines})
    files = {"docs_shard_0_v2.jsonl": lines, "docs_shard_1_v2.jsonl.zip": packed}
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
