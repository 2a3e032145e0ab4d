"""Multimodal C4 (arXiv 2304.06939), all its variants; and OpenFlamingo's tar files of it and of ChatGPT's sequences.

A line of JSON is a page: sentences, images, and to which sentence each image belongs. The sentences are joined by
spaces, for the line feeds between them are not known; an image stands before its sentence.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task, find_files
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.filters.align import MAX_CELLS, assign
from flamingo_jax.data.formats import column, tar
from flamingo_jax.data.formats.lines import parse, read_objects
from flamingo_jax.data.formats.packed import open_packed

MAX_DOCUMENT = 200_000_000
"""Bytes of one document of OpenFlamingo's, which holds its images."""

_GROWTH = 30  # times the size of a packed shard that its images take: 218 GB of them name 375 million (mmc4-ff)
_SHARD = re.compile(r"shard_(\d+)")
_PLACE = re.compile(r"_!_IMAGE\d+_!_")  # where an image stands in ChatGPT's sequences


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """A file at once."""
    yield Task(path, size=size_of(path) * (1 if tar.is_tar(path) else _GROWTH))


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A page per line, or per member of a tar file; a Dropped for each page or image that is damaged or left out."""
    source = corpus.name(task.path)
    folders = _folders(task.path, corpus)
    for item in _objects(task.path, source):
        if isinstance(item, Dropped):
            yield item
        elif "is_gpt" in item[1]:
            yield _sequence(*item, source)
        else:
            yield from _page(*item, source, folders, corpus)


def _objects(path: str, source: str) -> Iterator[tuple[str, dict[str, Any]] | Dropped]:
    if not tar.is_tar(path):
        yield from read_objects(path, source)
        return
    with open_packed(path) as file:
        for sample in tar.samples(file, source, {"json": MAX_DOCUMENT}):
            if isinstance(sample, Dropped):
                yield sample
            elif "json" in sample[1]:
                yield parse(sample[1]["json"], f"{source}/{sample[0]}")


def _page(
    place: str, fields: dict[str, Any], source: str, folders: tuple[str, ...], corpus: Corpus
) -> Iterator[Raw | Dropped]:
    sentences, images = fields.get("text_list"), fields.get("image_info")
    if not (isinstance(images, list) and isinstance(sentences, list) and all(isinstance(s, str) for s in sentences)):
        yield Dropped("page damaged", f"{place}: text_list is no list of texts, or image_info no list", bad=True)
        return
    images = [image if isinstance(image, dict) else {} for image in images]
    text, starts = _join(sentences)
    matrix = fields.get("similarity_matrix")
    if corpus.options.reassign:
        matches = _assign(images, matrix, len(sentences))
        if isinstance(matches, str):
            yield Dropped("similarity matrix damaged", f"{place}: {matches}", bad=True)
            return
    else:
        matches = [_index(image.get("matched_text_index"), len(sentences)) for image in images]
    placed = []
    for number, (image, match) in enumerate(zip(images, matches, strict=True)):
        where = f"{place}, image {number}"
        if match is None:
            yield Dropped("image without sentence", f"{where}: {image.get('matched_text_index')!r}", bad=True)
            continue
        if corpus.options.min_similarity:
            similarity = _similarity(image, matrix, number, match, corpus.options.reassign)
            if not math.isfinite(similarity):
                yield Dropped("image without similarity", where, bad=True)
                continue
            if similarity < corpus.options.min_similarity:
                yield Dropped("image unlike its sentence", f"{where}: {similarity:.3f}")
                continue
        placed.append((starts[match], _medium(image, where, folders, corpus)))
    placed.sort(key=lambda pair: pair[0])  # images are listed in any order
    url = fields.get("url")
    key = url if isinstance(url, str) and url else place
    yield Raw(key, text, tuple(start for start, _ in placed), tuple(m for _, m in placed), source, clip=False)


def _sequence(place: str, fields: dict[str, Any], source: str) -> Raw | Dropped:
    """A text of ChatGPT's with marks where its images stand."""
    example, images = fields.get("example"), fields.get("image_map")
    if not (isinstance(example, str) and isinstance(images, Mapping)):
        return Dropped("page damaged", f"{place}: example is no text, or image_map no map", bad=True)
    text, starts = _join(_PLACE.split(example))
    media = []
    for mark in _PLACE.findall(example):
        image = images.get(mark)
        media.append(_encoded(image.get("base64_image") if isinstance(image, Mapping) else None, f"{place}, {mark}"))
    return Raw(place, text, tuple(starts[1:]), tuple(media), source, clip=False)


