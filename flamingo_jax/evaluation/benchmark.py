"""A benchmark on disk: ``support.jsonl`` and ``query.jsonl``, and for public evaluation sets ``benchmark.json``.

``flamingo_jax.data.benchmarks.form`` says what the files hold. The miniature's have no benchmark.json: their media lie
beside them.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
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
    the form, for a line without id or media, and for a value of another type than the form's.
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
    found = _read_json(words) if words.exists() else []
    if not _are_texts(found):
        raise ValueError(f"{words} is no list of texts.")
    return Benchmark(name, items["support"], items["query"], tuple(found), facts)


def _read_facts(path: pathlib.Path) -> dict:
    facts = _read_json(path)
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        found = facts.get("schema") if isinstance(facts, dict) else None
        raise ValueError(f"{path} has schema {found!r}, but this version reads {SCHEMA}: convert the set anew.")
    _check_types(str(path), facts, _FACTS)
    return facts


def _read_json(path: pathlib.Path) -> Any:
    try:
        return _parse(path, path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"Cannot read the benchmark file {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.") from None


def _read_items(path: pathlib.Path, media: pathlib.Path, classes: tuple[str, ...]) -> tuple[Item, ...]:
    """The items of a file. media: the folder of their media. classes: their options where a line has none."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = enumerate(file, 1)
            items = tuple(_item(f"{path}, line {n}", line, media, classes) for n, line in lines if line.strip())
    except OSError as error:
        raise ValueError(f"Cannot read the benchmark file {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"The benchmark file {path} is not UTF-8: {error.reason}.") from None
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
    _check_types(place, row, _LINE)
    if len(row["media"]) != 1:
        raise ValueError(f"{place} has {len(row['media'])} media; one is supported.")
    known = {key: row[key] for key in _PLAIN if key in row}
    known |= {key: tuple(row[key]) for key in _LISTS if key in row}
    for one, several in (("caption", "captions"), ("answer", "answers")):
        if known.get(several):
            known.setdefault(one, known[several][0])
        elif one in known:
            known[several] = (known[one],)
    known.setdefault("options", classes)
    turns = tuple((question, answer) for question, answer in row.get("turns", ()))
    return Item(row["id"], str(media / row["media"][0]), turns=turns, **known)


_PLAIN = ("attributes", "concept", "caption", "question", "answer", "ocr", "start", "end")
_LISTS = ("options", "captions", "answers", "relevance")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # nor NaN


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_are_texts(pair) and len(pair) == 2 for pair in value)


def _are_named_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _are_named_objects(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())


Types = Mapping[str, tuple[str, Callable[[Any], bool]]]
"""Key -> what its value must be, in words, and whether one is."""

_LINE: Types = {
    **dict.fromkeys(("id", "concept", "caption", "question", "answer", "ocr"), ("a text", _is_text)),
    **dict.fromkeys(("media", "options", "captions", "answers"), ("a list of texts", _are_texts)),
    **dict.fromkeys(("start", "end"), ("a number", _is_number)),
    "relevance": ("a list of numbers", _are_numbers),
    "turns": ("a list of pairs of texts", _are_pairs),
    "attributes": ("an object of texts", _are_named_texts),
}
_FACTS: Types = {
    "images": ("a text", _is_text),
    "classes": ("a list of texts", _are_texts),
    "splits": ("an object of objects", _are_named_objects),
}


def _check_types(place: str, row: Mapping[str, Any], types: Types) -> None:
    for key, (kind, holds) in types.items():
        if key in row and not holds(row[key]):
            raise ValueError(f"{place}: {key} is {repr(row[key])[:40]}, but must be {kind}.")


def _parse(place: str | pathlib.Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no valid JSON: {error}.") from None
