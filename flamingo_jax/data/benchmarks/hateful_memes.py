"""HatefulMemes: pictures with text on them, and whether the two together are hateful.

JSON Lines, whatever the suffix: {"id", "img": "img/42953.png", "label": 0 or 1, "text": what is written on it}. The
dev and test files of the challenge's first phase are those called seen, the latter without "label". The paper evaluates
on the seen test split, OpenFlamingo on dev.
"""

from __future__ import annotations

from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import Bad, clean, each, identity, load_lines, text, whole
from flamingo_jax.data.document import Dropped

CLASSES = ("no", "yes")
"""The answers, by label."""


def read(source: Source) -> Iterator[dict | Dropped]:
    """The memes of a split, in order."""

    def make(row: dict) -> dict:
        label = whole(row, "label") if row.get("label") is not None else None
        if label not in (None, 0, 1):
            raise Bad(f"label is {label}, but must be 0 or 1")
        return {
            "id": identity(row, "id"),
            "media": (text(row, "img"),),
            "answers": [] if label is None else [CLASSES[label]],
            "ocr": clean(row.get("text"), "text"),
        }

    yield from each(load_lines(source.files["memes"]), make)


def _files(*stems: str) -> tuple[dict, ...]:
    return ({"memes": tuple(f"{stem}{suffix}" for stem in stems for suffix in (".jsonl", ".json"))},)


HATEFUL_MEMES = EvaluationSet(
    kind="image",
    metric="roc_auc",
    splits={
        "train": _files("train"),
        "test_seen": _files("test_seen", "test"),
        "dev_seen": _files("dev_seen", "dev"),
        "dev_unseen": _files("dev_unseen"),
        "test_unseen": _files("test_unseen"),
    },
    read=read,
    query=("test_seen", "dev_seen", "dev_unseen", "test_unseen"),
    classes=lambda _: list(CLASSES),
)
