"""The public files of evaluation sets: read strictly, item by item, so that an error names its place."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flamingo_jax.data.document import Dropped

MAX_BYTES = 4_000_000_000
"""Larger JSON files are refused: they are parsed as a whole."""

MAX_TEXT = 10_000
"""Characters of a question, answer or caption; a longer one is damaged."""

Rows = Iterator[tuple[str, Any]]
"""(place in its file, item as the file has it) or (place, Dropped)."""


class Bad(ValueError):
    """An item is damaged; the message says how."""


def keep(*keys: str) -> Callable[[dict], dict]:
    """A hook of ``load`` that forgets all other keys while the file is parsed: some hold gigabytes of annotations."""
    return lambda found: {key: found[key] for key in keys if key in found}


def load(path: str, hook: Callable[[dict], Any] | None = None) -> Any:
    """The value of a JSON file; NaN and infinities count as absent (None). Raises ValueError naming it."""
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty.")
    try:
        return json.loads(text, object_hook=hook, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        hint = " It looks like JSON Lines, but one JSON value is expected." if "Extra data" in str(error) else ""
        raise ValueError(f"{path} is no valid JSON: {error}.{hint}") from None


def load_rows(path: str, *keys: str, hook: Callable[[dict], Any] | None = None) -> Rows:
    """The items of the list that stands under ``keys``. Raises ValueError naming what is there instead."""
    return rows_of(load(path, hook), path, *keys)


def rows_of(value: Any, path: str, *keys: str) -> Rows:
    """The items of the list under ``keys`` of a value that was loaded from ``path``."""
    for depth, key in enumerate(keys):
        value = expect(value, dict, path, keys[:depth])
        if key not in value:
            raise ValueError(
                f"{path} lacks the key {'.'.join(keys[: depth + 1])}; it has {', '.join(sorted(value)[:10])}."
            )
        value = value[key]
    name = os.path.basename(path)
    for number, row in enumerate(expect(value, list, path, keys)):
        yield f"{name}, item {number}", row


def expect(value: Any, kind: type, path: str, keys: Iterable[str] = ()) -> Any:
    """``value`` if it is of the kind. Raises ValueError naming the file and the keys that lead to it."""
    if isinstance(value, kind):
        return value
    names = {dict: "an object", list: "a list", str: "a text"}
    place = f"{path} has {names.get(type(value), repr(value)[:40])}" + (f" at {'.'.join(keys)}" if keys else "")
    raise ValueError(f"{place}, but {names[kind]} is expected; is it the right file?")


def load_lines(path: str) -> Rows:
    """The items of a JSON Lines file, or of a JSON list. Raises ValueError when it is neither."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        yield from load_rows(path)
        return
    name, found = os.path.basename(path), False
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            row = json.loads(line, parse_constant=lambda _: None)
        except (ValueError, RecursionError) as error:
            row = Dropped("item damaged", f"{place}: {error}", bad=True)
        found = True
        yield place, row
    if not found:
        raise ValueError(f"{path} is empty.")


def load_table(path: str, *columns: str) -> Rows:
    """The rows of a CSV file with a header, as dicts. Raises ValueError when a column is missing."""
    name = os.path.basename(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(
                    f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; its first line is "
                    f"{', '.join(map(str, reader.fieldnames or ['empty']))[:200]}."
                )
            while True:
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    row = Dropped("item damaged", f"{name}, line {reader.line_num}: {error}", bad=True)
                place = f"{name}, line {reader.line_num}"
                if isinstance(row, dict) and (None in row or None in row.values()):
                    row = Dropped("item damaged", f"{place}: its fields are not those of the first line", bad=True)
                yield place, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}; convert it.") from None
    except (OSError, csv.Error) as error:
        raise ValueError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None


def read_text(path: str) -> str:
    """A UTF-8 file, without byte order mark. Raises ValueError naming it."""
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise ValueError(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}; is it the right file?")
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; convert it.") from None


def each(rows: Rows, make: Callable[[dict], dict | None]) -> Iterator[dict | Dropped]:
    """``make`` of each row that it does not leave out by None; a row about which it raises ``Bad`` is a Dropped."""
    for place, row in rows:
        if isinstance(row, Dropped):
            yield row
            continue
        try:
            made = make(_object(row))
        except Bad as error:
            made = Dropped("item damaged", f"{place}: {error}", bad=True)
        if made is not None:
            yield made


