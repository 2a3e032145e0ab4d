"""The public formats of raw files: each reads them into documents whose media are still files (``Raw``)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task, find_files
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import captions, html, interleaved, mint, mmc4, parquet, table, tar, text, tfds, warc


@dataclasses.dataclass(frozen=True)
class Format:
    """Attributes:
    read: what a task's items are, in order. It raises OSError for a file that cannot be opened, ValueError for one that
        is not of the format at all; what is wrong with an item, it yields.
    kind: "page" (interleaved, held to the rules for images of pages), "pair" (a medium and its caption) or "text".
    tasks: the tasks of a file that is not read at once.
    list: the files of ``options.source``, where that is no glob.
    """

    read: Callable[[Task, Corpus], Iterator[Raw | Dropped]]
    kind: str
    tasks: Callable[[str, CorpusConfig], Iterator[Task]] = lambda path, _: iter([Task(path, size=size_of(path))])
    list: Callable[[str], list[str]] = find_files


def _pairs(module, layout) -> Format:
    """A format of a module that reads several, which differ in a layout."""
    return Format(functools.partial(module.read, layout=layout), "pair", functools.partial(module.tasks, layout=layout))


_INTERLEAVED = Format(interleaved.read, "page", interleaved.tasks)

FORMATS = {
    "html": Format(html.read, "page"),
    "warc": Format(warc.read, "page"),
    "mmc4": Format(mmc4.read, "page", mmc4.tasks),
    "obelics": _INTERLEAVED,
    "omnicorpus": _INTERLEAVED,
    "mint": Format(mint.read, "page", mint.tasks),
    "tar": Format(tar.read, "pair"),
    "parquet": Format(parquet.read, "pair", parquet.tasks),
    "table": _pairs(table, table.LAYOUTS["table"]),
    "cc3m": _pairs(table, table.LAYOUTS["cc3m"]),
    "cc12m": _pairs(table, table.LAYOUTS["cc12m"]),
    "webvid": _pairs(table, table.LAYOUTS["webvid"]),
    "sbu": _pairs(captions, captions.sbu),
    "coco": _pairs(captions, captions.coco),
    "tfds": Format(tfds.read, "pair", tfds.tasks, lambda source: [source]),
    "text": Format(text.read, "text", text.tasks),
}
