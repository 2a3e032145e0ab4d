"""One evaluation set, from its public files to its folder in the internal form (``form``)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from flamingo_jax.config import suggest
from flamingo_jax.data.benchmarks.form import FACTS, LEFT_OUT, SCHEMA, EvaluationSet, Files, Source
from flamingo_jax.data.benchmarks.index import Index
from flamingo_jax.data.document import Dropped


def write(
    name: str, kind: EvaluationSet, folder: str, target: str, images: str = "", query: str = "", max_bad: float = 0.1
) -> dict:
    """Converts one set; see ``flamingo_jax.data.benchmarks.convert``."""
    _check(name, kind, folder, images, query, max_bad)
    images = images or folder
    chosen = {"support": kind.support, "query": query or kind.query[0]}
    chosen = {role: split for role, split in chosen.items() if split}
    sources = _find(name, kind, folder, images, chosen)
    index = Index(images, kind.kind)
    place = pathlib.Path(target, name)
    _check_target(place)
    facts = {"schema": SCHEMA, "name": name, "kind": kind.kind, "metric": kind.metric}
    facts["images"] = os.path.abspath(images)
    facts["classes"] = kind.classes(next(iter(sources.values()))) if kind.classes else []
    report = {"format": name, "target": str(place), "splits": {}, "drops": {}, "first_drops": {}, "bad": 0}
    with _whole_folder(place) as draft:
        for role, source in sources.items():
            split = _Split(source.split, kind.kind, index)
            _write_lines(draft, role, split.filter(kind.read(source)), report)
            split.check(name, role, source, max_bad)
            report["splits"][role] = split.report
        files = sorted({path for source in sources.values() for path in source.files.values() if os.path.isfile(path)})
        facts |= {"splits": report["splits"], "sources": [_fingerprint(path, folder) for path in files]}
        facts["left_out"] = report["drops"]
        (draft / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return report


def describe(report: Mapping[str, Any]) -> str:
    """What was kept and what was left out, with the first case of each reason, for people."""
    lines = [f"{report['target']}:"]
    for role, part in report["splits"].items():
        kept = f"{part['items']:,} items of {part['split']} on {part['media']:,} media"
        lines.append(f"  {role}: {kept}, {part['answers']:,} answered.")
    if report["drops"]:
        lines.append(f"Left out, and listed in {LEFT_OUT} there:")
    for reason, count in sorted(report["drops"].items(), key=lambda item: -item[1]):
        lines.append(f"  {count:>9,}  {reason} (first: {report['first_drops'][reason]})")
    return "\n".join(lines)


def _write_lines(draft: pathlib.Path, role: str, outcomes: Iterator[dict | Dropped], report: dict) -> None:
    """Writes the items of a split, and to the list of what was left out the rest, which is counted in the report."""
    with open(draft / f"{role}.jsonl", "w") as kept, open(draft / LEFT_OUT, "a") as left_out:  # JSON is all ASCII
        for outcome in outcomes:
            if isinstance(outcome, Dropped):
                left_out.write(json.dumps({"split": role, **dataclasses.asdict(outcome)}) + "\n")
                report["drops"][outcome.reason] = report["drops"].get(outcome.reason, 0) + 1
                report["first_drops"].setdefault(outcome.reason, outcome.place)
                report["bad"] += outcome.bad
            else:
                kept.write(json.dumps(outcome, allow_nan=False) + "\n")


def _check(name: str, kind: EvaluationSet, folder: str, images: str, query: str, max_bad: float) -> None:
    for option, place, content in (("source", folder, "public files"), ("images", images or folder, "media")):
        if "://" in place:
            raise ValueError(f"{place!r} is an address, but evaluation sets are read from folders of this machine.")
        if not os.path.isdir(place):
            raise ValueError(f"{option}={place!r} is no folder; {name} needs the one that holds its {content}.")
    if query and query not in kind.query:
        raise ValueError(f"query={query!r} is no evaluation split of {name}; {suggest(query, kind.query)}.")
    if isinstance(max_bad, bool) or not isinstance(max_bad, (int, float)) or not 0 <= max_bad <= 1:
        raise ValueError(f"max_bad={max_bad!r} must be a share between 0 and 1.")


def _find(name: str, kind: EvaluationSet, folder: str, images: str, chosen: Mapping[str, str]) -> dict[str, Source]:
    """The files of each split. Raises ValueError that lists all that are missing, and what they may be called."""
    found, lines = {}, []
    for role, split in chosen.items():
        tried = [(files, *_match(files, kind.optional, folder, images)) for files in kind.splits[split]]
        files, paths, missing = min(tried, key=lambda attempt: len(attempt[2]))  # the packaging that is there, if any
        found[role] = Source(split, paths, images)
        for key in missing:
            usual, *others = files[key]
            lines.append(f"  {usual}" + (f" (or {', '.join(others)})" if others else "") + f": {key} of {role}")
    if lines:
        others = [split for split in kind.query if split != chosen["query"]]
        more = f"\nOther evaluation splits: --set=query={' or '.join(others)}." if others else ""
        raise ValueError(
            f"{' and '.join(dict.fromkeys((folder, images)))} and the folders in it lack what {name} is made of:\n"
            + "\n".join(dict.fromkeys(lines))
            + more
        )
    return found


def _match(files: Files, optional: frozenset[str], folder: str, images: str) -> tuple[dict[str, str], list[str]]:
    """Paths by role, and the roles whose file is missing. Files may lie in the folder or in one directly in it; folders
    of media lie in that of the images."""
    inner = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    paths, missing = {}, []
    for role, names in files.items():
        there = []
        for name in names:
            if name.endswith("/"):
                there += [path for path in [os.path.join(images, name[:-1])] if os.path.isdir(path)]
            else:
                there += [path for root in (folder, *inner) if os.path.isfile(path := os.path.join(root, name))]
        if there:
            paths[role] = there[0]
        elif role not in optional:
            missing.append(role)
    return paths, missing


class _Split:
    """Counts what becomes of a split's items."""

    def __init__(self, split: str, kind: str, index: Index):
        self.report = {"split": split, "items": 0, "media": 0, "left_out": 0, "answers": 0}
        self._kind, self._index, self._bad = kind, index, []
        self._ids: set[str] = set()
        self._media: set[str] = set()

    def filter(self, outcomes: Iterator[dict | Dropped]) -> Iterator[dict | Dropped]:
        """Lines of the form, and what is left out."""
        report = self.report
        for outcome in outcomes:
            if not isinstance(outcome, Dropped):
                outcome = self._line(outcome)
            if isinstance(outcome, Dropped):
                report["left_out"] += 1
                if outcome.bad:
                    self._bad.append(outcome)
            else:
                report["items"] += 1
                self._media.add(outcome["media"][0])
                report["answers"] += bool(outcome.get("answers") or outcome.get("captions"))
            yield outcome
        report["media"] = len(self._media)

    def _line(self, item: dict) -> dict | Dropped:
        key = f"{self.report['split']}/{item.pop('id')}"
        if key in self._ids:
            return Dropped("id repeated", key, bad=True)
        names, cuts = item.pop("media"), item.pop("cuts", ())
        path = self._index.find(cuts)
        if isinstance(path, str):
            item.pop("start", None), item.pop("end", None)  # the file is that part already
        else:
            path = self._index.find((*names, *cuts))
        if isinstance(path, Dropped):
            return Dropped(path.reason, f"{key}: {path.place}", path.bad)
        self._ids.add(key)
        line = {"id": key, "media": [path], "kind": self._kind, **item}
        return {name: value for name, value in line.items() if value not in ("", [], (), {}, None)}

    def check(self, name: str, role: str, source: Source, most: float) -> None:
        """Raises ValueError when too much is left out, or nothing remains."""
        total = self.report["items"] + len(self._bad)
        if not total:
            files = " and ".join(source.files.values())
            raise ValueError(f"The files of {name} have no item of its split {source.split!r}, for {role}: {files}.")
        if self.report["items"] and len(self._bad) <= most * total:
            return
        firsts: dict[str, tuple[int, str]] = {}
        for dropped in self._bad:
            count, first = firsts.get(dropped.reason, (0, dropped.place))
            firsts[dropped.reason] = (count + 1, first)
        lines = "".join(f"\n  {count} x {reason} (first: {place})" for reason, (count, place) in firsts.items())
        raise ValueError(
            f"{len(self._bad)} of {total} {role} items of {name} are damaged or lack their medium, which is more than "
            f"max_bad={most}:{lines}\n"
            f"Media were looked for in {source.images} and the folders in it (--images names another one). Where they "
            "are not to be had any more, --set=max_bad=.. allows a larger share, and scores are of what is left."
        )


def _check_target(place: pathlib.Path) -> None:
    """A benchmark of the same name is replaced, anything else is not."""
    if place.exists() and not (place / FACTS).is_file() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{place} holds something else; delete it, or name another folder.")


@contextlib.contextmanager
def _whole_folder(place: pathlib.Path) -> Iterator[pathlib.Path]:
    """A draft that takes the folder's place when it is whole, and is removed when it is not."""
    draft = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        draft.mkdir(parents=True)
        yield draft
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
    except OSError as error:
        raise OSError(f"Cannot write the benchmark {place}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fingerprint(path: str, folder: str) -> dict:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = os.path.relpath(path, folder).replace(os.sep, "/")
    return {"file": name, "bytes": os.path.getsize(path), "sha256": digest}
