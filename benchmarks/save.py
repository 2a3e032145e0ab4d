"""How long a save holds the training up.

    python benchmarks/save.py --seconds=120

The language stage of the miniature trains on its prepared files as ``train`` does it, and saves after every 40th
update. Printed is how long a save keeps the loop, which may be 5 % of an update or 20 ms, whichever is more; with 1 it
ends otherwise. In the same run the updates after a save are compared with as many in the middle between two saves: the
first three, and ten, beside which the copy is written. On a CPU the step and the thread that writes share the cores, so
that these take longer by the writer's work; with devices of their own steps do not.
"""

import argparse
import itertools
import pathlib
import runpy
import statistics
import sys
import tempfile
import time

sys.path.pop(0)  # this folder, whose html.py would hide Python's

from absl import logging

from flamingo_jax import config as configs
from flamingo_jax import pipeline
from flamingo_jax.training import checkpoint, compiler

HERE = pathlib.Path(__file__).resolve().parents[1]
EVERY, FIRST, BESIDE = 40, 3, 10
SHARE, LEAST = 0.05, 20e-3


class Enough(Exception):
    """Ends a stage."""


def measure(workdir: pathlib.Path, seconds: float) -> tuple[list[float], list[float]]:
    """When each update was begun; how long each save kept the loop."""
    given = runpy.run_path(str(HERE / "configs" / "base.py"))["get_config"]("quick").to_dict()
    given["order"] = ("language",)
    given["stages"]["language"] |= {"steps": 10**6, "keep_every_steps": EVERY, "checkpoint_every_seconds": 1e9}
    begun: list[float] = []
    saves: list[float] = []
    compiled, save = compiler.jit, checkpoint.Checkpoints.save

    def watched(*arguments):
        step = compiled(*arguments)

        def update(state, frozen, batches):
            begun.append(time.monotonic())
            if begun[-1] > begun[0] + seconds:
                raise Enough
            return step(state, frozen, batches)

        return update

    def timed(*arguments, **options):
        start = time.monotonic()
        save(*arguments, **options)
        saves.append(time.monotonic() - start)

    compiler.jit, checkpoint.Checkpoints.save = watched, timed
    try:
        pipeline.run(configs.build(given), workdir, say=lambda line: None)
    except Enough:
        pass
    finally:
        compiler.jit, checkpoint.Checkpoints.save = compiled, save
    return begun, saves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    args = parser.parse_args()
    logging.set_verbosity(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        (workdir / "config.json").write_text("{}")
        begun, held = measure(workdir, args.seconds)
    took = [after - before for before, after in itertools.pairwise(begun)]
    saves = range(2 * EVERY, len(took) - EVERY, EVERY)  # after the first, before which everything is compiled
    if not saves:
        raise SystemExit(f"Only {len(begun)} updates were made, too few for two saves; give more --seconds.")
    update = statistics.median(took[EVERY:])
    print(f"{len(saves)} saves; an update takes {1000 * update:.1f} ms, the median of {len(took) - EVERY}")
    kept = [1000 * seconds for seconds in held[1:]]
    most = 1000 * max(SHARE * update, LEAST)
    verdict = f"{statistics.median(kept):.1f} ms, the median; {max(kept):.1f} at most, {most:.0f} wanted"
    print(f"a save keeps the loop for {verdict}")
    for count, what in ((FIRST, "after a save"), (BESIDE, "beside its writing")):
        # Update n, from 1, is saved before update n + 1 is begun: that is took[n - 1] and those after it.
        more = [sum(took[s - 1 : s - 1 + count]) - sum(took[s + EVERY // 2 :][:count]) for s in saves]
        found = statistics.median(more)
        print(
            f"{count} updates {what} take {1000 * found:+.1f} ms, the median ({found / update:+.0%} of an update); the "
            f"highest {1000 * max(more):+.1f}"
        )
    sys.exit(statistics.median(kept) > most)


if __name__ == "__main__":
    main()
