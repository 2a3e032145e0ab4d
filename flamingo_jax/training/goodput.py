"""Where the time of a run goes: how much of it trained, and what took the rest, over all of its starts.

``WORKDIR/goodput.jsonl`` has lines of

    {"start": 2, "time": 1760000000.0, "now": "train", "stage": "flamingo", "from": 60, "step": 80,
     "seconds": {"train": 81.2, ..}}

the sums of that start until then, so that a kill hides no more than what came after the last line. ``from`` says from
which step the stage went on: what an earlier start trained beyond it is lost.
"""

from __future__ import annotations

import pathlib

from flamingo_jax.data.file import read_lines
from flamingo_jax.training.clock import clock_time

FILE = "goodput.jsonl"
BUCKETS = ("train", "start", "compile", "restore", "data", "save", "evaluation", "lost", "down")
MEASURED = BUCKETS[:-2]  # by the start itself; the others are known when a later one begins


def starts(path: pathlib.Path) -> list[dict]:
    """Every start that the file tells of: {"begin", "end": seconds since the epoch, "complete", "seconds": {bucket:
    seconds}}, with "lost" and, between it and the start before, "down"."""
    lines: dict[int, list[dict]] = {}
    for line in read(path):
        lines.setdefault(line["start"], []).append(line)
    kept: dict[tuple[int, str], int] = {}  # (start, stage) -> the step of it from which a later start went on
    for number, some in lines.items():
        for stage, step in ((line["stage"], line["from"]) for line in some if "from" in line):
            for earlier in (other for other in lines if other < number):
                kept[earlier, stage] = min(step, kept.get((earlier, stage), step))
    found: list[dict] = []
    for number, some in lines.items():
        last = some[-1]
        seconds = dict.fromkeys(BUCKETS, 0.0) | last["seconds"]
        begin = last["time"] - sum(seconds.values())
        seconds["lost"] = sum(_lost(some, stage, step) for (start, stage), step in kept.items() if start == number)
        seconds["train"] -= seconds["lost"]
        if found and not found[-1]["complete"]:
            seconds["down"] = max(begin - found[-1]["end"], 0.0)
        found.append({"begin": begin, "end": last["time"], "complete": "complete" in last, "seconds": seconds})
    return found


def summary(path: pathlib.Path) -> dict[str, float]:
    """{bucket: seconds} of a whole run until the file's last line. They add up to its time; {} where there is none."""
    found = starts(path)
    return {name: sum(start["seconds"][name] for start in found) for name in BUCKETS} if found else {}


def sentence(seconds: dict[str, float]) -> str:
    """What a summary says: the share that trained, the whole time, and the other shares, the largest first."""
    whole = max(sum(seconds.values()), 1e-9)
    rest = sorted(((seconds[name] / whole, name) for name in BUCKETS[1:] if name in seconds), reverse=True)
    rest = ", ".join(f"{name} {100 * share:.1f} %" for share, name in rest if share >= 5e-4)
    trained = f"goodput: trained {100 * seconds.get('train', 0.0) / whole:.1f} % of {clock_time(whole)}"
    return f"{trained}; {rest}" if rest else trained


def read(path: pathlib.Path) -> list[dict]:
    """The file's lines; none where there is no file."""
    return read_lines(path) if path.exists() else []


def _lost(lines: list[dict], stage: str, kept: int) -> float:
    """Seconds that a start trained a stage beyond step ``kept``, by interpolation between its lines."""
    marks = [(line["step"], line["seconds"].get("train", 0.0)) for line in lines if line.get("stage") == stage]
    for number, (step, train) in enumerate(marks):
        if step >= kept:
            before, then = marks[max(number - 1, 0)]
            share = (kept - before) / (step - before) if step > before else 1.0
            return max(marks[-1][1] - (then + share * (train - then)), 0.0)
    return 0.0
