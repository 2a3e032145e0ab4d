"""One training stage: from the start, or from where it was interrupted, to its last step."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import time
import zlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from flamingo_jax.config import ExampleConfig, StageConfig
from flamingo_jax.data.example import empty_batch
from flamingo_jax.training import attempts, compiler, ending, hosts, sharding
from flamingo_jax.training import state as shapes
from flamingo_jax.training.checkpoint import Checkpoints
from flamingo_jax.training.ledger import Ledger
from flamingo_jax.training.lookout import Lookout, stopping
from flamingo_jax.training.metrics import SPEED, VALIDATION, Progress, Writer
from flamingo_jax.training.mixing import turn
from flamingo_jax.training.objective import Objective
from flamingo_jax.training.optimizer import learning_rate, make_optimizer
from flamingo_jax.training.profile import Profile
from flamingo_jax.training.seen import Seen
from flamingo_jax.training.skips import Skips
from flamingo_jax.training.speed import Speed, memory
from flamingo_jax.training.step import make_step
from flamingo_jax.training.tracking import Send, send_nothing
from flamingo_jax.training.validation import Validation, best
from flamingo_jax.training.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Stage:
    """All that a training stage needs.

    examples: the shape of each dataset's rows. streams: a ``data.stream.Stream`` of {key: [rows / processes, ..]} per
    dataset; max_unreadable: the share of it that may be unreadable. frozen: the objective's frozen collection, already
    on the mesh. initial: weights of ``params`` that do not start at random. flops: floating-point operations that one
    gradient of every dataset needs (``flops.of_gradients``); 0: not known, and no speed is told by it. validation: open
    the streams of the config's validation datasets, from their beginnings. ledger: told where the time goes. send:
    ``metrics.Writer``'s.
    """

    name: str
    config: StageConfig
    objective: Objective
    examples: Mapping[str, ExampleConfig]
    streams: Mapping[str, object]
    frozen: dict
    initial: dict
    mesh: Mesh
    seed: int
    directory: pathlib.Path
    max_unreadable: float = 0.01
    flops: float = 0.0
    validation: Mapping[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    send: Send = send_nothing


def train(stage: Stage, say: Callable[[str], None] = print) -> tuple[dict, dict[str, float]]:
    """Runs the stage to its last step. Returns the trained weights and the last step's metrics.

    Everything that decides the result (weights, optimizer state, step, each stream's position) is saved in one
    checkpoint, so a run that is killed anywhere and started again ends with the same bits.
    """
    config, ledger = stage.config, stage.ledger
    optimizer = make_optimizer(config.optimizer, config.steps)
    lambdas = {name: mix.weight for name, mix in config.mixture.items()}
    pieces = {name: mix.microbatches for name, mix in config.mixture.items()}
    rate = learning_rate(config.optimizer, config.steps)

    def tell(line: str) -> None:
        say(f"{stage.name}: {line}")

    with contextlib.ExitStack() as stack:
        watchdog = Watchdog(60 * config.watchdog_minutes, stage.name)
        stack.enter_context(watchdog.watching())
        checkpoints = Checkpoints(
            stage.directory / attempts.FOLDER,
            tell,
            latest=config.keep_latest,
            every=config.keep_every_steps,
            best=lambda: best(stage.directory, config.keep_best),
        )
        stack.callback(ledger.during("save")(checkpoints.close))
        for stream in stage.streams.values():
            stack.callback(stream.close)
        stack.enter_context(sharding.use(stage.mesh))
        seen = Seen(stage.streams, config.mixture, stage.max_unreadable)
        skips = Skips(stage.streams, config.max_skipped, tell)
        state, owed = _start(stage, optimizer, checkpoints, seen, skips, tell)
        start = int(state["step"])
        watchdog.beat("the stage was begun")
        with ledger.during("compile"):
            checkpoints.prepare(state)
        step = make_step(stage.objective, lambdas, optimizer, config.mixing, pieces, config.skip_spikes)
        step_fn = compiler.jit(step, state, stage.mesh)
        writer = Writer(stage.directory, start, owed, stage.send)
        stack.callback(writer.close)
        progress = Progress(stage.name, config.steps, start)
        stack.callback(progress.close)
        # A round: the updates until every dataset had its turn. Lines stand at the ends of rounds, and checkpoints
        # too, with a round still to come: so a line has every dataset's newest loss, in a resumed run as in any other.
        names = tuple(lambdas)
        round_length = len(names) // len(turn(config.mixing, names, 0))
        every = -(-config.log_every // round_length) * round_length
        validation = Validation(config, stage.objective, stage.validation, stage.mesh, round_length)
        lookout = Lookout(
            config.checkpoint_every_seconds,
            start,
            round_length,
            config.steps,
            at=(config.keep_every_steps, validation.every),
            busy=lambda: checkpoints.busy,
            end=lambda: checkpoints.damage or checkpoints.failure,
        )
        work = _work_per_step(stage, round_length)
        speed = Speed(stage.mesh, work, stage.flops / round_length, first=start + round_length + 1)
        profile = Profile(stage.directory / "profile", config.profile, start + round_length, tell)
        stack.callback(profile.close)

        def report(step: int, metrics: dict, starts: dict, log_every: int = every) -> dict[str, float]:
            """Counts and shows step ``step``'s metrics and, every ``log_every`` steps, writes them. starts: where the
            streams stood before it."""
            if not metrics:
                return {}
            values = skips.add(step, seen.add(metrics), starts)
            watchdog.beat(f"update {step} was made")
            progress.update(step, values, **work, seconds_at_peak=speed.seconds_at_peak)
            speed.done(step)
            ledger.done(step)
            if step % log_every == 0:
                writer.write(step, values)
                if found := speed.look(step):
                    writer.write(step, found | memory(), SPEED)
            return values

        def validate(step: int) -> bool:
            """Measures and writes the losses after step ``step``; not, if SIGTERM comes, but in the end: of that step
            there is no checkpoint, and after it the stage is complete."""

            def go_on() -> bool:
                watchdog.beat(f"a batch was validated after update {step}")
                return step == config.steps or not stopping()

            with ledger.during("evaluation"):
                losses = validation.run(state["params"], stage.frozen, go_on)
            writer.write(step, losses, VALIDATION)
            if losses:
                tell(f"step {step}: validation " + ", ".join(f"{name} {value:.3f}" for name, value in losses.items()))
            return bool(losses)

        stack.enter_context(ledger.training(stage.name, start))
        if owed and not validate(start):
            _stop(stage, checkpoints, start)
        metrics: dict[str, jax.Array] = {}
        starts: dict[str, int] = {}
        for step in range(start, config.steps):
            asked = time.monotonic()
            due_now = turn(config.mixing, names, step)
            before, starts = starts, {name: stage.streams[name].get_state() for name in due_now}
            with ledger.during("data"):
                batches = {name: next(stage.streams[name]) for name in due_now}
            lost = time.monotonic() - asked
            if state["step"].is_ready():
                progress.waited(lost)
                speed.waited(lost)
            else:  # the devices were still at work, and lost nothing
                ledger.move(lost, "data", "train")
            batches = {name: sharding.put_batch(stage.mesh, batch) for name, batch in batches.items()}
            profile.before(step + 1, state)
            # A program's first call returns when it is compiled; the devices then work on it.
            at_work = ledger.during("train" if step >= start + round_length else "compile")
            with at_work, jax.profiler.StepTraceAnnotation(stage.name, step_num=step + 1):
                state, new = sharding.settled(step_fn(state, stage.frozen, batches))
            profile.after(step + 1, state)
            # The host reads the metrics of the step before, and the next batches, while the device works on this one.
            report(step, metrics, before)
            # Asked for here and read with the rest: it is computed on a device, behind the update that is at work.
            metrics |= new | {"learning_rate": rate(step)}
            due = lookout.after(step + 1)
            if due.save:
                report(step + 1, metrics, starts)
                metrics = {}
                owed = validation.due(step + 1)
                notes = {"streams": seen.state(), "skips": skips.state(), "owed": ["validation"] if owed else []}
                with ledger.during("save"):  # on resume logs are cut at its step, so they must be on the disk before it
                    checkpoints.save(step + 1, state, notes, before=writer.flush)
            if due.end:
                _end(stage, checkpoints, due.end)
            # What is validated is saved before, and owed until the next save: a run that is ended here does it first.
            if due.stop or (due.save and owed and not validate(step + 1)):
                _stop(stage, checkpoints, step + 1)
        final = report(config.steps, metrics, starts, log_every=1)
        if damage := checkpoints.examine(config.steps, state):
            _end(stage, checkpoints, damage)
        if validation.due(config.steps):
            validate(config.steps)
    for line in [*seen.report(), progress.summary()]:
        tell(line)
    return state["params"], final


def _stop(stage: Stage, checkpoints: Checkpoints, step: int) -> None:
    """Ends the program after SIGTERM."""
    at = f"step {step} of {stage.config.steps}"
    with stage.ledger.during("save"):
        saved = checkpoints.wait()
    if checkpoints.damage:
        _end(stage, checkpoints, checkpoints.damage)
    said = f"is saved at {at}" if saved else f"could not be saved at {at}, and falls back to an older one"
    with contextlib.suppress(TimeoutError):  # the first process serves the others, but what it deletes may take longer
        hosts.wait(f"{stage.name} stopped", seconds=60)
    raise ending.Ended(ending.PREEMPTED, f"SIGTERM: {stage.name} {said}; the same command goes on.")


def _end(stage: Stage, checkpoints: Checkpoints, reason: str) -> None:
    """Ends the program, all processes at the same step: devices that should hold the same weights do not, or nothing
    can be saved."""
    checkpoints.wait()  # by then every process knows of the damage that another one has told it of
    if not (damage := checkpoints.damage):
        raise OSError(f"{stage.name}: {reason}")
    raise ending.Ended(
        ending.DAMAGED,
        f"{stage.name}: copies of the same weights differ, at {damage}. A device or its memory has failed. Nothing of "
        "this was saved: the same command goes on from the checkpoint before. If the same device is named again, go on "
        "without it.",
    )


def _start(
    stage: Stage, optimizer: optax.GradientTransformation, checkpoints: Checkpoints, seen: Seen, skips: Skips, tell
) -> tuple[dict, bool]:
    """The stage's state on the mesh, restored from the newest checkpoint or initialised; whether it is still to be
    validated."""
    example = next(iter(stage.examples.values()))
    abstract = shapes.state(stage.mesh, optimizer, shapes.weights(stage.mesh, stage.objective, example)["params"])
    with stage.ledger.during("restore"):
        restored = checkpoints.restore(abstract)
    if restored is None:
        return _initialise(stage, optimizer, abstract, example), False
    state, notes = restored
    seen.restore(notes["streams"], tell)
    skips.restore(notes["skips"])
    tell(f"continuing at step {int(state['step'])} of {stage.config.steps}")
    return state, "validation" in notes["owed"] and bool(stage.config.validation)


def _initialise(stage: Stage, optimizer: optax.GradientTransformation, abstract: dict, example: ExampleConfig) -> dict:
    """The state before the first step, where ``abstract`` says: random, but for the weights that are given."""

    def init(key):
        batch = jax.tree.map(jnp.asarray, empty_batch(example, sharding.batch_ways(stage.mesh)))
        params = nn.meta.unbox(stage.objective.init(key, batch)["params"])
        return shapes.initial(optimizer, params)

    key = jax.random.fold_in(jax.random.key(stage.seed), zlib.crc32(stage.name.encode()))
    state = jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))(key)
    given = traverse.flatten_dict(stage.initial)
    params = traverse.flatten_dict(state["params"])
    put = {path: jax.device_put(np.asarray(w, np.float32), params[path].sharding) for path, w in given.items()}
    return {**state, "params": traverse.unflatten_dict({**params, **put})}


def _work_per_step(stage: Stage, round_length: int) -> dict[str, float]:
    """What one update works on, averaged over the updates of a round."""
    whole = shapes.work(stage.examples, stage.config.mixture)
    return {name: count / round_length for name, count in whole.items()}
