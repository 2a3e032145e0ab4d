"""Captions of clips: VATEX, YouCook2 and MSR-VTT.

VATEX: vatex_training_v1.0.json, .. [{"videoID": "Ptf_2VRj-V0_000122_000132", "enCap": [ten captions], ..}, ..]. Clips
    are cut and called {videoID}; whole videos are called by the YouTube id, the part before the times.
YouCook2: youcookii_annotations_trainval.json {"database": {video id: {"subset": "training" or "validation",
    "recipe_type": "101", "annotations": [{"segment": [start, end], "id": 0, "sentence"}, ..]}, ..}}. Every segment is
    an item, of a whole video called by its id.
MSR-VTT: train_val_videodatainfo.json, test_videodatainfo.json {"videos": [{"video_id": "video0", "split", ..}, ..],
    "sentences": [{"sen_id", "video_id", "caption"}, ..]}. The clips are cut already: the times in the file are those of
    the whole videos that they were cut from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import (
    Bad,
    captions,
    each,
    expect,
    identity,
    keep,
    load,
    load_rows,
    part,
    rows_of,
    seconds,
    text,
)
from flamingo_jax.data.document import Dropped


def read_vatex(source: Source) -> Iterator[dict | Dropped]:
    """The clips of a split, in order, with their English captions."""
    published = "without_annotations" not in source.files["captions"]

    def make(row: dict) -> dict:
        name = text(row, "videoID")
        times = re.fullmatch(r"(.+)_(\d{6})_(\d{6})", name)
        if not times:
            raise Bad(f"videoID is {name!r}, but must end in a start and an end of six digits")
        return {
            "id": name,
            "media": (times[1],),
            "cuts": (name,),
            **part(float(times[2]), float(times[3])),
            "captions": captions(row, "enCap") if published else [],
            "attributes": {"image_id": name},
        }

    yield from each(load_rows(source.files["captions"], hook=keep("videoID", "enCap")), make)


def read_youcook2(source: Source) -> Iterator[dict | Dropped]:
    """The segments of a split's videos, in order."""
    path = source.files["captions"]
    database = expect(load(path), dict, path).get("database")

    def rows() -> Iterator[tuple[str, Any]]:
        for video, row in expect(database, dict, path, ("database",)).items():
            if isinstance(row, dict) and row.get("subset") != source.split:
                continue
            segments = row.get("annotations") if isinstance(row, dict) else None
            if not isinstance(segments, list):
                yield f"{path}, {video}", row if not isinstance(row, dict) else {"video": video}
                continue
            for number, segment in enumerate(segments):
                yield f"{path}, {video}, annotation {number}", {"video": video, "segment of it": segment}

    def make(row: dict) -> dict:
        segment = row.get("segment of it")
        if not isinstance(segment, dict):
            raise Bad("annotations is no list of objects")
        times = segment.get("segment")
        if not isinstance(times, list) or len(times) != 2:
            raise Bad("segment is no pair of times")
        video = text(row, "video")
        name = f"{video}_{identity(segment, 'id')}"
        return {
            "id": name,
            "media": (video,),
            **part(seconds({"segment[0]": times[0]}, "segment[0]"), seconds({"segment[1]": times[1]}, "segment[1]")),
            "captions": captions({"sentence": [segment.get("sentence")]}, "sentence"),
            "attributes": {"image_id": name, "video_id": video},
        }

    yield from each(rows(), make)


def read_msrvtt(source: Source) -> Iterator[dict | Dropped]:
    """The clips of a split, in order."""
    path = source.files["captions"]
    value = load(path, keep("videos", "sentences", "video_id", "split", "caption"))
    found: dict[str, list] = {}
    for outcome in each(rows_of(value, path, "sentences"), lambda row: {identity(row, "video_id"): row.get("caption")}):
        if isinstance(outcome, Dropped):
            yield outcome
        else:
            for video, caption in outcome.items():
                found.setdefault(video, []).append(caption)

    def make(row: dict) -> dict | None:
        if text(row, "split") != source.split:
            return None
        video = identity(row, "video_id")
        return {
            "id": video,
            "media": (video,),
            "captions": captions({"captions": found.get(video, [])}, "captions"),
            "attributes": {"image_id": video},
        }

    yield from each(rows_of(value, path, "videos"), make)


_CAPTIONS = dict(kind="clip", metric="cider")

VATEX = EvaluationSet(
    **_CAPTIONS,
    splits={
        "train": ({"captions": ("vatex_training_v1.0.json",)},),
        "test": ({"captions": ("vatex_public_test_english_v1.1.json",)},),
        "val": ({"captions": ("vatex_validation_v1.0.json",)},),
        "private_test": ({"captions": ("vatex_private_test_without_annotations.json",)},),
    },
    read=read_vatex,
    query=("test", "val", "private_test"),
)

_YOUCOOK2 = ({"captions": ("youcookii_annotations_trainval.json", "youcookii_annotations_trainval_v1.json")},)

YOUCOOK2 = EvaluationSet(
    **_CAPTIONS,
    splits={"training": _YOUCOOK2, "validation": _YOUCOOK2},
    read=read_youcook2,
    query=("validation",),
    support="training",
)

_MSRVTT = ("train_val_videodatainfo.json", "MSRVTT_data.json", "msrvtt_data.json")

MSRVTT = EvaluationSet(
    **_CAPTIONS,
    splits={
        "train": ({"captions": _MSRVTT},),
        "test": ({"captions": ("test_videodatainfo.json", *_MSRVTT[1:])},),
        "validate": ({"captions": _MSRVTT},),
    },
    read=read_msrvtt,
    query=("test", "validate"),
)
