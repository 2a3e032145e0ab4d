"""The TPU's own compiler, where it is installed: what programs must take by their operations and bytes; real steps."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flamingo_jax.config import MeshConfig
from flamingo_jax.models import fused
from flamingo_jax.models.remat import GROUP, POLICIES
from flamingo_jax.planning import compile as compile_lib
from flamingo_jax.planning import program, schedule, topology
from flamingo_jax.training import chips, compiler, sharding

ROOT = pathlib.Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")


@pytest.mark.parametrize(
    "name, message",
    [
        ("v9:2x2", "there is no TPU 'v9'; .*known here: tpu7x, v4, v5e, v5p, v6e"),
        ("v5p:4x4", "must have 3 sizes; some that there are: v4:8x12x16"),
        ("v5e:4xa", "must have 2 sizes"),
    ],
)
def test_topologies_that_are_none(name, message):
    with pytest.raises(ValueError, match=message):
        topology.devices(name)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[tpu\]'"):
        topology.devices("v5e:4x4")


@needs_compiler
def test_a_shape_that_no_pod_has():
    with pytest.raises(ValueError, match="--topology=v5e:3x5 is none: .*not divisible"):
        topology.devices("v5e:3x5")


@needs_compiler
@pytest.mark.parametrize(
    "name, slices, count", [("v4:2x2x1", 1, 4), ("v5p:2x2x1", 1, 4), ("v6e:2x2", 2, 8), ("tpu7x:2x2x1", 1, 8)]
)
def test_devices(name, slices, count):
    devices = topology.devices(name, slices)
    assert len(devices) == count
    assert chips.peak(devices[0].device_kind) == chips.find(name).flops
    mesh = sharding.make_mesh(MeshConfig(), devices)
    found = topology.links(name, mesh)
    assert found.places.shape == (count, 5) and set(found.places[:, 0]) == set(range(slices))
    if slices > 1:
        with pytest.raises(ValueError, match="data=1, but the devices are 2 slices, .* a multiple of 2"):
            sharding.make_mesh(MeshConfig(1, count, 1), devices)


@needs_compiler
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_every_chips_compiler_takes_what_it_is_asked_for(name):
    """Newer ones refuse what is another chip's."""
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=-1), topology.devices(name))
    split, everywhere = (NamedSharding(mesh, spec) for spec in (PartitionSpec(None, "fsdp"), PartitionSpec()))

    def step(state):
        def layer(x, weight):
            return jnp.tanh(x @ jax.lax.with_sharding_constraint(weight, everywhere)), None

        x = jnp.ones((256, 1024), jnp.bfloat16)
        loss, grads = jax.value_and_grad(lambda w: jax.lax.scan(layer, x, w)[0].astype(jnp.float32).sum())(state["w"])
        return {"w": state["w"] - grads}, loss

    state = {"w": jax.ShapeDtypeStruct((4, 1024, 1024), jnp.bfloat16, sharding=split)}
    found = program.read(compiler.jit(step, state, mesh).lower(state).compile().as_text())
    kinds = {kind for kind, _ in compile_lib.collectives(found, topology.links(name, mesh))}
    assert "all-gather" in kinds, kinds


@pytest.fixture(scope="module")
def row():
    """(mesh of four in a row, its links): v5p."""
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=topology.devices("v5p:2x2x1"))
    return mesh, topology.links("v5p:2x2x1", mesh)


def estimated(row, function, *arguments, out=None):
    """Seconds of a function of arrays (shape, type, how it is split)."""
    mesh, links = row

    def place(split):
        return NamedSharding(mesh, PartitionSpec(*split))

    shapes = [jax.ShapeDtypeStruct(shape, kind, sharding=place(split)) for shape, kind, split in arguments]
    compiled = jax.jit(function, out_shardings=None if out is None else place(out)).lower(*shapes).compile()
    return schedule.estimate(program.read(compiled.as_text()), links).seconds


@needs_compiler
def test_products_take_their_operations(row):
    def chain(x, w):
        return jax.lax.fori_loop(0, 10, lambda _, x: x @ w, x)

    matrix = ((8192, 8192), jnp.bfloat16, ())
    least = 10 * 2 * 8192**3 / chips.CHIPS["v5p"].flops
    assert estimated(row, chain, matrix, matrix) == pytest.approx(least, rel=0.2)


