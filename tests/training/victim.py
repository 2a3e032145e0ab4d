"""A whole training stage of a tiny model on real streams, that can be told to die: a script for tests of kills.

    python victim.py FOLDER NUMBER COUNT ADDRESS STEPS

is process NUMBER of COUNT. FOLDER/../data holds what ``write_data`` wrote. It saves often. In the environment:

    KILL="write:2:0.013:1"   the second save that is written is, 0.013 seconds later, the end of process 1 by SIGKILL
    KILL="write:2:0.013:all" that of all processes
    HARM="full:1:2"          the disk is full when process 1 writes its part of the second save
    HARM="full:1:2:"         and from then on, which ends the run
    HARM="flip:1:5"          a bit of a copy of the weights that process 1 holds is another one after the fifth update
    HARM="hang:1:5"          process 1 does not come to the sixth, and is looked for after some seconds
    HARM="nan::5"            losses are not finite from the sixth on

It writes:

    FOLDER/examples/PROCESS.jsonl        of every update that was begun: what it read, row by row
    FOLDER/result.json, FOLDER/weights   the trained weights, in the end
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harm import flip
from jax.experimental import multihost_utils
from orbax.checkpoint._src.path import async_path
from PIL import Image
from written import write

from flamingo_jax.config import ExampleConfig, MeshConfig, MixConfig, OptimizerConfig, StageConfig, StreamsConfig
from flamingo_jax.data import packing, record, tokenizer
from flamingo_jax.data import stream as streams
from flamingo_jax.data.document import Document
from flamingo_jax.training import checkpoint, compiler, ending, hosts, lookout, loop, outcome, sharding, validation
from flamingo_jax.training.objective import Objective

NAME = "language"
PAGES = ExampleConfig(length=24, media=5, size=16)
EXAMPLES = {"pages": PAGES, "packed": ExampleConfig(length=8, size=16), "held": PAGES}
MIXTURE = {"pages": MixConfig(8), "packed": MixConfig(24, weight=0.2, pack=3, row_length=20)}
VALIDATION = {"held": MixConfig(8)}
VOCABULARY, WIDTH = 288, 128
PAUSE = 0.1  # seconds, of an update
ROOM = 48 * 1024  # bytes
PATIENCE = 10.0  # seconds
SAVED = 6  # updates; what is saved at its multiples is validated, and kept for ever


@dataclasses.dataclass(frozen=True)
class Phase:
    """Where a process may be killed: a function, which of the processes come there, and for how long they are there.

    module: where others find the function, or an object that has it. after: it is through when the clock starts.
    """

    module: object
    function: str
    seconds: float
    first: bool = False
    after: bool = False


def begun(step: int) -> None:
    """An update is at work on the devices."""


PHASES = {
    "update": Phase(sys.modules[__name__], "begun", 0.15),
    "write": Phase(checkpoint.Checkpoints, "_write", 0.4),
    "before rename": Phase(async_path, "rename", 0.0, first=True),
    "after rename": Phase(async_path, "rename", 0.0, first=True, after=True),
    "delete": Phase(shutil, "rmtree", 0.003, first=True),
    "validate": Phase(validation.Validation, "run", 0.2),
    "restore": Phase(checkpoint.Checkpoints, "restore", 0.5),
    "store": Phase(outcome, "store_weights", 0.5),
}


def write_data(folder: pathlib.Path) -> None:
    """Three prepared datasets, and their tokenizer."""

    def picture(value):
        buffer = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), value % 256, np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def page(i, pictures):
        text = " ".join(f"see {i} {word}" for word in ("one", "two", "three")[:pictures])
        places = tuple(range(0, 4 * pictures, 4))
        return Document(f"{i}", text, places, tuple((picture(7 * i + j),) for j in range(pictures)), "made")

    documents = {"pages": [page(i, 3) for i in range(101)], "packed": [page(i, 1) for i in range(307)]}
    documents["held"] = [page(1000 + i, 3) for i in range(40)]
    for name, made in documents.items():
        write(folder / name, made, shards=3)
    texts = [document.text for made in documents.values() for document in made]
    tokenizer.train(texts * 3, VOCABULARY).save(folder / "tokenizer.json")


def bigrams() -> Objective:
    """A model that is traced in no time: the next token, given the last one and how bright the row's pictures are."""

    def init(key, batch):
        def normal(number, shape, axes):
            return nn.LogicallyPartitioned(0.1 * jax.random.normal(jax.random.fold_in(key, number), shape), axes)

        table = normal(0, (VOCABULARY, WIDTH), ("vocab", "embed"))
        return {"params": {"decoder": {"table": table, "kernel": normal(1, (WIDTH, VOCABULARY), ("embed", "vocab"))}}}

    def loss(params, frozen, batch, key=None, weight=None):
        bright = batch["media"].astype(jnp.float32).mean((1, 2, 3, 4, 5)) / 255
        x = params["decoder"]["table"][batch["tokens"][:, :-1]] * (1 + bright[:, None, None])
        losses = optax.softmax_cross_entropy_with_integer_labels(
            jnp.tanh(x) @ params["decoder"]["kernel"], batch["tokens"][:, 1:]
        )
        return (losses * batch["weights"][:, 1:]).sum() / batch["weights"].sum()

    return Objective(init, loss, lambda params: {})


