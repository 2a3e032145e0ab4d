"""Captions in one file of JSON, as COCO and SBU come: a pair per caption, so that an image may occur several times.

The whole file is held by each process that works on it; COCO's largest has 90 MB.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import MEDIUM_BYTES, Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import column
from flamingo_jax.data.formats.packed import Damaged, open_packed

MAX_BYTES = 2_000_000_000
"""Of the unpacked file; a longer one is refused."""

IMAGES = 2_000  # of a task
_SPLIT = re.compile(r"COCO_(\w+?)_|captions_(\w+)\.json")  # in the names of images, or of the file


@dataclasses.dataclass(frozen=True)
class Image:
    """An image's captions: (what tells one from the others, text), and where it may be, the likeliest place first."""

    names: tuple[str, ...]
    captions: list[tuple[str, str]]


Layout = Callable[[Any, str], tuple[list[Image], list[str]]]
"""(content of the file, its path) -> its images, and what is wrong with it. Raises ValueError for other files."""


def coco(content: Any, path: str) -> tuple[list[Image], list[str]]:
    """``captions_{train,val}2014.json``: {images: [{id, file_name}], annotations: [{id, image_id, caption}]}."""
    listed, annotations = _lists(content, ("images", "annotations"), path)
    images, wrong = {}, []
    for number, entry in enumerate(listed):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(identity, (int, str)):
            wrong.append(f"images[{number}] has no file_name or no id")
            continue
        split = _SPLIT.search(name) or _SPLIT.search(os.path.basename(path))
        folder = f"{split[1] or split[2]}/{name}" if split else ""
        address = entry.get("coco_url")
        images[identity] = Image((name, folder, address if isinstance(address, str) else ""), [])
    for number, entry in enumerate(annotations):
        identity = entry.get("image_id") if isinstance(entry, dict) else None
        caption = entry.get("caption") if isinstance(entry, dict) else None
        if not isinstance(identity, (int, str)) or identity not in images or not isinstance(caption, str):
            wrong.append(f"annotations[{number}] has no caption, or is of no image")
        else:
            images[identity].captions.append((str(entry.get("id", number)), caption))
    return list(images.values()), wrong


def sbu(content: Any, path: str) -> tuple[list[Image], list[str]]:
    """``sbu-captions-all.json``: {image_urls: [...], captions: [...]}, the n-th of one with the n-th of the other."""
    urls, captions = _lists(content, ("image_urls", "captions"), path)
    if len(urls) != len(captions):
        raise ValueError(f"{path} has {len(urls)} image_urls for {len(captions)} captions; it is not whole.")
    images, wrong = [], []
    for number, (url, caption) in enumerate(zip(urls, captions, strict=True)):
        if isinstance(url, str) and isinstance(caption, str):
            images.append(Image((url,), [(str(number), caption)]))
        else:
            wrong.append(f"{number} is no pair of texts")
    return images, wrong


def tasks(path: str, options: CorpusConfig, layout: Layout) -> Iterator[Task]:
    """Tasks of ``IMAGES`` images. Raises ValueError when the file is of another kind."""
    size = size_of(path)
    try:
        images, _ = _load(path, size, layout)
    except Damaged:
        yield Task(path, size=size)
        return
    for start in range(0, max(len(images), 1), IMAGES):
        part = images[start : start + IMAGES]
        named = sum(len(image.captions) for image in part) * MEDIUM_BYTES
        yield Task(path, start, start + IMAGES, named + size * len(part) // max(len(images), 1))


def read(task: Task, corpus: Corpus, layout: Layout) -> Iterator[Raw | Dropped]:
    """A pair per caption; the first task also tells what is wrong with the file."""
    source, folder = corpus.name(task.path), corpus.folder(task.path)
    try:
        images, wrong = _load(task.path, size_of(task.path), layout)
    except Damaged as error:
        yield Dropped("file damaged", f"{source}: {error}", bad=True)
        return
    if task.start == 0:
        yield from (Dropped("caption damaged", f"{source}: {reason}", bad=True) for reason in wrong)
    for image in images[task.start : task.stop]:
        medium = column.named(image.names, folder, corpus.find)
        if not image.captions:
            yield Dropped("pair without caption", f"{source}: {medium.name}")
        for name, caption in image.captions:
            yield Raw(f"{source}:{name}", caption, (0,), (medium,), source)


@functools.lru_cache(maxsize=1)  # for the next task is of the same file
def _load(path: str, size: int, layout: Layout) -> tuple[list[Image], list[str]]:
    """What ``layout`` returns. ``size``: the file's, for it may have changed. Raises Damaged for what is no JSON."""
    with open_packed(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Damaged(f"it has more than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from None
    return layout(content, path)


def _lists(content: Any, names: tuple[str, str], path: str) -> list[list]:
    lists = [content.get(name) if isinstance(content, dict) else None for name in names]
    if not all(isinstance(value, list) for value in lists):
        raise ValueError(f"{path} has no lists {names[0]} and {names[1]}; is it of another format?")
    return lists
