"""What occurs elsewhere already: pages, images and paragraphs of a corpus, and images of benchmarks."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import urlsplit

import imagehash
import numpy as np
from etils import epath
from PIL import Image

from flamingo_jax.config import DuplicateRules
from flamingo_jax.data import image
from flamingo_jax.data.document import Dropped, Raw

# What is counted, as the first byte of its hash says; so that one table of numbers holds all.
PAGE, IMAGE, PARAGRAPH = range(3)


def needs_census(rules: DuplicateRules) -> bool:
    """Whether all raw files must be read once before documents are made."""
    return rules.pages or rules.image_copies > 0 or rules.paragraph_copies > 0


def census(raw: Raw, rules: DuplicateRules) -> Iterator[int]:
    """The hashes of what ``rules`` count in a document; unreadable media count as nothing."""
    if rules.pages:
        yield _hash(PAGE, raw.key.encode("utf-8", "replace"))
    if rules.paragraph_copies:
        site = _site(raw.key)
        yield from {_hash(PARAGRAPH, f"{site}\n{line}".encode("utf-8", "replace")) for line in raw.text.split("\n")}
    if rules.image_copies:
        for medium in raw.media:
            if not isinstance(data := medium.read(), Dropped):
                yield _hash(IMAGE, hashlib.blake2b(data, digest_size=16).digest())


COUNTED = np.dtype([("key", "u8"), ("count", "u4"), ("task", "u4")])
"""A row of a census: a hash, how often it occurs, and the first task that it occurs in."""


def count(rows: Iterable[tuple[int, int]]) -> np.ndarray:
    """(hash, task) of what was seen -> COUNTED [n], ascending."""
    array = np.array(list(rows), [("key", "u8"), ("task", "u4")])
    ones = np.empty(len(array), COUNTED)
    ones["key"], ones["count"], ones["task"] = array["key"], 1, array["task"]
    return merge([ones])


def merge(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The census of several parts together."""
    rows = np.concatenate([np.empty(0, COUNTED), *parts])
    rows = rows[np.lexsort((rows["task"], rows["key"]))]
    starts = np.flatnonzero(np.concatenate([[True], rows["key"][1:] != rows["key"][:-1]])) if len(rows) else []
    merged = rows[starts]  # the first of equal keys has the first task
    if len(rows):
        merged["count"] = np.add.reduceat(rows["count"], starts)
    return merged


def repeated(census: np.ndarray, rules: DuplicateRules) -> np.ndarray:
    """Those rows of a census that occur more often than they may."""
    limits = np.array([1, rules.image_copies, rules.paragraph_copies], np.uint32)
    return census[census["count"] > limits[(census["key"] >> np.uint64(56)).astype(int)]]


class Duplicates:
    """What must be left out of the documents of one shard.

    Args:
        found: what ``repeated`` returned.
        evaluation: uint64 [n], the perceptual hashes of benchmarks' images.
        distance: see ``DuplicateRules``.
    """

    def __init__(self, found: np.ndarray, evaluation: np.ndarray, distance: int):
        self._keys, self._tasks = (np.ascontiguousarray(found[field]) for field in ("key", "task"))
        self._evaluation, self._distance = evaluation, distance
        self._written: set[int] = set()  # of pages that occur more often, those that are in the dataset already

    def is_repeated_page(self, raw: Raw, task: int) -> bool:
        """Whether the page is, or will be, in the dataset already: of equal ones the first of all tasks is kept."""
        key = _hash(PAGE, raw.key.encode("utf-8", "replace"))
        if (first := self._first_task(key)) is None:
            return False
        if first != task or key in self._written:
            return True
        self._written.add(key)
        return False

    def is_repeated_image(self, digest: bytes) -> bool:
        """Whether images with these bytes, whose hash is ``digest``, occur too often."""
        return self._first_task(_hash(IMAGE, digest)) is not None

    def without_repeated_paragraphs(self, raw: Raw) -> Raw:
        """The page without the lines that its site repeats; images stay where they stood."""
        if not len(self._keys):
            return raw
        site, lines, positions, start, shift = _site(raw.key), [], list(raw.positions), 0, 0
        for line in raw.text.split("\n"):
            end = start + len(line) + 1
            gone = self._first_task(_hash(PARAGRAPH, f"{site}\n{line}".encode("utf-8", "replace"))) is not None
            for i, position in enumerate(raw.positions):
                if start <= position < end:
                    positions[i] = start - shift if gone else position - shift
            if gone:
                shift += len(line) + 1
            else:
                lines.append(line)
            start = end
        text = "\n".join(lines)
        return dataclasses.replace(raw, text=text, positions=tuple(min(p, len(text)) for p in positions))

    def _first_task(self, key: int) -> int | None:
        """The first task in which something occurs that occurs too often; None for what does not."""
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return int(self._tasks[at]) if at < len(self._keys) and int(self._keys[at]) == key else None

    def looks_like_evaluation(self, stored: bytes) -> bool:
        """Whether a stored image looks like one of a benchmark's."""
        if not len(self._evaluation):
            return False
        differing = np.bitwise_count(self._evaluation ^ np.uint64(perceptual_hash(stored)))
        return bool(differing.min() <= self._distance)


def perceptual_hash(data: bytes) -> int:
    """64 bits that images which look alike share: signs of the lowest frequencies (pHash).

    Raises ValueError when ``data`` is no readable image.
    """
    bits = imagehash.phash(Image.fromarray(image.decode(data, 320))).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def hash_images(
    files: list[str], mark: Callable[[str], None] = lambda digest: None, crashes: frozenset[str] = frozenset()
) -> np.ndarray:
    """The perceptual hashes of image files, uint64 [n]; those that are no readable images are left out.

    ``mark`` and ``crashes`` are as ``Maker`` has them.
    """
    found = []
    for path in files:
        data = epath.Path(path).read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if digest in crashes:
            continue
        mark(digest)
        try:
            found.append(perceptual_hash(data))
        except ValueError:
            continue
        finally:
            mark("")
    return np.array(found, np.uint64)


def _hash(kind: int, data: bytes) -> int:
    return kind << 56 | int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "little")


def _site(address: str) -> str:
    try:
        return urlsplit(address).netloc if "://" in address else ""
    except ValueError:  # e.g. a bracket where a host should be
        return ""