def stage(folder: pathlib.Path, steps: int) -> loop.Stage:
    """On data x fsdp x tensor = 2 x 2 x 2 devices."""
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    part, parts = sharding.host_part(mesh, jax.process_index())
    data = folder.parent / "data"
    vocabulary = tokenizer.load(data / "tokenizer.json")
    config = StageConfig(
        objective=NAME,
        steps=steps,
        mixture=MIXTURE,
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=1, clip=0.1),
        log_every=1,
        checkpoint_every_seconds=0.2,
        keep_latest=2,
        keep_every_steps=SAVED,
        validation=VALIDATION,
        validate_every_steps=SAVED,
        validate_batches=3,
        max_skipped=2,
        watchdog_minutes=PATIENCE / 60 if "hang" in os.environ.get("HARM", "") else 30.0,
    )

    def opened(name):
        return streams.stream(
            record.Source(data / name),
            vocabulary,
            EXAMPLES[name],
            (MIXTURE | VALIDATION)[name],
            seed=7,
            name=name,
            shard_index=part,
            shard_count=parts,
            streams=StreamsConfig(threads=1),
        )

    return loop.Stage(
        name=NAME,
        config=config,
        objective=bigrams(),
        examples={name: packing.row_shape(EXAMPLES[name], mix) for name, mix in MIXTURE.items()},
        streams={name: opened(name) for name in MIXTURE},
        validation={name: functools.partial(opened, name) for name in VALIDATION},
        frozen={},
        initial={},
        mesh=mesh,
        seed=0,
        directory=folder,
        max_unreadable=0.0,
    )


def rows(batch: dict[str, jax.Array]) -> dict[str, str]:
    """{number of a row in the global batch: hash of its content}, of this process's devices."""
    found: dict[int, list] = {}
    for key in sorted(batch):
        here = {}
        for shard in batch[key].addressable_shards:
            first = shard.index[0].start or 0
            here |= {first + i: row for i, row in enumerate(np.asarray(shard.data))}
        for number, row in here.items():
            found.setdefault(number, []).append(row.tobytes())
    return {str(number): hashlib.sha256(b"".join(parts)).hexdigest()[:12] for number, parts in sorted(found.items())}


def around_updates(before: Callable, after: Callable = lambda state: state) -> None:
    """From now on ``before(state, batches)`` gives the batches, and ``after(state)`` the state, of every update."""
    compiled = compiler.jit

    def jit(*arguments):
        step_fn = compiled(*arguments)

        def step(state, frozen, batches):
            state, metrics = step_fn(state, frozen, before(state, batches))
            return after(state), metrics

        return step

    compiler.jit = jit


