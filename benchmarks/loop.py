"""What the training loop costs beside its compiled step: streams, copies to the devices, metrics, files, progress.

    python benchmarks/loop.py --seconds=60

A language stage of the miniature trains on its prepared files as ``train`` does it, with a model whose step takes a few
milliseconds and with one whose step takes more than 100. After every few updates the loop is held, and the very same
compiled program runs as often on a copy of its state and on its newest batches, which stay on the devices. Printed are
the medians of both, per update, and of what the loop adds, which is to be at most 3 % or 2 ms, whichever is larger.

On a CPU the step and what makes batches share the cores. Where others keep these busy, nothing of the loop's work is
done beside the step's: the processor's time, which is printed too, is then what there is to go by.
"""

import argparse
import pathlib
import runpy
import shutil
import statistics
import sys
import tempfile
import time

sys.path.pop(0)  # this folder, whose html.py would hide Python's

import jax
import jax.numpy as jnp
from absl import logging

from flamingo_jax import config as configs
from flamingo_jax import pipeline
from flamingo_jax.training import compiler

HERE = pathlib.Path(__file__).resolve().parents[1]
# name: (documents a batch, the language model's sizes, updates between two looks at the clock)
SIZES = {"small": (4, dict(width=32, depth=1, heads=2), 50), "large": (8, dict(width=512, depth=2, heads=8), 3)}
SHARE, LEAST = 0.03, 2e-3
WARM = 5  # updates before the first look


class Enough(Exception):
    """Ends a stage."""


def clocks() -> tuple[float, float]:
    """Seconds on the clock, and of the processors."""
    return time.monotonic(), time.process_time()


def since(then: tuple[float, float], updates: int) -> tuple[float, float]:
    """Of one update."""
    return tuple((now - before) / updates for now, before in zip(clocks(), then, strict=True))


def alternate(step, seconds: float, chunk: int, found: list):
    """``step`` for the loop, which every ``chunk`` calls looks at the clock, and then runs as often by itself.

    found: gets (an update in the loop, an update alone), each as ``since`` gives it.
    """
    calls, began, end = 0, None, time.monotonic() + seconds

    def alone(state, frozen, batches) -> tuple[float, float]:
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        start = clocks()
        for _ in range(chunk):
            copy, _ = step(copy, frozen, batches)
        jax.block_until_ready(copy)
        return since(start, chunk)

    def held(state, frozen, batches):
        nonlocal calls, began
        calls += 1
        if calls > WARM and (calls - WARM) % chunk == 0:
            jax.block_until_ready((state, batches))
            looped = since(began, chunk) if began else None
            bare = alone(state, frozen, batches)
            if looped:
                found.append((looped, bare))
            if time.monotonic() > end:
                raise Enough
            began = clocks()
        return step(state, frozen, batches)

    return held


def measure(workdir: pathlib.Path, rows: int, model: dict, seconds: float, chunk: int) -> list:
    """What ``alternate`` found, as often as there was time for."""
    given = runpy.run_path(str(HERE / "configs" / "base.py"))["get_config"]("quick").to_dict()
    given["order"] = ("language",)
    given["stages"]["language"] |= {"steps": 10**6, "mixture": {"text": {"batch_size": rows}}}
    given["model"]["language"] |= model
    found: list = []
    compiled = compiler.jit
    compiler.jit = lambda *arguments: alternate(compiled(*arguments), seconds, chunk, found)
    try:
        pipeline.run(configs.build(given), workdir, say=lambda line: None)
    except Enough:
        pass
    finally:
        compiler.jit = compiled
        shutil.rmtree(workdir / "language")
    return found


def report(name: str, found: list) -> None:
    """Prints the medians."""
    lines = []
    for kind in (0, 1):
        looped, alone = ([1000 * side[kind] for side in sides] for sides in zip(*found, strict=True))
        added, whole = statistics.median(a - b for a, b in zip(looped, alone, strict=True)), statistics.median(alone)
        lines.append(
            f"{statistics.median(looped):.2f} ms an update in the loop, {whole:.2f} alone: {added:+.2f} ms, "
            f"{added / whole:+.1%}{'' if added <= max(SHARE * whole, 1000 * LEAST) else ', MORE THAN WANTED'}"
        )
    print(f"{name}: {lines[0]}\n{name}, processors' time: {lines[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the two models")
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        (workdir / "config.json").write_text("{}")
        for name, (rows, model, chunk) in SIZES.items():
            report(name, measure(workdir, rows, model, args.seconds, chunk))


if __name__ == "__main__":
    main()
