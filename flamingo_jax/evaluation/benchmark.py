"""A benchmark on disk: ``support.jsonl`` and ``query.jsonl`` beside their media files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

SPLITS = ("support", "query")


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of a benchmark file: a medium and what is known about it; unknown texts are empty.

    id: unique within its benchmark. medium: path of its file. attributes: values by name. concept: its class.
    options: the answers to choose from, when the benchmark is close-ended.
    """

    id: str
    medium: str
    attributes: Mapping[str, str]
    concept: str = ""
    caption: str = ""
    question: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()

    def value(self, attribute: str) -> str:
        """The value of an attribute. Raises ValueError that names the item when it has none."""
        if attribute not in self.attributes:
            raise ValueError(f"Item {self.id} ({self.medium}) has no attribute {attribute}.")
        return self.attributes[attribute]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """support: items that prompts may show. query: items that are asked about. words: made-up words, for binding."""

    name: str
    support: tuple[Item, ...]
    query: tuple[Item, ...]
    words: tuple[str, ...] = ()

    def values(self, attribute: str) -> frozenset[str]:
        """All values of an attribute that occur in either split."""
        items = self.support + self.query
        return frozenset(item.attributes[attribute] for item in items if attribute in item.attributes)


def read(directory: pathlib.Path, name: str) -> Benchmark:
    """Reads ``directory/name/{support,query}.jsonl`` and ``directory/words.json``, when there is one.

    Raises ValueError that names the file and line for a missing or damaged file and for a line without id, media or
    attributes.
    """
    support, query = (_read_items(directory / name / f"{split}.jsonl") for split in SPLITS)
    words = directory / "words.json"
    return Benchmark(name, support, query, tuple(_parse(words, words.read_text("utf-8"))) if words.exists() else ())


def _read_items(path: pathlib.Path) -> tuple[Item, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"Cannot read the benchmark file {path}: {error.strerror}.") from None
    items = tuple(_item(path, number, line) for number, line in enumerate(lines, 1) if line.strip())
    if not items:
        raise ValueError(f"The benchmark file {path} holds no items.")
    return items


def _item(path: pathlib.Path, number: int, line: str) -> Item:
    place = f"{path}, line {number}"
    row = _parse(place, line)
    missing = [key for key in ("id", "media", "attributes") if not row.get(key)]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}.")
    if len(row["media"]) != 1:
        raise ValueError(f"{place} has {len(row['media'])} media; one is supported.")
    texts = {key: row[key] for key in ("concept", "caption", "question", "answer") if key in row}
    medium, options = str(path.parent / row["media"][0]), tuple(row.get("options", ()))
    return Item(row["id"], medium, row["attributes"], options=options, **texts)


def _parse(place, text: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is no valid JSON: {error}.") from None
