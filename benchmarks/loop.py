"""What the training loop costs beside its compiled step: streams, copies to the devices, metrics, files, progress.

    python benchmarks/loop.py --seconds=60

A language stage of the miniature trains on its prepared files as ``train`` does it, once as it is and once with a model
whose step takes more than 100 ms. After every few updates the loop is held, and the very same compiled program runs as
often on copies of its state and of its newest batches, which stay on the devices. Printed are the medians of both, per
update, and of what the loop adds; at most 3 % or 2 ms of it are wanted, whichever is larger.
"""

import argparse
import pathlib
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
from flamingo_jax.training import loop

HERE = pathlib.Path(__file__).resolve().parents[1]
# name: (documents a batch, the language model's sizes)
SIZES = {"small": (4, dict(width=32, depth=1, heads=2)), "large": (32, dict(width=128, depth=3, heads=4))}
WARM = 5  # updates before the first that counts
SHARE, LEAST = 0.03, 2e-3


class Enough(Exception):
    """Ends a stage."""


def alternate(step, seconds: float, chunk: int, pairs: list[tuple[float, float]]):
    """``step`` for the loop, which every ``chunk`` calls looks at the clock, and then runs as often by itself.

    pairs: gets (seconds an update in the loop, seconds an update alone).
    """
    calls, began, first = 0, 0.0, time.monotonic()

    def alone(state, frozen, batches) -> float:
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        start = time.monotonic()
        for _ in range(chunk):
            copy, _ = step(copy, frozen, batches)
        jax.block_until_ready(copy)
        return (time.monotonic() - start) / chunk

    def held(state, frozen, batches):
        nonlocal calls, began
        calls += 1
        if calls > WARM and (calls - WARM) % chunk == 0:
            jax.block_until_ready((state, batches))
            looped = (time.monotonic() - began) / chunk if began else 0.0
            pairs.append((looped, alone(state, frozen, batches)))
            if time.monotonic() - first > seconds:
                raise Enough
            began = time.monotonic()
        return step(state, frozen, batches)

    return held


def measure(workdir: pathlib.Path, rows: int, model: dict, seconds: float, chunk: int) -> list[tuple[float, float]]:
    """(seconds an update in the loop, alone), as often as there is time for."""
    import runpy

    given = runpy.run_path(str(HERE / "configs" / "base.py"))["get_config"]("quick").to_dict()
    given["order"] = ("language",)
    given["stages"]["language"]["steps"] = 10**6
    given["stages"]["language"]["mixture"]["text"]["batch_size"] = rows
    given["model"]["language"] |= model
    pairs: list[tuple[float, float]] = []
    compiled = loop._compiled
    loop._compiled = lambda *arguments: alternate(compiled(*arguments), seconds, chunk, pairs)
    try:
        pipeline.run(configs.build(given), workdir, say=lambda line: None)
    except Enough:
        pass
    finally:
        loop._compiled = compiled
    return pairs[1:]  # before the first the devices stood still


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the two models")
    parser.add_argument("--updates", type=int, default=10, help="between two looks at the clock")
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        (workdir / "config.json").write_text("{}")
        for name, (rows, model) in SIZES.items():
            pairs = measure(workdir, rows, model, args.seconds, args.updates)
            shutil.rmtree(workdir / "language")
            report(name, pairs, args.updates)


def report(name: str, pairs: list[tuple[float, float]], chunk: int) -> None:
    """Prints the medians."""
    looped, alone = (statistics.median(side) for side in zip(*pairs, strict=True))
    added = statistics.median(a - b for a, b in pairs)
    print(
        f"{name}: {1000 * looped:.2f} ms an update in the loop, {1000 * alone:.2f} ms alone ({len(pairs)} x {chunk}); "
        f"the loop adds {1000 * added:.2f} ms, {added / alone:.1%}: "
        f"{'as' if added <= max(SHARE * alone, LEAST) else 'MORE THAN'} wanted"
    )


if __name__ == "__main__":
    main()
