"""The public formats of raw files: each reads them into documents whose media are still files (``Raw``)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task, find_files
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import html, table, tar, text, warc


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


FORMATS = {
    "html": Format(html.read, "page"),
    "warc": Format(warc.read, "page"),
    "tar": Format(tar.read, "pair"),
    "table": Format(table.read, "pair", table.tasks),
    "text": Format(text.read, "text"),
}
