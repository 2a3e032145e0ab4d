"""From a document as its format has it to one of a dataset: filtered, its media decoded and stored at their size."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data import image, video
from flamingo_jax.data.document import Document, Dropped, Medium, Raw
from flamingo_jax.data.filters.duplicates import Duplicates
from flamingo_jax.data.filters.text import judge
from flamingo_jax.data.formats import FORMATS

MAX_CAPTION = 100_000
"""Characters of a pair's text: a longer one is no caption."""

MAX_IMAGE_BYTES = 50_000_000
"""Larger image files are not decoded."""

MAX_MEDIA = 2_000
"""Of a document: a page can name an image a million times in a few MB, and a record holds each."""

_CACHE_BYTES = 64_000_000  # of stored images: the pages of a site share theirs


def reject(raw: Raw, options: CorpusConfig) -> str | None:
    """Why a page is left out before its images are looked at, or None."""
    if not raw.media:
        return "page without images"
    if not raw.text.strip():
        return "page without text"
    return judge(raw.text, options.text) if options.format in options.text.formats else None


def clean(caption: str, place: str) -> str | Dropped:
    """A pair's text on one line, or why it is none."""
    caption = " ".join(caption.split())
    if not caption:
        return Dropped("pair without caption", place)
    if len(caption) > MAX_CAPTION:
        return Dropped("caption too long", f"{place}: {len(caption)} characters", bad=True)
    return caption


class Maker:
    """Makes documents of one corpus; it keeps the images that it stored already, for pages share them.

    Args:
        options: the corpus.
        duplicates: what occurs elsewhere.
        mark: told of the hash of every medium before it is decoded, and of "" after that.
        crashes: hashes of media that crashed a process when they were decoded.
    """

    def __init__(
        self,
        options: CorpusConfig,
        duplicates: Duplicates,
        mark: Callable[[str], None] = lambda digest: None,
        crashes: frozenset[str] = frozenset(),
    ):
        self._options = options
        self._kind = FORMATS[options.format].kind
        self._duplicates = duplicates
        self._mark, self._crashes = mark, crashes
        self._stored: dict[bytes, bytes | Dropped] = {}
        self._cached = 0

    def __call__(self, raw: Raw, task: int) -> Iterator[Document | Dropped]:
        """Yields a Dropped for each medium that is left out, and then the document, or a Dropped in its place.

        task: the number of the task that ``raw`` comes from; of equal pages that of the first task is kept.
        """
        kept = {"page": self._page, "pair": self._pair, "text": lambda raw, _: raw}[self._kind](raw, task)
        if isinstance(kept, Dropped):
            yield kept
            return
        for _ in range(raw.text.count("\n") - kept.text.count("\n") if self._kind == "page" else 0):
            yield Dropped("paragraph repeated", raw.key)
        positions, media = [], []
        seen = set()
        if len(kept.media) > MAX_MEDIA:
            yield Dropped(
                "too many media", f"{raw.key}: those after the first {MAX_MEDIA} of {len(kept.media)}", bad=True
            )
        for position, medium in itertools.islice(zip(kept.positions, kept.media, strict=True), MAX_MEDIA):
            frames = self._medium(medium, raw.clip, seen)
            if isinstance(frames, Dropped):
                yield dataclasses.replace(frames, place=f"{raw.key}: {frames.place}")
            else:
                positions.append(position)
                media.append(frames)
        if media or self._kind == "text":
            yield Document(raw.key, kept.text, tuple(positions), tuple(media), raw.source)
        elif self._kind == "page":
            yield Dropped("page left without images", raw.key)

    def _page(self, raw: Raw, task: int) -> Raw | Dropped:
        if reason := reject(raw, self._options):
            return Dropped(reason, raw.key)
        if self._duplicates.is_repeated_page(raw, task):
            return Dropped("page repeated", raw.key)
        kept = self._duplicates.without_repeated_paragraphs(raw)
        if kept.text != raw.text and (reason := reject(kept, self._options)):
            return Dropped(reason, raw.key)
        return kept

    def _pair(self, raw: Raw, task: int) -> Raw | Dropped:
        caption = clean(raw.text, raw.key)
        if isinstance(caption, Dropped):
            return caption
        return dataclasses.replace(raw, text=caption, positions=(0,) * len(raw.media))

    def _medium(self, medium: Medium, clip: bool | None, seen: set[bytes]) -> tuple[bytes, ...] | Dropped:
        data = medium.read()
        if isinstance(data, Dropped):
            return data
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if self._options.duplicates.in_page and digest in seen:
            return Dropped("image repeated in its page", medium.name)
        seen.add(digest)
        if self._duplicates.is_repeated_image(digest):
            return Dropped("image repeated", medium.name)
        if digest.hex() in self._crashes:
            return Dropped("medium crashes its decoder", medium.name, bad=True)
        self._mark(digest.hex())
        try:
            if clip or (clip is None and video.is_video(data)):
                return self._clip(data, medium.name)
            return self._image(data, digest, medium.name)
        finally:  # an error of Python, or Ctrl-C, is no crash
            self._mark("")

    def _image(self, data: bytes, digest: bytes, name: str) -> tuple[bytes] | Dropped:
        found = self._stored.get(digest)
        if found is None:
            found = self._store(data)
            self._cached += len(found) if isinstance(found, bytes) else 200
            if self._cached > _CACHE_BYTES:
                self._stored.clear()
                self._cached = 0
            self._stored[digest] = found
        # The same bytes may have several names, so what is kept does not hold one.
        return dataclasses.replace(found, place=name + found.place) if isinstance(found, Dropped) else (found,)

    def _store(self, data: bytes) -> bytes | Dropped:
        options = self._options
        if len(data) > MAX_IMAGE_BYTES:
            return Dropped("image too large", f": {len(data)} bytes", bad=True)
        rules = options.image if self._kind == "page" else None
        stored = image.store(data, options.size, rules, "", options.quality)
        if isinstance(stored, bytes) and self._duplicates.looks_like_evaluation(stored):
            return Dropped("image of an evaluation", "")
        return stored

    def _clip(self, data: bytes, name: str) -> tuple[bytes, ...] | Dropped:
        options = self._options
        try:
            frames = video.decode(data, fps=options.fps, max_frames=options.max_frames, size=options.size)
        except ValueError as error:
            return Dropped("clip not readable", f"{name}: {error}", bad=True)
        return tuple(image.encode(frame, options.quality) for frame in frames)
