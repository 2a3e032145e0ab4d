"""How long tracing and lowering the train step of a config takes, and that it does not grow with depth.

    python benchmarks/lowering.py --config=configs/flamingo_80b.py --repeats=3

The step is the real one: a gradient for each dataset of the stage ``flamingo``, weighted, summed, clipped, AdamW. It is
lowered for abstract weights, so nothing is allocated; once as the config has it and once with twice the language
model's depth, alternating. Printed are seconds per lowering and the ratio of the medians.
"""

import dataclasses
import statistics
import time

import flax.linen as nn
import jax
from absl import app, flags, logging

from flamingo_jax import config as configs
from flamingo_jax.command import CONFIG, make_parser
from flamingo_jax.data.example import empty_batch
from flamingo_jax.data.packing import row_shape
from flamingo_jax.training import state as shapes
from flamingo_jax.training.objective import flamingo
from flamingo_jax.training.optimizer import make_optimizer
from flamingo_jax.training.step import make_step

_REPEATS = flags.DEFINE_integer("repeats", 3, "Lowerings of each depth.")


def lower(config: configs.RunConfig) -> float:
    """Seconds to trace and lower the train step."""
    jax.clear_caches()
    stage = config.stages["flamingo"]
    goal = flamingo(config.model, (1,), pad=0)
    optimizer = make_optimizer(stage.optimizer, stage.steps)
    batches = {
        name: {
            key: jax.ShapeDtypeStruct((mix.rows, *leaf.shape[1:]), leaf.dtype)
            for key, leaf in empty_batch(row_shape(config.datasets[name].example, mix), 1).items()
        }
        for name, mix in stage.mixture.items()
    }
    start = time.monotonic()
    first = next(iter(batches.values()))
    variables = nn.meta.unbox(jax.eval_shape(goal.init, jax.random.key(0), first))
    state = jax.eval_shape(lambda params: shapes.initial(optimizer, params), variables["params"])
    weights = {name: mix.weight for name, mix in stage.mixture.items()}
    step = jax.jit(make_step(goal, weights, optimizer), donate_argnums=0)
    step.lower(state, variables["frozen"], batches)
    return time.monotonic() - start


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")
    config = configs.build(CONFIG.value)
    depth = config.model.language.depth
    language = dataclasses.replace(config.model.language, depth=2 * depth)
    twice = dataclasses.replace(config, model=dataclasses.replace(config.model, language=language))
    times = {depth: [], 2 * depth: []}
    for _ in range(_REPEATS.value):
        for layers, variant in ((depth, config), (2 * depth, twice)):
            times[layers].append(lower(variant))
    for layers, seconds in times.items():
        print(f"{layers} blocks: {', '.join(f'{s:.1f}' for s in seconds)} s")
    one, two = (statistics.median(seconds) for seconds in times.values())
    print(f"{2 * depth} blocks / {depth} blocks: {two / one:.2f}")


if __name__ == "__main__":
    app.run(main, flags_parser=make_parser("lowering.py"))
