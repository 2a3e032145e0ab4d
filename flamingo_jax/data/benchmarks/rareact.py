"""RareAct: unusual actions such as cutting a keyboard, found among videos that show the verb or the noun alone.

CSV: id,video_id,start,end,class_id,verb,noun,annotation. ``annotation`` says what the part of the video shows of the
class that it was collected for: 1 both, 2 the verb alone, 3 the noun alone, 4 both, but not together, 0 neither. There
is no training split: the set is evaluated zero-shot, by ranking all clips for each class, so no item has an answer.
Videos are whole and called ``{video_id}.mp4``.
"""

from __future__ import annotations

from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import Bad, each, identity, load_table, part, seconds, text, whole
from flamingo_jax.data.document import Dropped

_COLUMNS = ("id", "video_id", "start", "end", "class_id", "verb", "noun", "annotation")


def read(source: Source) -> Iterator[dict | Dropped]:
    """All parts of videos, in order."""

    def make(row: dict) -> dict:
        video, verb, noun = (text(row, key) for key in ("video_id", "verb", "noun"))
        found = {key: whole(row, key) for key in ("class_id", "annotation")}
        if found["annotation"] > 4:
            raise Bad(f"annotation is {found['annotation']}, but must be 0 to 4")
        return {
            "id": identity(row, "id"),
            "media": (video,),
            **part(seconds(row, "start"), seconds(row, "end")),
            "concept": f"{verb} {noun}",
            "attributes": {"video_id": video, "verb": verb, "noun": noun} | {k: str(v) for k, v in found.items()},
        }

    yield from each(load_table(source.files["clips"], *_COLUMNS), make)


def classes(source: Source) -> list[str]:
    """ "verb noun" of each class, in the order of the class numbers. Raises ValueError when these have gaps."""
    found: dict[int, str] = {}
    for item in read(source):
        if isinstance(item, dict):
            found.setdefault(int(item["attributes"]["class_id"]), item["concept"])
    if sorted(found) != list(range(len(found))):
        raise ValueError(f"{source.files['clips']} lacks classes: its class_id are not the numbers from 0 on.")
    return [found[number] for number in range(len(found))]


RAREACT = EvaluationSet(
    kind="clip",
    metric="mwap",
    splits={"test": ({"clips": ("rareact.csv",)},)},
    read=read,
    query=("test",),
    support="",
    classes=classes,
)
