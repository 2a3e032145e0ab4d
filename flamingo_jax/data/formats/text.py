"""Text alone: JSON lines or Parquet with a text in each row -> documents without media, for the language model."""

from __future__ import annotations

from collections.abc import Iterator

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import column, parquet
from flamingo_jax.data.formats.lines import read_objects

ROLES = {"text": ("text", "content", "document")}


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """A file of JSON lines at once, a Parquet file in parts. Raises ValueError when it has no column of texts."""
    if path.endswith(".parquet"):
        yield from parquet.cut(path, options, ROLES, media=0.0)
    else:
        column.choose(ROLES, options.columns, list(options.columns.values()) or ["text"], path)  # lines tell no columns
        yield Task(path, size=size_of(path))


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A document per line of JSON or row with a text, in order; a Dropped for every other one that is not blank."""
    source, options = corpus.name(task.path), corpus.options
    if task.path.endswith(".parquet"):
        items, name = parquet.rows(task, options, ROLES, source), "text"
    else:
        items, name = read_objects(task.path, source), options.columns.get("text", "text")
    for item in items:
        if isinstance(item, Dropped):
            yield item
            continue
        place, fields = item
        text = fields.get(name)
        if isinstance(text, str) and text.strip():
            yield Raw(place, text.strip(), source=source)
        else:
            yield Dropped("line without text", place)
