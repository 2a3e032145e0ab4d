"""Matrices of 8 bits are near the ones that they stand for, wherever a model reads them, and a quarter as large."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamingo_jax
from flamingo_jax.convert import run
from flamingo_jax.models.int8 import Int8, inputs_of, is_int8, quantise

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("inputs", [(-2,), (-3,), (-3, -2)])
def test_the_error_is_half_a_step_at_most(inputs):
    w = jax.random.normal(jax.random.key(0), (3, 8, 4, 6)) * jnp.arange(6)  # the last axis begins with zeros
    found = quantise(w, inputs)
    assert found.values.dtype == jnp.int8 and found.shape == w.shape
    assert found.steps.shape == tuple(1 if i - 4 in inputs else n for i, n in enumerate(w.shape))
    error = jnp.abs(found.astype(jnp.float32) - w)
    assert (error <= found.steps / 2 * 1.001).all() and error.max() > 0
    assert (found.astype(jnp.float32)[..., 0] == 0).all()
    assert jnp.abs(found.values).max(inputs).min(initial=127, where=found.steps.squeeze(inputs) != 1) == 127


def test_which_axes_share_a_step():
    assert inputs_of(("blocks", "attention", "query", "kernel"), 4) == (-3,)
    assert inputs_of(("blocks", "attention", "out", "kernel"), 4) == (-3, -2)
    assert inputs_of(("blocks", "mlp", "up", "kernel"), 3) == (-2,)
    for path in (("embedding", "table"), ("norm", "scale"), ("attention", "query", "bias"), ("stage_1_rest", "kernel")):
        assert inputs_of(path, 3) is None


def near(model, original, *arguments, **options):
    """Root of the mean square of what the logits of two models differ by, as a share of their spread."""
    a, b = (np.asarray(one.logits(*arguments, **options), np.float32) for one in (model, original))
    return np.sqrt(np.square(a - b).mean()) / b.std()


@pytest.mark.parametrize(
    "case",
    ["llama3", *(pytest.param(case, marks=pytest.mark.slow) for case in ("gptj", "gemma3_text", "phi3", "stablelm"))],
)
def test_a_language_model(case, tmp_path):
    """Loaded as 8 bits, and converted: the same numbers, nearly those of bfloat16."""
    folder, tokens = GOLDEN / "language" / case, np.arange(1, 25).reshape(2, 12)
    model, half = flamingo_jax.load(folder, dtype="int8"), flamingo_jax.load(folder, dtype="bfloat16")
    leaves = jax.tree.leaves(model.variables, is_leaf=is_int8)
    assert sum(map(is_int8, leaves)) >= 6 and not any(leaf.dtype == jnp.float32 for leaf in leaves)
    assert 0 < near(model, half, tokens) < 0.2
    run.convert(run.open_source(str(folder)), str(tmp_path / "out"), "orbax", "int8")
    converted = flamingo_jax.load(tmp_path / "out")
    assert near(converted, model, tokens) == 0
    np.testing.assert_array_equal(converted.greedy(tokens, steps=4), model.greedy(tokens, steps=4))
    back = flamingo_jax.load(tmp_path / "out", dtype="bfloat16")
    assert not any(map(is_int8, jax.tree.leaves(back.variables, is_leaf=is_int8)))
    assert near(back, model, tokens) < 0.02  # the same matrices


def test_a_whole_model(tmp_path):
    """The bridge stays as it was trained."""
    folder = GOLDEN / "idefics" / "resampler" / "hf"
    run.convert(run.open_source(str(folder)), str(tmp_path / "out"), "orbax", "int8")
    model, original = flamingo_jax.load(tmp_path / "out"), flamingo_jax.load(folder)
    assert not any(map(is_int8, jax.tree.leaves(model.variables["params"], is_leaf=is_int8)))
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], original.variables["params"])
    images = np.random.default_rng(0).integers(0, 256, (1, 1, 28, 28, 3)).astype(np.uint8)
    tokens = [[1, 96, model.image_token, 96, 5, 6, 7]]
    assert 0 < near(model, flamingo_jax.load(folder, dtype="bfloat16"), tokens, images=images) < 0.2
    run.convert(run.open_source(str(tmp_path / "out")), str(tmp_path / "plain"), "safetensors")
    plain = flamingo_jax.load(tmp_path / "plain")
    jax.tree.map(np.testing.assert_array_equal, plain.variables["params"], original.variables["params"])
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(one.variables["frozen"])) for one in (model, original)]
    assert sizes[0] < 0.45 * sizes[1]  # at this size the tables, which stay bfloat16, weigh much


def test_an_encoder():
    folder = GOLDEN / "vision" / "siglip2_naflex"
    model, half = flamingo_jax.load(folder, dtype="int8"), flamingo_jax.load(folder, dtype="bfloat16")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    a, b = (np.asarray(one.features(images), np.float32) for one in (model, half))
    assert 0 < np.abs(a - b).max() < 0.2 * b.std() * 3
    assert isinstance(model.variables["params"]["layers"]["mlp"]["up"]["kernel"], Int8)


def test_other_layouts_have_no_int8(tmp_path):
    source = run.open_source(str(GOLDEN / "language" / "llama3"))
    with pytest.raises(ValueError, match="int8 is a type of our own folders in Orbax; --export=safetensors needs"):
        run.convert(source, str(tmp_path / "out"), "safetensors", "int8")
    run.convert(source, str(tmp_path / "out"), "orbax", "int8")
    run.convert(run.open_source(str(tmp_path / "out")), str(tmp_path / "plain"), "safetensors")
    assert flamingo_jax.load(tmp_path / "plain").variables["params"]["norm"]["scale"].dtype == jnp.bfloat16