def _join(sentences: list[str]) -> tuple[str, list[int]]:
    """The text, and where in it each sentence starts."""
    parts, starts, length = [], [], 0
    for sentence in sentences:
        words = " ".join(sentence.split())
        if words and parts:
            parts.append(" ")
            length += 1
        starts.append(length)
        if words:
            parts.append(words)
            length += len(words)
    return "".join(parts), starts


def _assign(images: list[dict], matrix: Any, sentences: int) -> list[int | None] | str:
    """The sentence of each image so that the sum of similarities is largest; or what is wrong with the matrix.

    No two images get one sentence while there are enough; those beyond go to the sentence that they are most similar
    to (MMC4's compute_assignments.py). In OpenFlamingo's files, images without content take no part.
    """
    try:
        similarities = np.array(matrix, np.float64) if images else np.empty((0, sentences))
    except (ValueError, TypeError, OverflowError):
        return "it is not made of numbers, or its rows differ in length"
    if similarities.shape != (len(images), sentences) or not sentences:
        return f"its shape is {similarities.shape} for {len(images)} images and {sentences} sentences"
    if similarities.size > MAX_CELLS:
        return f"it has {similarities.size} cells, more than {MAX_CELLS}"
    found: list[int | None] = [int(row.argmax()) if np.isfinite(row).all() else None for row in similarities]
    stored = ["image_base64" in image for image in images]
    usable = [i for i, match in enumerate(found) if match is not None and (stored[i] or not any(stored))]
    for number, match in zip(usable, assign(similarities[usable]), strict=True):
        found[number] = int(match)
    return found


def _index(value: Any, count: int) -> int | None:
    """A sentence's index, which some files have as a text; None for what is none of [0, count)."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count else None


def _similarity(image: dict, matrix: Any, number: int, match: int, reassigned: bool) -> float:
    """Of an image with its sentence; NaN if it is not known."""
    value = None if reassigned else image.get("matched_sim")
    try:
        return float(matrix[number][match] if value is None else value)
    except (ValueError, TypeError, LookupError, OverflowError):
        return math.nan


def _medium(image: dict, where: str, folders: tuple[str, ...], corpus: Corpus) -> Medium:
    if "image_base64" in image:
        return _encoded(image["image_base64"], where)
    name, address = (
        value if isinstance(value, str) else "" for value in (image.get("image_name"), image.get("raw_url"))
    )
    places = [f"{folder}{name}" for folder in folders if name]
    return column.named((address if "://" in address else "", *places), "", corpus.find)


def _encoded(data: Any, where: str) -> Medium:
    return Medium(where, functools.partial(_decode, data, where))


def _decode(data: Any, where: str) -> bytes | Dropped:
    if data is None:
        return Dropped("medium missing", where)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        return Dropped("image not readable", f"{where}: {error}", bad=True)


def _folders(path: str, corpus: Corpus) -> tuple[str, ...]:
    """Where download_images.py may have put a shard's images, as beginnings of paths, the likeliest first.

    A folder by the shard's number, or by its place in the list of shards that was downloaded; one named after the file;
    or none.
    """
    name = path.rpartition("/")[2]
    found = []
    if number := _SHARD.search(name):
        found += [f"{int(number[1])}/", f"{int(number[1]) - _first_shard(corpus.options.source)}/"]
    stem = re.sub(r"(\.jsonl)?(\.zip|\.gz|\.zst)?$", "", name)
    found += [f"{stem}_images/", ""]
    beside = corpus.folder(path)
    return tuple(dict.fromkeys(f"{beside}/{folder}" if beside else folder for folder in found))


@functools.lru_cache(maxsize=1)
def _first_shard(source: str) -> int:
    return min(int(number[1]) for path in find_files(source) if (number := _SHARD.search(path.rpartition("/")[2])))
