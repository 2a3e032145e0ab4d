"""A benchmark on disk: ``support.jsonl`` and ``query.jsonl``, and for public evaluation sets ``benchmark.json``.

``flamingo_jax.data.benchmarks.form`` says what the files hold. The miniature's have no benchmark.json: their media lie
beside them.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flamingo_jax.data.benchmarks.form import FACTS, SCHEMA

SPLITS = ("support", "query")


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One line of a benchmark file: a medium and what is known about it; unknown texts are empty.

    id: unique within its benchmark. medium: path of its file. attributes: values by name: what the medium shows, or the
    ids and kinds that result files and metrics need. concept: its class.
    caption, answer: those that prompts show as right: the first of all ``captions`` and ``answers``, which are in the
    order of their annotators. options: the answers to choose from, when the benchmark is close-ended; relevance: their
    ratings. ocr: the text in the picture. turns: (question, answer) of what was said before the question.
    start, end: seconds, the part of the clip that counts; an end of None is the clip's.
    """

    id: str
    medium: str
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    concept: str = ""
    caption: str = ""
    question: str = ""
    answer: str = ""
    options: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    ocr: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    relevance: tuple[float, ...] = ()
    start: float = 0.0
    end: float | None = None

    def value(self, attribute: str) -> str:
        """The value of an attribute. Raises ValueError that names the item when it has none."""
        if attribute not in self.attributes:
            raise ValueError(f"Item {self.id} ({self.medium}) has no attribute {attribute}.")
        return self.attributes[attribute]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """support: items that prompts may show. query: items that are asked about. words: made-up words, for binding.

    facts: what benchmark.json says (metric, classes, source splits ..), empty where there is none.
    """

    name: str
    support: tuple[Item, ...]
    query: tuple[Item, ...]
    words: tuple[str, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def values(self, attribute: str) -> frozenset[str]:
        """All values of an attribute that occur in either split."""
        items = self.support + self.query
        return frozenset(item.attributes[attribute] for item in items if attribute in item.attributes)


def read(directory: pathlib.Path, name: str) -> Benchmark:
    """Reads ``directory/name`` and ``directory/words.json``, when there is one.

    Raises ValueError that names the file and line for a missing, cut off or damaged file, for one of another version of
    the form, and for a line without id or media.
    """
    folder = directory / name
    facts = _read_facts(folder / FACTS) if (folder / FACTS).exists() else {}
    media, classes = folder / facts.get("images", ""), tuple(facts.get("classes", ()))
    items = {}
    for split in SPLITS:
        path, known = folder / f"{split}.jsonl", facts.get("splits")
        items[split] = () if known and split not in known else _read_items(path, media, classes)
        if known and split in known and len(items[split]) != known[split].get("items"):
            raise ValueError(f"{path} has {len(items[split])} items, but {FACTS} counts {known[split].get('items')}.")
    words = directory / "words.json"
    found = tuple(_parse(words, words.read_text("utf-8"))) if words.exists() else ()
    return Benchmark(name, items["support"], items["query"], found, facts)


def _read_facts(path: pathlib.Path) -> dict:
    facts = _parse(path, path.read_text("utf-8"))
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else None
        raise ValueError(f"{path} has schema {found!r}, but this version reads {SCHEMA}: convert the set anew.")
    return facts


def _read_items(path: pathlib.Path, media: pathlib.Path, classes: tuple[str, ...]) -> tuple[Item, ...]:
    """The items of a file. media: the folder of their media. classes: their options where a line has none."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = enumerate(file, 1)
            items = tuple(_item(f"{path}, line {n}", line, media, classes) for n, line in lines if line.strip())
    except OSError as error:
        raise ValueError(f"Cannot read the benchmark file {path}: {error.strerror}.") from None
    if not items:
        raise ValueError(f"The benchmark file {path} holds no items.")
    return items


def _item(place: str, line: str, media: pathlib.Path, classes: tuple[str, ...]) -> Item:
    row = _parse(place, line)
    if not isinstance(row, dict):
        raise ValueError(f"{place} is no object.")
    missing = [key for key in ("id", "media") if not row.get(key)]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)}.")
    if len(row["media"]) != 1:
        raise ValueError(f"{place} has {len(row['media'])} media; one is supported.")
    known = {key: row[key] for key in _PLAIN if key in row}
    known |= {key: tuple(row[key]) for key in _LISTS if key in row}
    for one, several in (("caption", "captions"), ("answer", "answers")):
        if several in known:
            known.setdefault(one, known[several][0])
        elif one in known:
            known[several] = (known[one],)
    known.setdefault("options", classes)
    turns = tuple((question, answer) for question, answer in row.get("turns", ()))
    return Item(row["id"], str(media / row["media"][0]), turns=turns, **known)


_PLAIN = ("attributes", "concept", "caption", "question", "answer", "ocr", "start", "end")
_LISTS = ("options", "captions", "answers", "relevance")


def _parse(place, text: str):
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place} is no valid JSON: {error}.") from None
