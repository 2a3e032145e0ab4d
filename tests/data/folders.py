"""Small valid folders that are no corpora: evaluation sets, datasets, benchmarks; and what may come of damaged ones."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import public
from valid import Corpora, images
from written import write

from flamingo_jax.data import image, record
from flamingo_jax.data.benchmarks import BENCHMARKS, convert
from flamingo_jax.data.benchmarks.form import FACTS, LEFT_OUT, SCHEMA
from flamingo_jax.data.document import Document, decode, encode
from flamingo_jax.data.prepare import verify
from flamingo_jax.evaluation import benchmark

MEDIA = "media.txt"
"""A file of the names of a set's media, which is damaged like the others; the media themselves are never opened."""

TEXTS = {"id", "kind", "question", "ocr", "concept"}
LISTS = {"media", "answers", "options", "captions"}
NUMBERS = {"start", "end"}
KEYS = TEXTS | LISTS | NUMBERS | {"turns", "relevance", "attributes"}


def public_set(name: str) -> Corpora:
    files, media = public.SETS[name]()
    files = {path.rpartition("/")[2]: public.encode(content) for path, content in files.items()}
    return files | {MEDIA: "\n".join(media).encode()}, {"name": name.split()[0]}


def try_set(folder: pathlib.Path, options: dict, number: int) -> str:
    """Converts a set and reads it back; a quarter of the cases accept little damage."""
    for name in (folder / MEDIA).read_bytes().split(b"\n"):
        path = folder / os.fsdecode(name)
        if not name.startswith((b"/", b".")) and b"\0" not in name and b".." not in name.split(b"/"):
            with contextlib.suppress(OSError):  # too long, or there already as a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    name, target = options["name"], folder / ".target"
    try:
        report = convert(name, folder, target, max_bad=0.1 if number % 4 == 0 else 1.0)
    except (ValueError, OSError):
        assert not target.exists() or not list(target.iterdir()), "A benchmark is half written."
        raise
    found = benchmark.read(target, name)
    for split, items in (("support", found.support), ("query", found.query)):
        lines = list(read_lines(target / name / f"{split}.jsonl"))
        check_lines(lines, BENCHMARKS[name].kind, folder)
        assert len(items) == len(lines) == report["splits"].get(split, {"items": 0})["items"]
        for item in items:
            check_item(item)
    left_out = list(read_lines(target / name / LEFT_OUT))
    assert len(left_out) == sum(report["drops"].values()) and all(0 < len(line["place"]) <= 1000 for line in left_out)
    return f"{len(found.query)} queries, {report['bad']} bad"


def read_lines(path: pathlib.Path) -> Iterator[dict]:
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            yield json.loads(line, parse_constant=lambda name: 1 / 0)


def check_lines(lines: list[dict], kind: str, images: pathlib.Path) -> None:
    """That lines are what ``flamingo_jax.data.benchmarks.form`` says."""
    assert len({line["id"] for line in lines}) == len(lines)
    for line in lines:
        assert set(line) <= KEYS and "" not in line.values() and [] not in line.values(), line
        assert line["kind"] == kind and len(line["media"]) == 1 and (images / line["media"][0]).is_file(), line
        assert all(isinstance(line[key], str) for key in TEXTS & set(line)), line
        assert all(isinstance(text, str) for key in LISTS & set(line) for text in line[key]), line
        assert all(isinstance(line[key], float) for key in NUMBERS & set(line)), line
        assert ("end" in line) <= (line.get("start", 0.0) < line.get("end", math.inf)), line
        assert "relevance" not in line or len(line["relevance"]) == len(line["options"]), line
        assert all(isinstance(value, str) for value in line.get("attributes", {}).values()), line
        json.dumps({**line, "id": "", "media": []}, ensure_ascii=False).encode()  # files' names need not be Unicode


def check_item(item: benchmark.Item) -> None:
    """That every field is of the type that ``Item`` declares, which tasks rely on."""
    texts = (item.id, item.medium, item.concept, item.caption, item.question, item.answer, item.ocr)
    lists = (item.options, item.captions, item.answers, *item.turns, *item.attributes.items())
    assert all(isinstance(text, str) for group in (texts, *lists) for text in group), item
    assert item.id and all(len(turn) == 2 for turn in item.turns), item
    for value in (*item.relevance, item.start, *(() if item.end is None else (item.end,))):
        assert isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value), item


def dataset(how: str) -> Corpora:
    """Six documents in three files. how: "read" or "verified"."""
    frames = [image.store(data, 48) for data in list(images().values())[:2]]
    pages = [Document(f"page {i}", "one\ntwo", (0, 4), ((frames[0],), tuple(frames)), "raw") for i in range(6)]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder, "set")
        write(root, pages, 3)
        files = {path.name: path.read_bytes() for path in root.iterdir()}
    files[record.MANIFEST] = json.dumps(json.loads(files[record.MANIFEST])).encode()  # a line, to be damaged within
    return files, {"how": how}


