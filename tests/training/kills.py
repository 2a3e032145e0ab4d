"""Kills a training again and again, and compares what it comes to with one that nobody disturbed.

    python tests/training/kills.py --kills=50 --seed=0 --processes=2

A tiny stage (victim.py) runs undisturbed once. Then it is started, killed with SIGKILL at a random moment of one of
``victim.PHASES``, started again and killed further on, until it is complete; and so on with another one, until there
were so many kills. Which process dies is random too, or all die at once; those that are left are killed soon after, as
what restarts a pod does it. Weights must be equal bit for bit, metrics and validation byte for byte, and what every
update read, row by row, also of the updates that were lost. Every start must go on from the newest checkpoint that
there is.

Prints a table, and ends with 1 when anything differs.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(1, str(pathlib.Path(__file__).parents[1] / "data"))

import victim
from processes import environment, free_address

from flamingo_jax.training import metrics, outcome

STEPS = 18
# Without torch, which tensorboardX would load where there is one; that takes seconds.
START = "import sys; sys.modules['torch'] = None; import victim; victim.main(*sys.argv[1:])"
LATE = 0.3  # seconds, at most, that the others outlive the first that dies
TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class Kill:
    """The ``entry``-th time that ``who`` (a process, or "all") comes to a phase, and so many seconds later."""

    phase: str
    entry: int
    delay: float
    who: str
    late: float = 0.0

    def __str__(self):
        return f"{self.phase}:{self.entry}:{self.delay:.4f}:{self.who}"


@dataclasses.dataclass
class Life:
    """What came of one start. resumed: the step that it said it goes on from; None where it did not get to that."""

    codes: list[int]
    said: list[str]
    resumed: int | None
    killed: bool = False


def plan(kills: int, seed: int, processes: int) -> list[Kill]:
    """Every phase as often as every other, or once more, in random order."""
    rng, names = random.Random(seed), list(victim.PHASES)
    phases = [names[i % len(names)] for i in range(kills)]
    rng.shuffle(phases)
    out = []
    for name in phases:
        phase = victim.PHASES[name]
        # A start restores and stores once; elsewhere it may have come some steps further.
        entry = 1 if name in ("restore", "store") else rng.randint(1, 6 if name == "update" else 2)
        who = rng.choice([*map(str, range(processes))] * 2 + ["all"]) if processes > 1 else "0"
        out.append(Kill(name, entry, phase.seconds * rng.random(), who, LATE * rng.random()))
    return out


def live(
    folder: pathlib.Path, processes: int, steps: int, kill: Kill | None = None, code: int = 0, **variables: str
) -> Life:
    """Starts the stage on eight devices, to its end, which has exit code ``code``, or to the end of one of its
    processes by ``kill``. variables: of the environment."""
    address, env = free_address(), environment(8 // processes) | {"PYTHONUNBUFFERED": "1"} | variables
    here = pathlib.Path(__file__).parent
    roots = here, here.parent / "data", here.parents[1]
    env["PYTHONPATH"] = os.pathsep.join([*map(str, roots), env.get("PYTHONPATH", "")])
    if kill:
        env["KILL"] = str(kill)
    folder.mkdir(exist_ok=True)
    logs = [(folder / f"said.{number}").open("w+") for number in range(processes)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", START, *map(str, (folder, number, processes, address, steps))],
            env=env,
            stdout=logs[number],
            stderr=subprocess.STDOUT,
        )
        for number in range(processes)
    ]
    try:
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and any(process.poll() is None for process in running):
            if any(process.poll() not in (None, code) for process in running):
                time.sleep(kill.late if kill else LATE)
                break
            time.sleep(0.01)
        first = [process.poll() for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    said = []
    for log in logs:
        log.seek(0)
        said.append(log.read())
        log.close()
    killed = kill is not None and -signal.SIGKILL in first
    if not killed and first != [code] * processes:
        raise AssertionError(f"{kill} in {folder}: exit codes {first}; the processes said:\n" + "\n---\n".join(said))
    return Life(first, said, resumed(said[0]), killed)


def resumed(said: str) -> int | None:
    """The step that a process said it goes on from: 0 where it did not restore, None where it did not get there."""
    if "continuing at step " in said:
        return int(said.split("continuing at step ")[1].split()[0])
    return 0 if f"{victim.NAME} 1/" in said else None


def saved(folder: pathlib.Path) -> int:
    """The newest complete checkpoint's step, by the names of folders alone; 0 for none. All, of a complete stage."""
    if result := outcome.read_result(folder):
        return result["steps"]
    return max((int(path.name) for path in folder.glob("checkpoints/*/*") if path.name.isdecimal()), default=0)