@needs_compiler
@pytest.mark.parametrize("function, passes", [(lambda x: x + 1, 2), (lambda x: x.T, 2), (lambda x: x.at[0].set(0), 2)])
def test_copies_take_their_bytes(row, function, passes):
    least = passes * 16384 * 8192 * 4 / chips.CHIPS["v5p"].bandwidth
    assert estimated(row, function, ((16384, 8192), jnp.float32, ())) == pytest.approx(least, rel=0.2)


@needs_compiler
def test_gathers_take_their_bytes(row):
    """Two of the torus' axes, a link each: 2 x 2."""
    size, links = 16384 * 8192 * 4, 2
    least = size * 3 / 4 / links / chips.CHIPS["v5p"].link
    taken = estimated(row, lambda x: x, ((16384, 8192), jnp.float32, ("x",)), out=())
    assert taken == pytest.approx(least, rel=0.2)


@needs_compiler
def test_splash_attention_is_compiled_for_a_mesh_and_counted():
    """The kernels themselves, for heads and rows of each device; the estimate has their products."""
    mesh = sharding.make_mesh(MeshConfig(1, 2, 2), topology.devices("v5p:2x2x1"))
    place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor"))
    heads = jax.ShapeDtypeStruct((8, 16, 2048, 128), jnp.bfloat16, sharding=place)

    def gradient(q, k, v):
        def loss(q, k, v):
            known = fused.Documents(*[jnp.ones((8, 2048), jnp.int32)] * 2)
            return fused.attend(q, k, v, known, scale=0.1).astype(jnp.float32).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(q, k, v)

    with sharding.use(mesh):
        text = jax.jit(gradient).lower(heads, heads, heads).compile().as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 3 and "all-gather" not in text
    products = 2 * 4 * 8 * 2048**2 * 128
    least = 9 * products / chips.CHIPS["v5p"].flops
    seconds = schedule.estimate(program.read(text), topology.links("v5p:2x2x1", mesh)).seconds
    assert least < seconds < 1.5 * least


@needs_compiler
def test_the_peak_is_that_of_the_device_alone():
    """What waits in the host's memory is none of it."""
    (device, *_) = topology.devices("v5e:2x2")
    place = jax.sharding.SingleDeviceSharding(device)

    def peak(remat):
        def layer(x, w):
            return jnp.sin(checkpoint_name(x, GROUP) @ w), None

        def loss(weights, x):
            policy = {"policy": POLICIES[remat]["group"], "prevent_cse": False}
            return jax.lax.scan(jax.checkpoint(layer, **policy), x, weights)[0].sum()

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in ((16, 512, 512), (8192, 512))]
        return compile_lib.memory(jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis())

    full, offload = peak("full"), peak("offload")
    assert full["host"] == 0 and offload["host"] == 16 * 8192 * 512 * 4
    assert offload["peak"] < full["peak"] / 2


@needs_compiler
@pytest.mark.slow
def test_the_command_plans_the_miniature(tmp_path):
    def plan(*options):
        command = [sys.executable, "-m", "flamingo_jax.plan", f"--config={ROOT}/configs/base.py:quick", *options]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)

    made = plan("--topology=v5e:2x2", "--mesh=1x2x2", "--output=plans")
    assert made.returncode == 0, made.stderr
    (path,) = (tmp_path / "plans").glob("*.json")
    found = json.loads(path.read_text())
    assert found["devices"] == 4 and 0 < found["memory_bytes"]["peak"] < found["memory_bytes"]["chip"]
    assert found["work"]["images"] == 416 and 0 < found["estimate"]["mfu"] < 1
    assert "Estimated, not measured" in made.stdout and path.with_suffix(".md").read_text() in made.stdout
    for options, message in (
        (["--topology=v5e:2x2", "--mesh=1x2"], "--mesh=1x2 must be three sizes"),
        (["--topology=v5e:2x2", "--mesh=1x2x3"], "does not fit 4 devices"),
        (["--topology=v5e:2x2", "--stage=flamigno"], "did you mean 'flamingo'"),
        (["--topology=v5e:2x2", "--output=/proc/plans"], "Cannot make the folder --output=/proc/plans: "),
        ([], "Say what to plan"),
    ):
        wrong = plan(*options)
        assert wrong.returncode == 1 and message in wrong.stderr and "Traceback" not in wrong.stderr, wrong.stderr