def join(questions: Rows, annotations: Rows, key: str) -> Rows:
    """Each question with its annotation under "annotation", joined by their ``key``, whatever the order of either.

    An annotation without question, a question without annotation and a second one of either are Dropped.
    """
    by_key: dict[str, tuple[str, dict]] = {}
    for place, row in annotations:
        found = _key(place, row, key)
        if isinstance(found, Dropped):
            yield place, found
        elif found in by_key:
            yield place, Dropped("id repeated", f"{place}: {key} {found} is that of {by_key[found][0]}", bad=True)
        else:
            by_key[found] = (place, row)
    seen = set()
    for place, row in questions:
        found = _key(place, row, key)
        if isinstance(found, Dropped):
            yield place, found
        elif found in seen:
            yield place, Dropped("id repeated", f"{place}: {key} {found} occurred before", bad=True)
        elif found not in by_key:
            yield place, Dropped("question without answers", f"{place}: {key} {found}", bad=True)
        else:
            yield place, {**row, "annotation": by_key[found][1]}
        if not isinstance(found, Dropped):
            seen.add(found)
    for found, (place, _) in by_key.items():
        if found not in seen:
            yield place, Dropped("answers without question", f"{place}: {key} {found}", bad=True)


def _key(place: str, row: Any, key: str) -> str | Dropped:
    try:
        return identity(_object(row), key)
    except Bad as error:
        return Dropped("item damaged", f"{place}: {error}", bad=True)


def _object(row: Any) -> dict:
    if not isinstance(row, dict):
        raise Bad(f"is {type(row).__name__}, but an object is expected")
    return row


def text(row: dict, key: str, default: str | None = None) -> str:
    """A text or number, its white space collapsed, as prompts and exact match want it. Raises Bad; an absent one is the
    default, and one that is absent or empty without default is bad."""
    value = row.get(key)
    if value is None and default is not None:
        return default
    found = clean(value, key)
    if not found and default is None:
        raise Bad(f"{key} is empty")
    return found


def clean(value: Any, what: str) -> str:
    """A text or number as text, its white space collapsed. Raises Bad for anything else and for absurd lengths."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Bad(f"{what} is missing" if value is None else f"{what} is no text but {type(value).__name__}")
    try:
        value = str(value)
    except ValueError:  # an integer of thousands of digits
        raise Bad(f"{what} is a number without end") from None
    if len(value) > MAX_TEXT:
        raise Bad(f"{what} has {len(value)} characters")
    return " ".join(value.encode("utf-8", "replace").decode().split())  # lone surrogates become question marks


def texts(row: dict, key: str) -> list[str]:
    """A list of texts, empty ones included: annotators are counted. Raises Bad."""
    values = row.get(key)
    if not isinstance(values, list):
        raise Bad(f"{key} is missing" if values is None else f"{key} is no list but {type(values).__name__}")
    if len(values) > MAX_TEXT:
        raise Bad(f"{key} has {len(values)} entries")
    return [clean(value, f"{key}[{i}]") for i, value in enumerate(values)]


def captions(row: dict, key: str) -> list[str]:
    """A list of texts of which at least one says something; those that do not are left out. Raises Bad."""
    found = [caption for caption in texts(row, key) if caption]
    if not found:
        raise Bad(f"{key} has no caption")
    return found


def identity(row: dict, key: str) -> str:
    """An id as text: 12, "12" and 12.0 are the same one. Raises Bad."""
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return text({key: value}, key)


def whole(row: dict, key: str) -> int:
    """A whole number that is not negative, also as text. Raises Bad."""
    value = identity(row, key)
    try:
        number = float(value)
        if number < 0 or number != int(number) or number > 2**53:
            raise ValueError
    except (ValueError, OverflowError):
        raise Bad(f"{key} is {value[:40]!r}, but must be a whole number") from None
    return int(number)


def seconds(row: dict, key: str) -> float:
    """A time in seconds, also as text. Raises Bad."""
    value = identity(row, key)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < 1e6:
        raise Bad(f"{key} is {value[:40]!r}, but must be seconds")
    return number


def part(start: float, end: float) -> dict[str, float]:
    """The keys of a part of a clip. Raises Bad when it is empty."""
    if end <= start:
        raise Bad(f"the clip ends at {end} s, which is not after its start at {start} s")
    return {"start": start, "end": end}
