"""Pages in Parquet files as OBELICS lays them out (arXiv 2306.16527): lists of images and texts that alternate.

OmniCorpus-CC and MINT-1T's HTML part differ in where a page's address is and in columns that are not read. Images are
addresses, or their content where somebody has filled it in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.formats import column, parquet

ROLES = {
    "images": ("images",),
    "texts": ("texts",),
    "address": ("general_metadata", "url"),  # JSON (OBELICS), a struct (OmniCorpus); a text of its own (MINT-1T)
}
OPTIONAL = ("address",)
_IMAGES = 2.5  # a page's on average (OBELICS)


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """Parts of a file. Raises ValueError when columns are missing."""
    yield from parquet.cut(path, options, ROLES, OPTIONAL, _IMAGES)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A page per row; a Dropped for each row that is damaged."""
    source, folder = corpus.name(task.path), corpus.folder(task.path)
    for item in parquet.rows(task, corpus.options, ROLES, source, OPTIONAL):
        if isinstance(item, Dropped):
            yield item
            continue
        place, row = item
        yield page(
            _address(row.get("address")) or place,
            place,
            row["images"],
            row["texts"],
            lambda cell, number, place=place: column.medium(cell, f"{place}, image {number}", folder, corpus.find),
            source,
        )


def page(
    key: str, place: str, images: Any, texts: Any, medium: Callable[[Any, int], Medium | None], source: str
) -> Raw | Dropped:
    """A page of two lists of equal length, of which each has None where the other one has something.

    Args:
        key: see ``Raw``.
        place: for the report.
        images, texts: the lists.
        medium: (item of ``images``, how many images came before it) -> the file.
        source: see ``Raw``.
    """
    if not (_is_list(images) and _is_list(texts) and len(images) == len(texts)):
        return Dropped("page damaged", f"{place}: images and texts are no lists of equal length", bad=True)
    parts, positions, media, length = [], [], [], 0
    for image, text in zip(images, texts, strict=True):
        if image is not None:
            file = medium(image, len(media)) or Medium(place, lambda: Dropped("image without address", place))
            positions.append(length)
            media.append(file)
        lines = [" ".join(line.split()) for line in text.split("\n")] if isinstance(text, str) else []
        if paragraphs := "\n".join(line for line in lines if line):
            parts.append(paragraphs)
            length += len(paragraphs) + 1
    text = "\n".join(parts)
    return Raw(key, text, tuple(min(p, len(text)) for p in positions), tuple(media), source, clip=False)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _address(cell: Any) -> str:
    """A page's address, from whatever its set keeps it in."""
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return ""
    address = cell.get("url") if isinstance(cell, dict) else cell
    return address if isinstance(address, str) and "://" in address else ""
