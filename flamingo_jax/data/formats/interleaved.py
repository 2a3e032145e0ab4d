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
# What OBELICS has where a page goes on to another topic, or texts to read elsewhere begin; it trains on an end there.
_END = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
_IMAGES = 2.5  # a page's on average (OBELICS)


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """Parts of a file. Raises ValueError when columns are missing."""
    yield from parquet.cut(path, options, ROLES, OPTIONAL, _IMAGES)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """The pages of each row, nearly always one; a Dropped for each row that is damaged."""
    source, folder = corpus.name(task.path), corpus.folder(task.path)
    for item in parquet.rows(task, corpus.options, ROLES, source, OPTIONAL):
        if isinstance(item, Dropped):
            yield item
            continue
        place, row = item
        key = _address(row.get("address")) or place
        for part, (images, texts) in enumerate(_split(row["images"], row["texts"])):
            yield page(
                f"{key}#{part}" if part else key,
                place,
                images,
                texts,
                lambda cell, number, place=place: column.medium(cell, f"{place}, image {number}", folder, corpus.find),
                source,
            )


def _split(images: Any, texts: Any) -> list[tuple[Any, Any]]:
    """The two lists of a row, cut where a text says that another document begins."""
    if not _are_parallel(images, texts):
        return [(images, texts)]
    parts = [([], [])]
    for image, text in zip(images, texts, strict=True):
        first, *others = text.split(_END) if isinstance(text, str) else (text,)
        parts[-1][0].append(image)
        parts[-1][1].append(first)
        parts += [([None], [other]) for other in others]
    return parts


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
    if not _are_parallel(images, texts):
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


def _are_parallel(*values: Any) -> bool:
    are_lists = all(isinstance(value, Sequence) and not isinstance(value, (str, bytes)) for value in values)
    return are_lists and len({len(value) for value in values}) == 1


def _address(cell: Any) -> str:
    """A page's address, from whatever its set keeps it in."""
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return ""
    address = cell.get("url") if isinstance(cell, dict) else cell
    return address if isinstance(address, str) and "://" in address else ""
