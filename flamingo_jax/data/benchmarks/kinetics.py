"""Kinetics-700 (2020): what people do in ten seconds of video.

CSV: label,youtube_id,time_start,time_end,split, quoted where needed; the test file has no label. Clips are cut and
called ``{youtube_id}_{time_start:06d}_{time_end:06d}.mp4``, in any folders; whole videos ``{youtube_id}.mp4`` will do.
"""

from __future__ import annotations

from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import Bad, each, load_table, part, seconds, text
from flamingo_jax.data.document import Dropped

_COLUMNS = ("youtube_id", "time_start", "time_end")


def read(source: Source) -> Iterator[dict | Dropped]:
    """The clips of a split, in order."""
    known = frozenset(classes(source))

    def make(row: dict) -> dict:
        start, end = seconds(row, "time_start"), seconds(row, "time_end")
        video, label = text(row, "youtube_id"), text(row, "label", "")
        if label and label not in known:
            raise Bad(f"label {label!r} is none of the training split's")
        name = f"{video}_{int(start):06d}_{int(end):06d}"
        return {
            "id": name,
            "media": (video,),
            "cuts": (name,),
            **part(start, end),
            "answers": [label] if label else [],
            "concept": label,
            "attributes": {"video_id": video},
        }

    yield from each(load_table(source.files["clips"], *_COLUMNS), make)


def classes(source: Source) -> list[str]:
    """The labels of the training split, sorted."""
    rows = (row for _, row in load_table(source.files["train"], "label", *_COLUMNS) if isinstance(row, dict))
    labels = sorted({" ".join(row["label"].split()) for row in rows if row["label"]})
    if not labels:
        raise ValueError(f"{source.files['train']} has no labels; is it the training split?")
    return labels


def _files(*stems: str) -> tuple[dict, ...]:
    names = {"clips": stems, "train": ("train",)}
    prefixes = ("", "kinetics700_2020_", "kinetics700_", "k700_2020_", "kinetics_700_")
    return ({key: tuple(f"{p}{stem}.csv" for p in prefixes for stem in stems) for key, stems in names.items()},)


KINETICS700 = EvaluationSet(
    kind="clip",
    metric="top1_top5_mean",
    splits={"train": _files("train"), "val": _files("val", "validate"), "test": _files("test")},
    read=read,
    query=("val", "test"),
    classes=classes,
)
