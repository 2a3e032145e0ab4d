"""VisDial 1.0: dialogues about an image, and for one question of each a rating of a hundred possible answers.

visdial_1.0_train.json, visdial_1.0_val.json: {"data": {"questions": ["is it sunny", ..], "answers": ["yes", ..],
"dialogs": [{"image_id", "caption", "dialog": [{"question": 7, "answer": 3, "gt_index": 42,
"answer_options": [100 numbers of answers]}, ..]}, ..]}}: questions and answers are numbers in those lists.
visdial_1.0_val_dense_annotations.json: [{"image_id", "round_id": 1 to 10, "gt_relevance": [100 numbers]}, ..].

A query is the question of the annotated round, with what was said before it; a support item is a whole dialogue, i.e.
its last question. Training images are those of COCO (train2014 and val2014), others ``VisualDialog_val2018_*.jpg``. The
questions come without question marks, and are kept so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import (
    Bad,
    clean,
    each,
    expect,
    identity,
    keep,
    load,
    load_rows,
    rows_of,
    text,
    whole,
)
from flamingo_jax.data.document import Dropped

_KEYS = ("data", "questions", "answers", "dialogs", "image_id", "caption", "dialog", "question", "answer")
_RATED = (*_KEYS, "answer_options", "gt_index")


def read(source: Source) -> Iterator[dict | Dropped]:
    """The dialogues of a split, in order."""
    path, rated = source.files["dialogs"], "relevance" in source.files
    # The training split's options are a hundred million numbers that no prompt shows.
    value = load(path, keep(*(_RATED if rated else _KEYS)))
    rows = rows_of(value, path, "data", "dialogs")
    data = expect(expect(value, dict, path).get("data"), dict, path, ("data",))
    lists = {key: expect(data.get(key), list, path, ("data", key)) for key in ("questions", "answers")}
    ratings = dict(_ratings(source.files["relevance"])) if rated else {}

    def make(row: dict) -> dict:
        image, turns = identity(row, "image_id"), row.get("dialog")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            raise Bad("dialog is no list of objects")
        last = len(turns)
        if rated:
            if image not in ratings:
                raise Bad(f"{source.files['relevance']} has no ratings of image_id {image}")
            last = whole(ratings[image], "round_id")
            if not 1 <= last <= len(turns):
                raise Bad(f"round_id {last} is not one of the {len(turns)} rounds of image_id {image}")
        *before, asked = [
            [_entry(lists, "questions", turn.get("question")), _entry(lists, "answers", turn.get("answer"))]
            for turn in turns[:last]
        ]
        item = {
            "id": image,
            "media": _images(whole(row, "image_id"), source.split),
            "captions": [text(row, "caption")],
            "turns": before,
            "question": asked[0],
            "answers": [asked[1]],
            "attributes": {"image_id": image, "round_id": str(last)},
        }
        if rated:
            item["options"], item["relevance"], right = _options(lists, turns[last - 1], ratings[image])
            item["attributes"]["gt_index"] = str(right)
        return item

    yield from each(rows, make)


def _options(lists: dict[str, list], turn: dict, rating: dict) -> tuple[list[str], list[float], int]:
    """The options, their ratings, and which of them was the answer given."""
    numbers, relevance = turn.get("answer_options"), rating.get("gt_relevance")
    if not isinstance(numbers, list) or not isinstance(relevance, list) or len(numbers) != len(relevance):
        raise Bad("answer_options and gt_relevance are no lists of the same length")
    if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in relevance):
        raise Bad("gt_relevance holds something else than numbers from 0 to 1")
    right = whole(turn, "gt_index")
    if right >= len(numbers):
        raise Bad(f"gt_index {right} is none of the {len(numbers)} options")
    return [_entry(lists, "answers", number) for number in numbers], [float(value) for value in relevance], right


def _entry(lists: dict[str, list], key: str, number: Any) -> str:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(lists[key]):
        raise Bad(f"{number!r} is no number of one of the {len(lists[key])} {key}")
    return clean(lists[key][number], f"{key}[{number}]")


def _ratings(path: str) -> Iterator[tuple[str, dict]]:
    for place, row in load_rows(path):
        try:
            yield identity(expect(row, dict, path), "image_id"), row
        except Bad as error:
            raise ValueError(f"{path}: {place}: {error}.") from None


def _images(image: int, split: str) -> tuple[str, ...]:
    if split == "train":
        return tuple(f"{folder}/COCO_{folder}_{image:012d}.jpg" for folder in ("train2014", "val2014"))
    return (f"VisualDialog_val2018_{image:012d}.jpg",)


VISDIAL = EvaluationSet(
    kind="image",
    metric="ndcg",
    splits={
        "train": ({"dialogs": ("visdial_1.0_train.json",)},),
        "val": ({"dialogs": ("visdial_1.0_val.json",), "relevance": ("visdial_1.0_val_dense_annotations.json",)},),
    },
    read=read,
    query=("val",),
)
