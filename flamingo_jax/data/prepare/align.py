"""A prepared dataset becomes another one, with images before the sentences that they fit best: see ``AlignConfig``.

Its files are those of the dataset, one after another; the folder while it is made is as ``run`` tells.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from flamingo_jax import config as configs
from flamingo_jax.config import AlignConfig
from flamingo_jax.data import record
from flamingo_jax.data.document import Document, Dropped
from flamingo_jax.data.filters.align import Aligned, align, skip
from flamingo_jax.data.filters.sentences import sentences
from flamingo_jax.data.formats import FORMATS
from flamingo_jax.data.prepare import shard, state

_BATCHES = 8  # of images that are held at once
_CHARACTERS = 1_000_000  # of documents that are held at once


class Scorer(Protocol):
    """A model of images and texts whose vectors' products say how alike they are.

    Attributes:
        identity: equal for models that give the same vectors.
    """

    identity: str

    def picture(self, data: bytes) -> np.ndarray:
        """An image file -> what ``images`` takes, in any thread. Raises ValueError if it is unreadable."""

    def images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """-> unit vectors [n, E]."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """-> unit vectors [n, E]."""


@dataclasses.dataclass(frozen=True)
class _Page:
    """A document, its sentences, and a picture of each medium; or why it is not looked at."""

    document: Document
    spans: list[tuple[int, int]]
    pictures: list[np.ndarray]
    untouched: str


def realign(
    options: AlignConfig,
    target: str | os.PathLike,
    scorer: Scorer,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Writes the dataset ``options.source`` anew at ``target``. Begun before, it goes on where it stopped.

    Of a clip, its middle frame is looked at. Documents that are left without images are left out; those that cannot be
    looked at stay as they are.

    Args:
        target: the new dataset's folder; absent, empty, or of the same that was begun before.
        scorer: how alike images and sentences are.
        threads: that decode images, beside the one that computes.
        progress: called with (documents done, all).

    Returns:
        The report: that of ``prepare``, and placed (images before the sentence that was found for them), moved (how
        many of those stood elsewhere), similarity (the mean of those), untouched {reason: documents}.

    Raises:
        ValueError: there is no dataset of pages at the source, no document is left, or there is something else at
            ``target``.
        OSError: the dataset cannot be written.
    """
    target = os.fspath(target)
    source = record.Source(options.source)
    format = source.manifest["report"].get("format")
    if format in FORMATS and FORMATS[format].kind != "page":
        raise ValueError(f"{options.source} is no dataset of pages, but of the format {format}: nothing can be moved.")
    hashes = {name: entry["sha256"] for name, entry in source.manifest["files"].items()}
    plan = {"options": dataclasses.asdict(options), "files": hashes, "model": scorer.identity}
    if state.begin(target, json.dumps(plan), _fingerprint, "a dataset or a model"):
        return record.read_manifest(target)["report"]
    names = [name.removesuffix(".array_record") for name in hashes]
    sizes = [entry["records"] for entry in source.manifest["files"].values()]
    todo = state.todo(target, names, ".json")
    report = state.Progress(progress, len(source))
    report(sum(size for index, size in enumerate(sizes) if index not in todo))
    with ThreadPoolExecutor(threads) as pool:
        for index in todo:
            start = sum(sizes[:index])
            documents = _read(source, range(start, start + sizes[index]))
            _write(target, names[index], _look(documents, options, scorer, pool, report), options, scorer)
    total = {"format": format, "source": options.source} | _tally().report
    files = state.gather(target, names, total, _add)
    total["similarity"] /= max(total["placed"], 1)
    state.finish(target, names, files, total, _fingerprint(json.dumps(plan)))
    return total


def _fingerprint(text: str) -> str:
    plan = json.loads(text)
    plan["options"] = dataclasses.asdict(configs.build(plan["options"] | {"batch": 1}, AlignConfig))
    return hashlib.sha256(json.dumps([plan["options"], plan["files"], plan["model"]]).encode()).hexdigest()


def _read(source: record.Source, numbers: Iterable[int]) -> Iterator[Document | Dropped]:
    for number in numbers:
        try:
            yield source[number]
        except ValueError as error:
            yield Dropped("record damaged", str(error), bad=True)


def _look(
    documents: Iterator[Document | Dropped],
    options: AlignConfig,
    scorer: Scorer,
    pool: ThreadPoolExecutor,
    report: Callable[[int], None],
) -> Iterator[list[_Page | Dropped]]:
    """Documents in groups that fill batches; each group is read and decoded while the one before it is computed."""

    def group() -> list[_Page | Dropped]:
        found, images, characters = [], 0, 0
        for document in documents:
            found.append(document)
            if isinstance(document, Document):
                images, characters = images + len(document.media), characters + len(document.text)
            if images >= _BATCHES * options.batch or characters >= _CHARACTERS:
                break
        return list(pool.map(functools.partial(_page, scorer), found))

    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(group)
        while found := following.result():
            following = ahead.submit(group)
            yield found
            report(len(found))


def _page(scorer: Scorer, document: Document | Dropped) -> _Page | Dropped:
    if isinstance(document, Dropped):
        return document
    spans, pictures = sentences(document.text), []
    reason = skip(document, spans)
    if not reason:
        try:
            pictures = [scorer.picture(frames[len(frames) // 2]) for frames in document.media]
        except ValueError:
            reason = "image not readable"
    return _Page(document, spans, [] if reason else pictures, reason)


def _write(
    target: str, name: str, groups: Iterator[list[_Page | Dropped]], options: AlignConfig, scorer: Scorer
) -> None:
    """Writes a file of the dataset and what is to be told of it."""
    tally = _tally()

    def outcomes() -> Iterator[Document | Dropped]:
        for found in (found for group in groups for found in _align(group, options, scorer)):
            if isinstance(found, Dropped):
                yield found
                continue
            _add_aligned(tally.report, found)
            yield from found.dropped
            if found.document is not None:
                yield found.document

    shard.write_outcomes(target, name, outcomes(), tally)


def _align(group: list[_Page | Dropped], options: AlignConfig, scorer: Scorer) -> Iterator[Aligned | Dropped]:
    """What becomes of a group, whose images and sentences are computed together."""
    pages = [page for page in group if isinstance(page, _Page) and page.pictures]
    images = scorer.images([picture for page in pages for picture in page.pictures])
    texts = scorer.texts([page.document.text[start:end] for page in pages for start, end in page.spans])
    image = text = 0
    for page in group:
        if isinstance(page, Dropped):
            yield page
        elif not page.pictures:
            yield Aligned(page.document, untouched=page.untouched)
        else:
            own = images[image : image + len(page.pictures)], texts[text : text + len(page.spans)]
            image, text = image + len(page.pictures), text + len(page.spans)
            yield align(page.document, own[0] @ own[1].T, options)


def _tally() -> shard.Tally:
    tally = shard.Tally(max_bad=1.0)
    tally.report |= {"placed": 0, "moved": 0, "similarity": 0.0, "untouched": {}}
    return tally


def _add_aligned(report: dict, found: Aligned) -> None:
    report["placed"] += len(found.similarities)
    report["moved"] += found.moved
    report["similarity"] += sum(found.similarities)
    if found.untouched:
        report["untouched"][found.untouched] = report["untouched"].get(found.untouched, 0) + 1


def _add(report: dict, part: dict) -> None:
    """Adds the report of a file to that of all before it."""
    shard.add(report, part)
    for key in ("placed", "moved", "similarity"):
        report[key] += part[key]
    for reason, count in part["untouched"].items():
        report["untouched"][reason] = report["untouched"].get(reason, 0) + count
