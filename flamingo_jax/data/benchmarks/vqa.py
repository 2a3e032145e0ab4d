"""Questions about images with ten answers each: VQAv2, OK-VQA, TextVQA and VizWiz.

VQA's own packaging is two files, which are joined by question_id:
{"questions": [{"question_id", "image_id", "question"}, ..]}
{"annotations": [{"question_id", "image_id", "question_type", "answer_type",
                  "answers": [{"answer", "answer_confidence", "answer_id"}, ..]}, ..]}
OpenFlamingo's TextVQA and VizWiz are packaged like it (``*_vqa_format.json``), VizWiz without answer_id. Their own
files are one per split: {"data": [{"question_id", "image_id", "question", "answers": ["..", ..]}, ..]} of TextVQA, and
[{"image", "question", "answers": [{"answer", ..}, ..], "answer_type"}, ..] of VizWiz.

The answers of test splits are not published: predictions go to the EvalAI servers, by question_id (VizWiz: by image).
OK-VQA's answers are those of version 1.1 of its annotations, which are stemmed already.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import each, identity, join, load, load_rows, rows_of, text, texts, whole
from flamingo_jax.data.document import Dropped

_TYPES = ("question_type", "answer_type")


def read(source: Source, image: Callable[[dict, str], str]) -> Iterator[dict | Dropped]:
    """The questions of a split, in order. image: (question, split) -> the image's file name."""

    published = not source.split.startswith("test")

    def make(row: dict) -> dict:
        known = row.get("annotation") or row
        attributes = {"question_id": identity(row, "question_id"), "image_id": identity(row, "image_id")}
        return {
            "id": attributes["question_id"],
            "media": (image(row, source.split),),
            "question": text(row, "question"),
            "answers": texts(known, "answers") if published or known.get("answers") else [],
            "attributes": attributes | {key: text(known, key, "") for key in _TYPES if known.get(key)},
        }

    yield from each(_rows(source), make)


def _rows(source: Source) -> Iterator[tuple[str, Any]]:
    files = source.files
    if "data" in files:
        value = load(files["data"], _slim)
        yield from rows_of(value, files["data"], "data") if isinstance(value, dict) else _vizwiz(value, files["data"])
        return
    questions = load_rows(files["questions"], "questions")
    if "annotations" not in files:
        yield from questions
        return
    yield from join(questions, load_rows(files["annotations"], "annotations", hook=_slim), "question_id")


def _slim(found: dict) -> dict | str:
    """An answer's object becomes the answer: VQAv2 has four million, most of which repeat another one."""
    if "answers" in found or not isinstance(found.get("answer"), str):
        return found
    return sys.intern(found["answer"])


def _vizwiz(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """VizWiz' own items have no numbers: an image has one question."""
    for place, row in rows_of(value, path):
        named = isinstance(row, dict) and row.get("image") is not None
        yield place, {**row, "question_id": row["image"], "image_id": row["image"]} if named else row


def _coco(row: dict, split: str) -> str:
    folder = {"train": "train2014", "val": "val2014"}.get(split, "test2015")
    return f"{folder}/COCO_{folder}_{whole(row, 'image_id'):012d}.jpg"


def _files(prefix: str, split: str, *, answers: bool = True) -> tuple[dict, ...]:
    files = {"questions": (f"{prefix}OpenEnded_mscoco_{split}_questions.json",)}
    return ({**files, "annotations": (f"{prefix}mscoco_{split}_annotations.json",)} if answers else files,)


def _converted(split: str, own: tuple[str, ...], *, answers: bool = True) -> tuple[dict, ...]:
    files = {"questions": (f"{split}_questions_vqa_format.json",)}
    return (files | ({"annotations": (f"{split}_annotations_vqa_format.json",)} if answers else {}), {"data": own})


_VQA = dict(kind="image", metric="vqa_accuracy")

VQAV2 = EvaluationSet(
    **_VQA,
    splits={
        "train": _files("v2_", "train2014"),
        "val": _files("v2_", "val2014"),
        "test-dev": _files("v2_", "test-dev2015", answers=False),
        "test": _files("v2_", "test2015", answers=False),
    },
    read=functools.partial(read, image=_coco),
    query=("val", "test-dev", "test"),
)

OKVQA = EvaluationSet(
    **_VQA,
    splits={"train": _files("", "train2014"), "val": _files("", "val2014")},
    read=functools.partial(read, image=_coco),
    query=("val",),
)

TEXTVQA = EvaluationSet(
    **_VQA,
    splits={
        "train": _converted("train", ("TextVQA_0.5.1_train.json",)),
        "val": _converted("val", ("TextVQA_0.5.1_val.json",)),
        "test": _converted("test", ("TextVQA_0.5.1_test.json",), answers=False),
    },
    read=functools.partial(read, image=lambda row, _: f"{identity(row, 'image_id')}.jpg"),
    query=("val", "test"),
)

VIZWIZ = EvaluationSet(
    **_VQA,
    splits={
        "train": _converted("train", ("train.json",)),
        "val": _converted("val", ("val.json",)),
        "test": _converted("test", ("test.json",), answers=False),
    },
    read=functools.partial(read, image=lambda row, _: identity(row, "image_id")),
    query=("val", "test"),
)
