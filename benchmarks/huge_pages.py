"""How much huge pages save of a training step on a CPU (Linux, glibc): the miniature's flamingo step, both ways.

    python benchmarks/huge_pages.py [--rounds=3]

Prints the median step time of every round and the ratio of the medians.
"""

import argparse
import importlib.util
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
SETTINGS = {"small pages": "glibc.malloc.hugetlb=0", "huge pages": "glibc.malloc.hugetlb=1"}


def step_time(steps: int = 20) -> float:
    """Median seconds of one update of ``configs/base.py``'s flamingo stage, on batches of random pixels and tokens."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np

    from flamingo_jax import config as configs
    from flamingo_jax.data.example import empty_batch
    from flamingo_jax.data.packing import row_shape
    from flamingo_jax.training import state as shapes
    from flamingo_jax.training.objective import OBJECTIVES
    from flamingo_jax.training.optimizer import make_optimizer
    from flamingo_jax.training.step import make_step

    spec = importlib.util.spec_from_file_location("base", ROOT / "configs" / "base.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = configs.build(module.get_config())
    stage, rng = config.stages["flamingo"], np.random.default_rng(0)

    def batch(name: str, mix: configs.MixConfig) -> dict:
        dummy = empty_batch(row_shape(config.datasets[name].example, mix), mix.rows)
        media, length = dummy["media"], dummy["tokens"].shape[1]
        return dummy | {
            "tokens": rng.integers(4, 1000, dummy["tokens"].shape).astype(np.int32),
            "weights": np.ones_like(dummy["weights"]),
            "segments": np.zeros_like(dummy["segments"]) + 1 + np.arange(length) * mix.pack // length,
            "media": rng.integers(0, 256, media.shape).astype(np.uint8),
            "media_index": np.sort(rng.integers(0, media.shape[1] + 1, dummy["tokens"].shape)).astype(np.int32),
            "media_mask": np.ones_like(dummy["media_mask"]),
        }

    batches = {name: batch(name, mix) for name, mix in stage.mixture.items()}
    objective = OBJECTIVES[stage.objective](config.model, (3,), 0)
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    variables = nn.meta.unbox(jax.jit(objective.init)(jax.random.key(0), jax.tree.map(jnp.asarray, batches["m3w"])))
    params = variables["params"]
    state = shapes.initial(optimizer, params)
    lambdas = {name: mix.weight for name, mix in stage.mixture.items()}
    step = jax.jit(make_step(objective, lambdas, optimizer), donate_argnums=0)
    times = []
    for _ in range(steps + 1):  # the first one compiles
        start = time.perf_counter()
        state, _ = step(state, variables["frozen"], batches)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a round of one side: what is run below
    arguments = parser.parse_args()
    if arguments.one:
        print(step_time())
        return
    medians = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, tunables in SETTINGS.items():
            command = [sys.executable, __file__, "--one"]
            environment = {**os.environ, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": tunables}
            output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            medians[name].append(float(output.split()[-1]))
            print(f"{name}: {medians[name][-1]:.3f} s a step", flush=True)
    small, huge = (statistics.median(medians[name]) for name in SETTINGS)
    print(f"huge pages / small pages: {huge / small:.2f}")


if __name__ == "__main__":
    main()
