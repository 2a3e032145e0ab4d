"""Questions about clips: MSVD-QA, MSRVTT-QA, iVQA, NExT-QA, ActivityNet-QA and STAR.

MSVD-QA, MSRVTT-QA: {train,val,test}_qa.json [{"id", "video_id": 1301, "question", "answer"}, ..], one word an answer.
    Clips are called video1301 (MSR-VTT) or vid1301 (MSVD); those of MSVD may also have the names that
    youtube_mapping.txt (lines "-4wsuPCjDBc_5_15 vid1") gives them.
iVQA: {train,val,test}.csv, video_id,start,end,question,answer1,..,answer5: five annotators. (From the loaders of its
    authors; that start and end are columns is from memory, and they may be absent: the clips are then cut already.)
NExT-QA: {train,val,test}.csv, video,frame_count,width,height,question,answer,qid,type of its open-ended form, which the
    paper uses; in the multiple-choice form the answer is the number of one of the further columns a0,..,a4.
    add_reference_answer_{split}.json {video: {qid: answer}} gives a second right answer to some questions.
ActivityNet-QA: {split}_q.json [{"video_name", "question", "question_id"}, ..], {split}_a.json [{"question_id",
    "answer", "type"}, ..]. Videos are called v_{video_name}.
STAR: STAR_{split}.json [{"question_id": "Interaction_T1_13", "question", "video_id", "start", "end", "answer",
    "choices": [{"choice_id", "choice"}, ..]}, ..]. The test split has no answers: predictions go to EvalAI. Videos are
    those of Charades.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from flamingo_jax.data.benchmarks.form import EvaluationSet, Source
from flamingo_jax.data.benchmarks.source import (
    Bad,
    each,
    expect,
    identity,
    join,
    keep,
    load,
    load_rows,
    load_table,
    part,
    read_text,
    seconds,
    text,
    texts,
    whole,
)
from flamingo_jax.data.document import Dropped


def read_msvd(source: Source, prefix: str) -> Iterator[dict | Dropped]:
    """The questions of a split, in order. prefix: of the clips' names."""
    names = dict(_mapping(source.files["mapping"])) if "mapping" in source.files else {}

    def make(row: dict) -> dict:
        video = identity(row, "video_id")
        video = f"{prefix}{video}" if video.isdigit() else video
        question = identity(row, "id")
        return {
            "id": question,
            "media": (video, names[video]) if video in names else (video,),
            "question": text(row, "question"),
            "answers": [text(row, "answer")],
            "attributes": {"question_id": question, "video_id": video},
        }

    yield from each(load_rows(source.files["questions"]), make)


