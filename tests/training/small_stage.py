"""A stage of a few updates in this process, which breaks off where a test says so."""

import numpy as np

from flamingo_jax.config import ExampleConfig, MixConfig, OptimizerConfig, StageConfig
from flamingo_jax.training import loop, objective


class Killed(Exception):
    pass


class Numbers:
    """A stream whose n-th batch is a function of n; it breaks when it is asked for batch ``last``."""

    count = 20

    def __init__(self, last=None):
        self.next, self.last = 0, last

    def __next__(self):
        if self.next == self.last:
            raise Killed
        rng = np.random.default_rng(self.next)
        self.next += 1
        return {
            "tokens": rng.integers(4, 64, (8, 12)).astype(np.int32),
            "weights": np.ones((8, 12), np.float32),
            "media": np.zeros((8, 0, 1, 16, 16, 3), np.uint8),
            "media_index": np.zeros((8, 12), np.int32),
            "media_mask": np.zeros((8, 0), bool),
            "unreadable": np.zeros((8, 2), np.int32),
        }

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state

    def close(self):
        pass


def stage(model_config, directory, stream, mesh, steps=6, saved=False, **options):
    config = StageConfig(
        objective="language",
        steps=steps,
        mixture={"text": MixConfig(8)},
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=2),
        log_every=1,
        checkpoint_every_seconds=1e9,
        keep_every_steps=int(saved),
        **options,
    )
    return loop.Stage(
        name="language",
        config=config,
        objective=objective.language(model_config, new_tokens=(3,), pad=0),
        examples={"text": ExampleConfig(length=12, media=0, size=16)},
        streams={"text": stream},
        frozen={},
        initial={},
        mesh=mesh,
        seed=0,
        directory=directory,
    )