def try_dataset(folder: pathlib.Path, options: dict, number: int) -> str:
    """Reads or verifies a dataset, in half of the cases after its manifest has been made to agree with its files."""
    if number % 2:
        with contextlib.suppress(
            ValueError, LookupError, TypeError, AttributeError, OSError
        ):  # not if it is damaged itself
            agree(folder)
    if options["how"] == "verified":
        with mock.patch.object(verify, "ProcessPoolExecutor", Here):
            faults = verify.verify(folder)
        assert all(isinstance(fault, str) and str(folder) in fault for fault in faults), faults
        if faults:
            return "0 documents, faults"
    source, bad = record.Source(folder), 0
    for index in range(min(len(source), 20)):
        try:
            check_document(source[index])
        except ValueError as error:
            assert options["how"] == "read", "Verified, but a record is damaged."
            assert str(folder) in str(error), error
            bad += 1
    return f"{len(source)} documents, {bad} bad"


def agree(folder: pathlib.Path) -> None:
    manifest = json.loads((folder / record.MANIFEST).read_bytes())
    for name, entry in manifest["files"].items():
        data = (folder / name).read_bytes()
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / record.MANIFEST).write_text(json.dumps(manifest))


def check_document(document: Document) -> None:
    assert all(isinstance(text, str) for text in (document.key, document.text, document.source)), document
    assert all(type(position) is int for position in document.positions), document
    assert decode(encode(document)) == document


class Here:
    """Stands for a pool of processes, which would take a second to start in every case."""

    def __init__(self, workers: int, *_):
        assert workers > 0

    def map(self, function: Callable, *columns: Sequence) -> Iterator:
        return (function(*row) for row in zip(*columns, strict=True))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


LINE = {
    "id": "val/1",
    "media": ["a.png"],
    "kind": "clip",
    "start": 1.5,
    "end": 3.0,
    "question": "What is it?",
    "answers": ["one", ""],
    "options": ["one", "two"],
    "captions": ["A thing."],
    "ocr": "text",
    "turns": [["Is it?", "yes"]],
    "relevance": [0.0, 1],
    "concept": "n1",
    "attributes": {"image_id": "1"},
}
"""With every key of the form."""


def converted() -> Corpora:
    """A benchmark as ``convert`` writes it."""
    splits = {split: {"split": "val", "items": 2, "media": 1, "answers": 2} for split in ("support", "query")}
    facts = {"schema": SCHEMA, "name": "x", "kind": "clip", "metric": "cider", "images": "media", "classes": ["a", "b"]}
    short = {key: LINE[key] for key in ("media", "question", "captions")}
    lines = "\n".join(map(json.dumps, (LINE, {"id": "val/2", **short}))).encode()
    return {
        "support.jsonl": lines,
        "query.jsonl": lines,
        FACTS: json.dumps(facts | {"splits": splits, "left_out": {}}).encode(),
    }, {}


def miniature() -> Corpora:
    """A benchmark of the miniature: without facts, with made-up words."""
    rows = [
        {"id": f"task/{i}", "media": [f"media/{i}.png"], "attributes": {"shape": "star"}, "concept": "c", **more}
        for i, more in enumerate(({"caption": "a star"}, {"question": "q", "answer": "a", "options": ["a", "b"]}))
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    return {"support.jsonl": lines, "query.jsonl": lines, "words.json": b'["dax", "blick"]'}, {}


def try_benchmark(folder: pathlib.Path, options: dict, number: int) -> str:
    found = benchmark.read(folder, "")
    for item in found.support + found.query:
        check_item(item)
    assert all(isinstance(word, str) for word in found.words) and isinstance(found.facts, dict)
    assert found.query or "query" not in found.facts.get("splits", {"query": 0})
    return f"{len(found.query)} queries, 0 bad"


FOLDERS: dict[str, Callable[[], Corpora]] = {
    **{f"set {name}": functools.partial(public_set, name) for name in public.SETS},
    "dataset read": lambda: dataset("read"),
    "dataset verified": lambda: dataset("verified"),
    "benchmark converted": converted,
    "benchmark miniature": miniature,
}
"""A name, which begins with a key of ``TRIES`` -> what makes a valid folder."""

TRIES: dict[str, Callable[[pathlib.Path, dict, int], str]] = {
    "set": try_set,
    "dataset": try_dataset,
    "benchmark": try_benchmark,
}
"""What reads a folder, given the options and the number of the case; it tells what came out, or raises."""
