"""A stage's real train step, compiled for devices that are not there, and what its program holds."""

from __future__ import annotations

import collections
import dataclasses
import re
import time

import jax

from flamingo_jax.config import MeshConfig, RunConfig
from flamingo_jax.data import packing
from flamingo_jax.models.int8 import is_int8
from flamingo_jax.planning import schedule
from flamingo_jax.planning.links import Links, bytes_of, kind_of
from flamingo_jax.planning.program import Program, read
from flamingo_jax.training import compiler, flops, sharding, state
from flamingo_jax.training.mixing import turn
from flamingo_jax.training.objective import OBJECTIVES
from flamingo_jax.training.optimizer import make_optimizer
from flamingo_jax.training.step import make_step


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step for one mesh. All but ``flops`` and ``work`` is of one device.

    memory: {"arguments", "temporary", "peak"} and of the "host", bytes. collectives: {(kind, "in loops" or "outside"):
    {"times", "bytes", "seconds"}}, a step. estimate: of its time. flops: what the model needs, of all devices; naive: 6
    for each weight and token. work: {"tokens", "images"} a step. seconds: that it took to compile.
    """

    memory: dict[str, int]
    collectives: dict[tuple[str, str], dict[str, float]]
    estimate: schedule.Estimate
    flops: int
    naive: int
    work: dict[str, int]
    seconds: float


class TooLarge(ValueError):
    """The compiler gave up, for a device has too little memory. bytes: what it needs at least, as the compiler says, 0
    where it says nothing. plan: of which step."""

    def __init__(self, reason: str):
        found = re.search(r"([\d.]+)G", reason)
        self.bytes = int(float(found[1]) * 2**30) if found else 0
        self.plan: dict = {}
        super().__init__(reason)


def compile_step(config: RunConfig, name: str, mesh: jax.sharding.Mesh, links: Links) -> Compiled:
    """Compiles the step of stage ``name``: of all its datasets, where they share an update.

    Raises ValueError when the config does not fit the mesh, ``TooLarge`` when the step does not fit the devices.
    """
    stage = config.stages[name]
    for dataset, mix in stage.mixture.items():
        sharding.check_batch(mesh, f"config.stages.{name}.mixture.{dataset}", mix)
    datasets = turn(stage.mixing, tuple(stage.mixture), 0)
    shapes = {key: packing.row_shape(config.datasets[key].example, stage.mixture[key]) for key in datasets}
    objective, optimizer = _objective(config, name), make_optimizer(stage.optimizer, stage.steps)
    model = config.model
    weights = state.weights(mesh, objective, shapes[datasets[0]], model.dtype, config.mesh.frozen, model.int8)
    whole = state.state(mesh, optimizer, weights["params"])
    batches = {key: state.batch(mesh, shape, stage.mixture[key].rows) for key, shape in shapes.items()}
    lambdas = {key: mix.weight for key, mix in stage.mixture.items()}
    pieces = {key: mix.microbatches for key, mix in stage.mixture.items()}
    step = make_step(objective, lambdas, optimizer, stage.mixing, pieces)
    start = time.monotonic()
    with sharding.use(mesh):
        lowered = compiler.jit(step, whole, mesh).lower(whole, weights["frozen"], batches)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise TooLarge(str(error).splitlines()[0]) from None
    seconds = time.monotonic() - start
    program = read(compiled.as_text())
    work = state.work(shapes, {key: stage.mixture[key] for key in datasets})
    return Compiled(
        memory(compiled.memory_analysis()),
        collectives(program, links),
        schedule.estimate(program, links),
        needed(config, name),
        6 * work["tokens"] * sum(leaf.size for leaf in jax.tree.leaves(weights, is_leaf=is_int8)),
        work,
        seconds,
    )


def memory(used) -> dict[str, int]:
    """``Compiled.memory``, of what a compiled program's ``memory_analysis`` returned."""
    results = used.output_size_in_bytes - used.alias_size_in_bytes
    return {
        "arguments": used.argument_size_in_bytes,
        "temporary": used.temp_size_in_bytes,
        # The compiler's own peak has what lies in the host's memory in it, too.
        "peak": min(used.peak_memory_in_bytes, used.argument_size_in_bytes + results + used.temp_size_in_bytes),
        "host": used.host_temp_size_in_bytes,
    }


def collectives(program: Program, links: Links) -> dict[tuple[str, str], dict[str, float]]:
    """All collectives of a program by kind, and whether they are inside of loops over layers."""
    table: dict = collections.defaultdict(lambda: collections.Counter())

    def walk(name: str, times: int, depth: int) -> None:
        for operation in program.computations[name]:
            for one in [operation] if kind_of(operation) else program.fused(operation, "Start"):
                entry = table[kind_of(one), "in loops" if depth else "outside"]
                entry.update(times=times, bytes=times * bytes_of(one), seconds=times * links.seconds(one))
            if operation.kind == "while":
                walk(operation.calls["body"], times * program.trips(operation), depth + 1)
            elif operation.kind in ("call", "conditional"):
                for called in operation.calls.values():
                    walk(called, times, depth)

    walk(program.entry, 1, 0)
    return {key: dict(entry) for key, entry in sorted(table.items())}


def _objective(config: RunConfig, name: str, **options):
    return OBJECTIVES[config.stages[name].objective](config.model, (config.model.language.vocab_size,), 0, **options)


def needed(config: RunConfig, name: str) -> int:
    """Floating-point operations of a step's losses and gradients, whatever is kept for them and wherever."""
    kept = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="none"))
    stage, objective = config.stages[name], _objective(kept, name, whole=True)
    datasets = turn(stage.mixing, tuple(stage.mixture), 0)
    shapes = {key: packing.row_shape(config.datasets[key].example, stage.mixture[key]) for key in datasets}
    here = sharding.make_mesh(MeshConfig(), jax.devices()[:1])  # a trace for devices that are not there needs them
    weights = state.weights(here, objective, next(iter(shapes.values())), config.model.dtype)
    batches = {key: state.batch(here, shape, stage.mixture[key].rows) for key, shape in shapes.items()}
    return flops.of_gradients(objective, stage, weights, batches)
