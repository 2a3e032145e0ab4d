"""The one form that every evaluation set takes on disk, and what a set's public files are described by.

A folder per set, named after it:

    DIR/NAME/support.jsonl     items that prompts may show: the set's training split; absent where the set has none
    DIR/NAME/query.jsonl       items that are asked about: one of its evaluation splits
    DIR/NAME/benchmark.json    what holds for all items; it is written last
    DIR/NAME/left_out.jsonl    what was left out: split, reason, place, bad

A line of support or query is an object. Keys whose value would be empty are absent.

    id          str, unique in the folder: the source's split and its own id, "val/262148000"
    media       [str], one path, relative to ``images`` of benchmark.json
    kind        "image" or "clip"
    start, end  float, seconds: the part of the clip that counts; absent where the whole file counts
    question    str
    answers     [str], one per annotator and in the annotators' order, so that one of them can be left out by index;
                of classification the class name; absent where they are not published
    options     [str], the answers to choose from, where they differ from item to item; else see ``classes``
    captions    [str], all reference captions of the medium, in order
    ocr         str, the text that stands in the picture, where the task gives it to the model
    turns       [[question, answer], ..], of a dialogue: what was said before this question; ``captions`` opens it
    relevance   [float], of a dialogue: the rating of each option, in the options' order
    concept     str, the class, where class names may repeat
    attributes  {str: str}, what metrics group by and result files name: image_id, question_id, video_id, type, ..

benchmark.json is an object:

    schema      int, ``SCHEMA``
    name, kind  as above
    metric      str, the measure of the Flamingo paper (table 6)
    images      str, the folder that media are relative to: absolute, or relative to this file. Where media have moved,
                this is the one value to change.
    classes     [str], the answers to choose from, the same for all items, in the order of the set's class numbers
    splits      {"support" or "query": {split: the source's name, items, media: different files, left_out,
                answers: how many of the items have answers or captions}}
    sources     [{file, bytes, sha256}], the public files, by name relative to the source folder
    left_out    {reason: count}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from flamingo_jax.data.document import Dropped

SCHEMA = 1
"""Version of the form. A reader refuses others; raise it when the meaning of a key changes."""

FACTS, LEFT_OUT = "benchmark.json", "left_out.jsonl"

Files = Mapping[str, tuple[str, ...]]
"""Role -> the names that its file may have, the usual one first; a name that ends in "/" is a folder of media."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader is given: the split's name, the paths of its files by role, and the folder of the media."""

    split: str
    files: Mapping[str, str]
    images: str


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """A public evaluation set.

    Attributes:
        kind: "image" or "clip". metric: as in benchmark.json.
        splits: per split of the source its files; where several packagings are public, one ``Files`` for each.
        read: a split's items, in order, as dicts of the form's keys; what is wrong with one, it yields. ``media`` is
            then a tuple of names, the first of which that there is counts; ``cuts`` are names of files that hold
            nothing but the part from start to end, which are taken if there. Raises ValueError for a file that is not
            of the format at all.
        query: the evaluation splits, the default first. support: the training split, or "".
        optional: roles that may be absent.
        classes: the class names, of the training split if there is one.
    """

    kind: str
    metric: str
    splits: Mapping[str, tuple[Files, ...]]
    read: Callable[[Source], Iterator[dict | Dropped]]
    query: tuple[str, ...]
    support: str = "train"
    optional: frozenset[str] = frozenset()
    classes: Callable[[Source], list[str]] | None = None