def examples(folder: pathlib.Path) -> dict[int, dict[str, dict[str, str]]]:
    """{step: {dataset: {row of the global batch: hash}}}, of all that was ever read. Raises AssertionError where an
    update read something else when it was made once more."""
    found: dict = {}
    for path in sorted((folder / "examples").glob("*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            for name, rows in line["rows"].items():
                known = found.setdefault(line["step"], {}).setdefault(name, {})
                for row, content in rows.items():
                    if known.setdefault(row, content) != content:
                        raise AssertionError(f"{folder}: update {line['step']} read another row {row} of {name}")
    return found


def differences(whole: pathlib.Path, cut: pathlib.Path) -> list[str]:
    """In what a disturbed run differs from the undisturbed one: of "weights", "metrics" and "examples"."""
    out = []
    stored = [outcome.read_result(folder)["weights"] for folder in (whole, cut)]
    if stored[0] != stored[1]:  # names by content, which must be what is there
        out.append("weights")
    outcome.load_weights(cut, stored[1])
    if any((whole / name).read_bytes() != (cut / name).read_bytes() for name in (metrics.FILE, metrics.VALIDATION)):
        out.append("metrics")
    try:
        same = examples(whole) == examples(cut)
    except AssertionError:
        same = False
    return out if same else [*out, "examples"]


@dataclasses.dataclass
class Row:
    """A phase's line of the table. lost: per kill, the updates that were ever begun and are not in the newest save."""

    kills: int = 0
    lost: list[int] = dataclasses.field(default_factory=list)
    wrong: set[str] = dataclasses.field(default_factory=set)


def table(rows: dict[str, Row]) -> str:
    """In Markdown."""
    lines = [
        "| phase | kills | updates to make again: mean | most | from the newest save | bits equal | examples equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        mean = f"{sum(row.lost) / len(row.lost):.1f}" if row.lost else "-"
        most = max(row.lost, default="-")
        ok = ["no" if found & row.wrong else "yes" for found in ({"resumed"}, {"weights", "metrics"}, {"examples"})]
        lines.append(f"| {name} | {row.kills} | {mean} | {most} | {' | '.join(ok)} |")
    return "\n".join(lines)


def prepare(root: pathlib.Path, processes: int, steps: int = STEPS) -> pathlib.Path:
    """The undisturbed run's folder, with the data beside it."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(root / "programs"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if not (root / "data").exists():
        victim.write_data(root / "data")
    live(root / "whole", processes, steps)
    return root / "whole"


def campaign(root: pathlib.Path, kills: int, seed: int, processes: int, steps: int = STEPS, say=print) -> dict:
    """{phase: its row}, after so many kills."""
    whole = prepare(root, processes, steps)
    left, chain = plan(kills, seed, processes), 0
    rows = {name: Row() for name in victim.PHASES}
    while left:
        folder, done, before = root / f"cut{chain}", [], None
        while True:
            kill = left.pop(0) if left else None
            newest = saved(folder)
            life = live(folder, processes, steps, kill)
            if life.resumed is not None and life.resumed != newest:
                rows[(before or kill).phase].wrong.add("resumed")
                say(f"{before}: went on from step {life.resumed}, but step {newest} was saved")
            if not life.killed:
                if kill and not done:
                    raise AssertionError(f"{kill} never came about in a whole run")
                if kill:  # the stage was complete before it came to that
                    left.append(kill)
                break
            reached = max(examples(folder), default=0)
            rows[kill.phase].kills += 1
            rows[kill.phase].lost.append(reached - saved(folder))
            done.append(kill)
            say(f"{kill}: died at update {reached}, {saved(folder)} is saved")
            before = kill
        found = differences(whole, folder)
        for kill in done:
            rows[kill.phase].wrong |= set(found)
        say(f"complete after {len(done)} kills; different: {', '.join(found) or 'nothing'}")
        if not found:
            shutil.rmtree(folder)
        chain += 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = campaign(pathlib.Path(folder), args.kills, args.seed, args.processes)
    print(f"{args.kills} kills of {args.processes} processes, {time.monotonic() - start:,.0f} s\n{table(rows)}")
    sys.exit(any(row.wrong for row in rows.values()))


if __name__ == "__main__":
    main()
