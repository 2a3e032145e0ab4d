"""Time of a training step of every stage of the miniature, this checkout against another one, in one run.

    git worktree add /tmp/other COMMIT
    python benchmarks/step.py --other=/tmp/other --rounds=3

The two sides alternate; each round is a process of its own that compiles the stage's real step (gradient per dataset,
weighted sum, AdamW) for random batches of the config's shapes and reports the median of its steps. Printed are the
medians over rounds and their ratio, per stage: this / other.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parents[1]
STAGES = ("language", "contrastive", "flamingo")


def measure(root: pathlib.Path, steps: int) -> dict[str, float]:
    """Median seconds per step of every stage, with the package of ``root``."""
    import inspect
    import runpy
    import time

    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flamingo_jax import config as configs
    from flamingo_jax.data.example import empty_batch
    from flamingo_jax.training import state as shapes
    from flamingo_jax.training.objective import OBJECTIVES
    from flamingo_jax.training.optimizer import make_optimizer
    from flamingo_jax.training.step import make_step

    config = configs.build(runpy.run_path(str(root / "configs" / "base.py"))["get_config"]())
    rng, medians = np.random.default_rng(0), {}
    for name in STAGES:
        stage = config.stages[name]
        make = OBJECTIVES[stage.objective]
        older = "eoc" in inspect.signature(make).parameters  # which took one id
        goal = make(config.model, 1 if older else (1,), 0)
        batches = {}
        for dataset, mix in stage.mixture.items():
            example, rows, pack = config.datasets[dataset].example, mix.batch_size, getattr(mix, "pack", 1)
            if pack > 1:
                from flamingo_jax.data.packing import row_shape  # which older versions lack

                example, rows = row_shape(example, mix), mix.rows
            batch = empty_batch(example, rows)
            if "segments" in batch:
                batch["segments"][:] = 1 + np.arange(example.length) * pack // example.length
            batch["tokens"] = rng.integers(4, config.model.language.vocab_size, batch["tokens"].shape).astype(np.int32)
            batch["weights"] = np.ones_like(batch["weights"])
            batch["media"] = rng.integers(0, 256, batch["media"].shape).astype(np.uint8)
            batch["media_mask"] = np.ones_like(batch["media_mask"])
            index = rng.integers(0, example.media + 1, batch["media_index"].shape)
            batch["media_index"] = np.sort(index, axis=1).astype(np.int32)
            batches[dataset] = jax.tree.map(jnp.asarray, batch)
        first = next(iter(batches.values()))
        variables = nn.meta.unbox(jax.jit(goal.init)(jax.random.key(0), first))
        optimizer = make_optimizer(stage.optimizer, stage.steps)
        params = variables["params"]
        state = shapes.initial(optimizer, params)
        lambdas = {dataset: mix.weight for dataset, mix in stage.mixture.items()}
        step = jax.jit(make_step(goal, lambdas, optimizer), donate_argnums=0)
        times = []
        for _ in range(steps + 2):
            start = time.monotonic()
            state, metrics = step(state, variables.get("frozen", {}), batches)
            jax.block_until_ready((state, metrics))
            times.append(time.monotonic() - start)
        medians[name] = statistics.median(times[2:])
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=pathlib.Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--measure", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.steps)))
        return
    if args.other is None or not (args.other / "configs" / "base.py").exists():
        parser.error("--other must be a checkout of this repository.")
    sides = {"this": HERE, "other": args.other.resolve()}
    results = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side, root in sides.items():
            environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
            environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # as train.py runs
            command = [sys.executable, __file__, f"--measure={root}", f"--steps={args.steps}"]
            out = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True, text=True).stdout
            results[side].append(json.loads(out.splitlines()[-1]))
    for stage in STAGES:
        this, other = (statistics.median(row[stage] for row in results[side]) for side in sides)
        print(f"{stage}: this {this:.3f} s, other {other:.3f} s a step; this / other: {this / other:.2f}")


if __name__ == "__main__":
    main()
