"""How preparation scales: ``python benchmarks/prepare.py``.

Prepares the same web archives with one process and with two, in turn, and prints the times, their ratio, and the
largest memory of any process. The archives hold pages of some words with a picture of 640 x 480 pixels each.

    --documents=100000 --pixels=160 --rounds=0      memory of a larger corpus alone, with two processes
"""

from __future__ import annotations

import gzip
import io
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from PIL import Image

_DOCUMENTS = flags.DEFINE_integer("documents", 8000, "Pages.")
_PIXELS = flags.DEFINE_integer("pixels", 640, "Width of the pictures.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that each number of processes is timed; 0 measures memory alone.")
_ARCHIVES = 16


def _record(address: str, kind: str, body: bytes) -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {address}\r\nContent-Type: application/http\r\n"
    return gzip.compress(f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n", 1)


def _write(folder: pathlib.Path, count: int, width: int) -> None:
    """Archives of pages and their pictures. Pictures differ by what follows their last byte, which decoders ignore."""
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, n)) for n in rng.integers(3, 9, 2000)]
    words += "the be to of and that have with".split() * 40
    pictures = []
    for _ in range(50):
        clouds = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((width, width * 3 // 4))
        noisy = np.clip(np.asarray(clouds) + rng.normal(0, 8, (width * 3 // 4, width, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    for part in range(_ARCHIVES):
        with (folder / f"{part:03d}.warc.gz").open("wb") as file:
            for i in range(part, count, _ARCHIVES):
                text = " ".join(rng.choice(words, 200))
                page = f"<h1>page {i}</h1><img src='/{i}.jpg'><p>{text}</p>".encode()
                file.write(_record(f"https://example.org/{i}.html", "text/html", page))
                file.write(_record(f"https://example.org/{i}.jpg", "image/jpeg", pictures[i % 50] + i.to_bytes(4)))


def _prepare(source: pathlib.Path, workers: int) -> float:
    """Seconds that the command takes."""
    target = source / "set"
    command = [sys.executable, "-m", "flamingo_jax.prepare", "--format=warc", f"--source={source}/*.warc.gz"]
    command += [f"--target={target}", f"--workers={workers}", "--set=text.languages=()", "--set=shards=16"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode or f"{_DOCUMENTS.value:,} documents" not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    shutil.rmtree(target)
    return seconds


def main(_) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _write(folder, _DOCUMENTS.value, _PIXELS.value)
        print(f"{_DOCUMENTS.value} pages, {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.0f} MB")
        if _ROUNDS.value:
            times = {1: [], 2: []}
            for _ in range(_ROUNDS.value):
                for workers, seconds in times.items():
                    seconds.append(_prepare(folder, workers))
            for workers, seconds in times.items():
                print(f"{workers} process(es): {', '.join(f'{s:.1f}' for s in seconds)} s")
            one, two = (statistics.median(seconds) for seconds in times.values())
            print(f"1 / 2: {one / two:.2f}")
        else:
            print(f"2 processes: {_prepare(folder, 2):.1f} s")
    # Of the commands and of the processes that they started, the largest one.
    print(f"largest resident memory: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    app.run(main)