def _mapping(path: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            words = line.split()
            if len(words) != 2:
                raise ValueError(f"{path}, line {number} is no pair of names: {line[:80]!r}.")
            yield words[1], words[0]


def read_ivqa(source: Source) -> Iterator[dict | Dropped]:
    """The questions of a split, in order; they have no ids but their place."""

    def make(row: dict) -> dict:
        video, number = text(row, "video_id"), str(row["number"])
        times, name = {}, video
        if row.get("start") and row.get("end"):
            times = part(seconds(row, "start"), seconds(row, "end"))
            name = "_".join((video, *(identity(row, key).removesuffix(".0") for key in ("start", "end"))))
        return {
            "id": number,
            "media": (video,),
            "cuts": (name,) if times else (),
            **times,
            "question": text(row, "question"),
            "answers": texts({"answers": [row[f"answer{i}"] for i in range(1, 6)]}, "answers"),
            "attributes": {"question_id": number, "video_id": video},
        }

    columns = ("video_id", "question", *(f"answer{i}" for i in range(1, 6)))
    rows = enumerate(load_table(source.files["questions"], *columns))
    yield from each(((place, _numbered(row, number)) for number, (place, row) in rows), make)


def _numbered(row: dict | Dropped, number: int) -> dict | Dropped:
    return row if isinstance(row, Dropped) else {**row, "number": number}


def read_nextqa(source: Source) -> Iterator[dict | Dropped]:
    """The questions of a split, in order."""
    path = source.files.get("more")
    more = expect(load(path), dict, path) if path else {}

    def make(row: dict) -> dict:
        video, number = identity(row, "video"), identity(row, "qid")
        options = [text(row, f"a{i}") for i in range(5)] if "a0" in row else []
        answer = text(row, "answer")
        if options:
            right = whole(row, "answer")
            if right >= len(options):
                raise Bad(f"answer is {right}, but must be the number of one of {len(options)} options")
            answer = options[right]
        second = more.get(video) or {}
        if not isinstance(second, dict):
            raise Bad(f"{path} has no object for video {video}")
        return {
            "id": f"{video}_{number}",
            "media": (video,),
            "question": text(row, "question"),
            "answers": [answer] + ([text(second, number)] if number in second and not options else []),
            "options": options,
            "attributes": {"video_id": video, "question_id": number, "type": text(row, "type")},
        }

    columns = ("video", "question", "answer", "qid", "type")
    yield from each(load_table(source.files["questions"], *columns), make)


def read_activitynet(source: Source) -> Iterator[dict | Dropped]:
    """The questions of a split, in order."""

    def make(row: dict) -> dict:
        question, video = identity(row, "question_id"), text(row, "video_name")
        return {
            "id": question,
            "media": (f"v_{video}", video),
            "question": text(row, "question"),
            "answers": [text(row["annotation"], "answer")],
            "attributes": {"question_id": question, "video_id": video, "type": identity(row["annotation"], "type")},
        }

    files = source.files
    yield from each(join(load_rows(files["questions"]), load_rows(files["answers"]), "question_id"), make)


def read_star(source: Source) -> Iterator[dict | Dropped]:
    """The questions of a split, in order."""

    def make(row: dict) -> dict:
        question, choices = identity(row, "question_id"), row.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise Bad("choices is no list of objects")
        options = [text(choice, "choice") for choice in sorted(choices, key=lambda c: whole(c, "choice_id"))]
        answers = [text(row, "answer")] if source.split != "test" or row.get("answer") else []
        if not set(answers) <= set(options):
            raise Bad(f"answer {answers[0]!r} is none of the choices")
        video = text(row, "video_id")
        return {
            "id": question,
            "media": (video,),
            "cuts": (question,),
            **part(seconds(row, "start"), seconds(row, "end")),
            "question": text(row, "question"),
            "answers": answers,
            "options": options,
            "attributes": {"question_id": question, "video_id": video, "type": question.split("_")[0]},
        }

    yield from each(load_rows(source.files["questions"], hook=keep(*_STAR)), make)


_STAR = ("question_id", "question", "video_id", "start", "end", "answer", "choices", "choice_id", "choice")  # no graphs


def _splits(name: str, **more: str) -> dict[str, tuple[dict, ...]]:
    files = {"questions": name, **more}
    return {
        split: ({role: (pattern.format(split),) for role, pattern in files.items()},)
        for split in ("train", "test", "val")
    }


_MSVD = dict(kind="clip", metric="accuracy", query=("test", "val"))

MSVD_QA = EvaluationSet(
    **_MSVD,
    splits=_splits("{}_qa.json", mapping="youtube_mapping.txt"),
    read=functools.partial(read_msvd, prefix="vid"),
    optional=frozenset({"mapping"}),
)

MSRVTT_QA = EvaluationSet(**_MSVD, splits=_splits("{}_qa.json"), read=functools.partial(read_msvd, prefix="video"))

IVQA = EvaluationSet("clip", "ivqa_accuracy", _splits("{}.csv"), read_ivqa, ("test", "val"))

NEXTQA = EvaluationSet(
    kind="clip",
    metric="wups",
    splits=_splits("{}.csv", more="add_reference_answer_{}.json"),
    read=read_nextqa,
    query=("test", "val"),
    optional=frozenset({"more"}),
)

ACTIVITYNET_QA = EvaluationSet(
    "clip", "accuracy", _splits("{}_q.json", answers="{}_a.json"), read_activitynet, ("test", "val")
)

STAR = EvaluationSet("clip", "accuracy", _splits("STAR_{}.json"), read_star, ("val", "test"))
