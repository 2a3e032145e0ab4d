"""Images per second of processor time: a prepared dataset to batches, beside a bare decoder and OpenFlamingo's way.

    pip install webdataset torch==2.13.0
    python benchmarks/stream.py                 # processor time, the ways by turns
    python benchmarks/stream.py --parallel      # wall-clock time: threads against worker processes
    python benchmarks/stream.py --memory        # of batches of 256 pages, the paper's, on one host

The same JPEGs, stored as ``prepare`` stores pictures (longest side 320), go through
- simplejpeg alone: ``decode_jpeg`` of each, nothing else;
- streams of pages of five pictures and of pairs: records read in random order, text tokenised, pictures decoded and
  padded into uint8 batches, which is what a step takes: it makes floats of them on the device;
- the same of pairs, mirrored and recoloured; and both with float32 values, 0 to 255, made on this core;
- OpenFlamingo's way: webdataset's tar reader, ``pilrgb``, resize to 320 by bicubic, ToTensor, Normalize, a flip, and
  stacking, as open_flamingo/train/data.py and open_clip's transform do it, without torchvision (whose CPU build is not
  on every index) and without its tokeniser.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import multiprocessing
import os
import pathlib
import resource
import statistics
import tarfile
import tempfile
import time

import numpy as np
import simplejpeg
from images import photograph, rates

from flamingo_jax.config import ColourConfig, ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import image, record, stream, tokenizer
from flamingo_jax.data.document import Document, encode

SIZE, BATCH = 320, 60  # pictures
RECORDS = 6144
MEAN, STD = np.float32([122.77, 116.75, 104.09]), np.float32([68.5, 66.63, 70.32])
PAGE, PAIR = ExampleConfig(length=256, media=5, size=SIZE), ExampleConfig(length=32, size=SIZE, leading_space=0.5)
COLOUR = ColourConfig(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.02)


def make(folder: pathlib.Path, count: int, quality: int) -> list[bytes]:
    """Writes the dataset, the tar and the tokenizer. Returns the stored JPEGs."""
    large = [image.encode(photograph(*shape)) for shape in ((640, 480), (480, 640), (640, 427))]
    shifted = (image.encode(np.roll(image.decode(large[i % 3]), 7 * i, axis=1)) for i in range(count))
    stored = [image.store(data, SIZE, quality=quality) for data in shifted]
    captions = [f"a picture of thing {i % 50} beside thing {i % 7}" for i in range(count)]
    for name, media in (("pairs", 1), ("pages", 5)):
        data = folder / name
        data.mkdir()
        documents = (_document(i, media, captions, stored) for i in range(RECORDS // media))
        entry = record.write_file(str(data / "0.array_record"), map(encode, documents))
        record.write_manifest(data, {"0.array_record": entry}, {})
    tokenizer.train(captions, 400).save(folder / "tokenizer.json")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for i, (caption, data) in enumerate(zip(captions, stored, strict=True)):
            for suffix, content in (("jpg", data), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{i:09d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stored


def _document(number: int, media: int, captions: list[str], stored: list[bytes]) -> Document:
    some = [(number * media + i) % len(stored) for i in range(media)]
    starts = [sum(len(captions[i]) for i in some[:k]) for k in range(media)]
    return Document(f"{number}", "".join(captions[i] for i in some), tuple(starts), tuple((stored[i],) for i in some))


def open_stream(folder: pathlib.Path, name: str, example: ExampleConfig, threads=0, workers=0) -> stream.Stream:
    streams = StreamsConfig(threads=threads, workers=workers, prefetch=4)
    vocabulary, mix = tokenizer.load(folder / "tokenizer.json"), MixConfig(BATCH // example.media)
    return stream.stream(record.Source(folder / name), vocabulary, example, mix, seed=0, streams=streams)


def decode_alone(stored: list[bytes]) -> None:
    for data in stored:
        simplejpeg.decode_jpeg(data)


def take(batches: stream.Stream, count: int, floats: bool = False) -> None:
    for _ in range(count // BATCH):
        media = next(batches)["media"]
        if floats:  # one at a time: 1.2 MB that stay in the cache; of the batch at once it takes three times as long
            for picture in media.reshape(-1, SIZE, SIZE, 3):
                picture.astype(np.float32)


def open_flamingo(folder: pathlib.Path, count: int) -> None:
    import torch
    import webdataset as wds
    from PIL import Image

    torch.set_num_threads(1)
    mean, std = (torch.tensor(value / 255)[:, None, None] for value in (MEAN, STD))

    def transform(picture: Image.Image) -> torch.Tensor:
        width, height = picture.size
        scale = SIZE / min(width, height)
        picture = picture.resize((round(width * scale), round(height * scale)), Image.BICUBIC)
        left, top = (picture.width - SIZE) // 2, (picture.height - SIZE) // 2
        picture = picture.crop((left, top, left + SIZE, top + SIZE)).convert("RGB")
        tensor = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)
        return (tensor - mean) / std

    def batch(pictures: list[Image.Image]) -> torch.Tensor:
        stacked = torch.cat([transform(picture)[None] for picture in pictures])
        return stacked.flip(-1) if torch.rand(()) < 0.5 else stacked

    data = (
        wds.WebDataset(str(folder / "0.tar"), shardshuffle=False)
        .decode("pilrgb")
        .to_tuple("jpg;png;jpeg", "txt")
        .batched(BATCH, partial=False)
        .map_tuple(batch, lambda texts: texts)
    )
    assert sum(len(images) for images, _ in data) == count // BATCH * BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=780, help="more than the cache of small datasets holds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quality", type=int, default=image.QUALITY, help="of the stored JPEGs, as prepare's option")
    parser.add_argument("--parallel", action="store_true")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        stored = make(folder, options.images, options.quality)
        print(f"{options.images} JPEGs of {np.mean([len(data) for data in stored]) / 1000:.0f} KB, {SIZE} px")
        if options.memory:
            _memory(folder)
            return
        if options.parallel:
            _parallel(folder, options.images, options.rounds)
            return
        pages, pairs = open_stream(folder, "pages", PAGE), open_stream(folder, "pairs", PAIR)
        changed = open_stream(folder, "pairs", dataclasses.replace(PAIR, flip=0.5, colour=COLOUR))
        ways = {
            "simplejpeg alone": lambda: decode_alone(stored),
            "pages": lambda: take(pages, options.images),
            "pairs": lambda: take(pairs, options.images),
            "pairs, mirrored and recoloured": lambda: take(changed, options.images),
            "pages, and floats on this core": lambda: take(pages, options.images, floats=True),
            "pairs, and floats on this core": lambda: take(pairs, options.images, floats=True),
            "OpenFlamingo's way": lambda: open_flamingo(folder, options.images),
        }
        speed = {name: options.images * rate for name, rate in rates(ways, options.rounds).items()}
        alone, *_, theirs = speed.values()
        for name, rate in speed.items():
            print(
                f"{name}: {rate:,.0f} images/s; / simplejpeg alone: {rate / alone:.2f}, / "
                f"OpenFlamingo's way: {rate / theirs:.2f}"
            )
        print(f"largest resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def _memory(folder: pathlib.Path) -> None:
    """The largest resident memory of this process with two threads, and then of a worker."""
    vocabulary, source = tokenizer.load(folder / "tokenizer.json"), record.Source(folder / "pages")
    for streams in (StreamsConfig(threads=2), StreamsConfig(threads=1, workers=1)):
        batches = stream.stream(source, vocabulary, PAGE, MixConfig(256), seed=0, streams=streams)
        for _ in range(6):
            batch = next(batches)
        pids = [child.pid for child in multiprocessing.active_children()] if streams.workers else [os.getpid()]
        status = [pathlib.Path(f"/proc/{pid}/status").read_text() for pid in pids]
        peak = max(int(text.split("VmHWM:")[1].split()[0]) for text in status) / 2**20
        print(f"{streams}: batches of {batch['media'].nbytes / 2**20:.0f} MiB, largest resident memory {peak:.2f} GiB")
        batches.close()


def _parallel(folder: pathlib.Path, images: int, rounds: int) -> None:
    """Wall-clock time of threads and workers, each alone; what was made ahead is not counted."""
    seconds = {kind: [] for kind in ((0, 0), (1, 0), (2, 0), (4, 0), (0, 1), (0, 2), (2, 2))}
    for _ in range(rounds):
        for kind, times in seconds.items():
            batches = open_stream(folder, "pages", PAGE, *kind)
            take(batches, 20 * BATCH)  # more than the buffers hold, and than the cache
            start = time.perf_counter()
            take(batches, 2 * images)
            times.append(time.perf_counter() - start)
            batches.close()
    for (threads, workers), times in seconds.items():
        print(f"{threads} threads, {workers} workers: {2 * images / statistics.median(times):,.0f} images/s")


if __name__ == "__main__":
    main()
