"""A whole training stage of a tiny model, by one process or several: a script for tests that disturb it.

    python stage.py FOLDER NUMBER COUNT ADDRESS STEPS PAUSE

is process NUMBER of COUNT. A batch takes PAUSE seconds; nothing is saved unless a signal comes. In the end
FOLDER/weights.npz holds the trained weights.
"""

import pathlib
import sys
import time

import flax.traverse_util as traverse
import jax
import numpy as np
from updates import EXAMPLES, MIXTURES, OPTIMIZER, batch, goal

from flamingo_jax.config import MeshConfig, StageConfig
from flamingo_jax.data import packing
from flamingo_jax.training import ending, hosts, loop, sharding

OBJECTIVE = "language"
MIXTURE = MIXTURES[OBJECTIVE]


class Made:
    """A stream of which this process makes its part; the n-th batch is a function of n."""

    count = 1000

    def __init__(self, name, mesh, pause):
        self.name, self.mix, self.next, self.pause = name, MIXTURE[name], 0, pause
        self.part, self.parts = sharding.host_part(mesh, jax.process_index())

    def __next__(self):
        time.sleep(self.pause)
        whole = batch(self.name, self.mix, 7 * self.next + len(self.name))
        self.next += 1
        rows = self.mix.rows // self.parts
        return {key: value[self.part * rows : (self.part + 1) * rows] for key, value in whole.items()}

    def get_state(self):
        return self.next

    def set_state(self, state):
        self.next = state

    def close(self):
        pass

    def unreadable(self):
        return ""


def stage(folder, steps, pause):
    """A stage of data x fsdp x tensor = 2 x 2 x 2 devices, or of what there is."""
    devices = jax.device_count()
    mesh = sharding.make_mesh(MeshConfig(*((2, 2, 2) if devices == 8 else (devices, 1, 1))))
    config = StageConfig(
        objective=OBJECTIVE,
        steps=steps,
        mixture=MIXTURE,
        optimizer=OPTIMIZER,
        log_every=1,
        checkpoint_every_seconds=1e9,
    )
    return loop.Stage(
        name=OBJECTIVE,
        config=config,
        objective=goal(OBJECTIVE),
        examples={name: packing.row_shape(EXAMPLES[name], mix) for name, mix in MIXTURE.items()},
        streams={name: Made(name, mesh, pause) for name in MIXTURE},
        frozen={},
        initial={},
        mesh=mesh,
        seed=0,
        directory=folder,
        max_unreadable=1.0,
    )


def main(folder, number, count, address, steps, pause):
    folder = pathlib.Path(folder)
    if int(count) > 1:
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(address, int(count), int(number))
    with ending.deferred():
        params, _ = loop.train(stage(folder, int(steps), float(pause)))
    weights = {name: hosts.gather(leaf) for name, leaf in traverse.flatten_dict(params, sep="/").items()}
    if jax.process_index() == 0:
        np.savez(folder / "weights.npz", **weights)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ending.Ended as end:
        print(end.sentence, file=sys.stderr)
        raise