def log_examples(folder: pathlib.Path) -> None:
    """Every update writes down what its devices hold, before it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / f"{jax.process_index()}.jsonl").open("a")

    def before(state, batches):
        line = {"step": int(state["step"]) + 1, "rows": {name: rows(batch) for name, batch in batches.items()}}
        log.write(json.dumps(line) + "\n")
        log.flush()
        begun(line["step"])
        time.sleep(PAUSE)
        return batches

    around_updates(before)


def kill(who: list[int], pids: pathlib.Path) -> None:
    """This process last, for it does the others in."""
    for number in sorted(who, key=lambda number: number == jax.process_index()):
        os.kill(int((pids / str(number)).read_text()), signal.SIGKILL)


def arm(order: str, pids: pathlib.Path) -> None:
    """Makes the phase that ``order`` names deadly, in the process whose part it is."""
    name, entry, delay, victim = order.split(":")
    phase, count = PHASES[name], jax.process_count()
    who = list(range(count)) if victim == "all" else [int(victim)]
    if jax.process_index() != (0 if phase.first else who[0]):
        return
    whole, left = getattr(phase.module, phase.function), [int(entry)]

    def strike():
        left[0] -= 1
        if left[0]:
            return
        if float(delay):
            threading.Timer(float(delay), kill, (who, pids)).start()
        else:
            kill(who, pids)

    @functools.wraps(whole)
    def deadly(*arguments, **options):
        if not phase.after:
            strike()
        return whole(*arguments, **options)

    async def deadly_async(*arguments, **options):
        if not phase.after:
            strike()
        result = await whole(*arguments, **options)
        if phase.after:
            strike()
        return result

    setattr(phase.module, phase.function, deadly_async if phase.module is async_path else deadly)


def fill(number: int, left: int, lasting: bool) -> None:
    """Lets no file of a process grow beyond what its logs need, while it writes a save, or all from that on."""
    whole, old = checkpoint.Checkpoints._write, resource.getrlimit(resource.RLIMIT_FSIZE)
    if lasting:
        checkpoint.Checkpoints.__init__.__kwdefaults__["patience"] = 0.0

    def write(*arguments):
        nonlocal left
        left -= 1
        full = (left <= 0 if lasting else left == 0) and jax.process_index() == number
        resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM if full else old[0], old[1]))
        try:
            return whole(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    checkpoint.Checkpoints._write = write


def harm(order: str) -> None:
    """Does what ``order`` says."""
    kind, number, step, *lasting = order.split(":")
    here, step = number == str(jax.process_index()), int(step)

    def before(state, batches):
        done = int(state["step"])
        if kind == "hang" and here and done == step:
            wait_for_nothing()
        if kind == "nan" and done >= step:
            return {name: batch | {"weights": batch["weights"] * jnp.nan} for name, batch in batches.items()}
        return batches

    def after(state):
        if kind == "flip" and here and int(state["step"]) == step:
            decoder = state["params"]["decoder"]
            decoder["table"] = flip(decoder["table"], 1, bit=3)
        return state

    if kind == "full":
        fill(int(number), step, bool(lasting))
    else:
        around_updates(before, after)


def wait_for_nothing() -> None:
    threading.Event().wait()


def forbid_collectives() -> None:
    """Those of a thread beside the loop meet the loop's own in another order on every host."""
    for name in ("broadcast_one_to_all", "process_allgather"):
        whole = getattr(multihost_utils, name)

        def only_in_turn(*arguments, whole=whole, name=name, **options):
            if threading.current_thread() is not threading.main_thread():
                print(f"{name} beside the loop", flush=True)
                os._exit(99)
            return whole(*arguments, **options)

        setattr(multihost_utils, name, only_in_turn)


def main(folder: str, number: str, count: str, address: str, steps: str) -> None:
    folder = pathlib.Path(folder)
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, int(count), int(number))  # also of one: sums then go round the same ring
    (folder / "pids").mkdir(parents=True, exist_ok=True)
    (folder / "pids" / number).write_text(str(os.getpid()))
    hosts.wait("pids")
    lookout._EVERY = 0.1
    forbid_collectives()
    log_examples(folder / "examples")
    if order := os.environ.get("KILL"):
        arm(order, folder / "pids")
    if order := os.environ.get("HARM"):
        harm(order)
    if not outcome.read_result(folder):
        with ending.deferred():
            try:
                params, _ = loop.train(stage(folder, int(steps)))
            except ending.Ended as end:
                print(end.sentence, flush=True)
                raise
            weights = outcome.store_weights(folder, NAME, params)
        if hosts.is_first():
            outcome.write_result(folder, {"weights": weights, "steps": int(steps)})
            checkpoint.discard(folder / "checkpoints", SAVED)
    hosts.wait("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
