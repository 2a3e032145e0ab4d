"""Public language models compute what the library computes that wrote them: logits, hidden states, generated tokens."""

import json
import types

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import flamingo_jax
from flamingo_jax.convert.language_config import language_config

ATOL = 2e-4
LAYOUTS = {"bin": "torch"}  # variant -> the library that it needs


@pytest.fixture(scope="module")
def case(language_folder):
    """The loaded model, its inputs and what comes out."""
    io = load_file(language_folder / "io.safetensors")
    return types.SimpleNamespace(
        model=flamingo_jax.load(language_folder),
        tokens=io["in.input_ids"],
        mask=io["in.attention_mask"],
        logits=io["out.logits"],
        hidden=io["out.last_hidden_state"],
        greedy=io["out.generate_greedy_8"],
    )


def test_logits_and_hidden_states(case):
    """Row 0 is plain, row 1 padded on the left, row 2 on the right."""
    assert (case.mask == 0).any(1).tolist() == [False, True, True]
    seen = case.mask == 1
    for method in ("logits", "hidden"):
        actual = np.asarray(getattr(case.model, method)(case.tokens, case.mask))
        np.testing.assert_allclose(actual[seen], getattr(case, method)[seen], rtol=0, atol=ATOL, err_msg=method)


def test_greedy_decoding_with_the_cache(case):
    rows, length = case.greedy.shape[0], case.tokens.shape[1]
    np.testing.assert_array_equal(case.greedy[:, :length], case.tokens[:rows])
    actual = case.model.greedy(case.tokens[:rows], case.mask[:rows], steps=8)
    np.testing.assert_array_equal(actual, case.greedy[:, length:])


def test_both_spellings_of_a_config_mean_the_same_model(language_legacy):
    files = [json.loads((language_legacy / f"{name}.json").read_text()) for name in ("config", "config_legacy")]
    assert files[0] != files[1]
    assert language_config(files[0]) == language_config(files[1])


def test_other_layouts_hold_the_same_weights(language_copy):
    """Older names and stray buffers, shards with an index, a PyTorch file, bfloat16."""
    if library := LAYOUTS.get(language_copy.name):
        pytest.importorskip(library)
    model, original = flamingo_jax.load(language_copy), flamingo_jax.load(language_copy.parent)
    assert model.config == original.config
    expected = jax.tree.map(lambda there, here: there.astype(here.dtype), original.variables, model.variables)
    chex.assert_trees_all_equal(model.variables, expected)


@pytest.mark.parametrize("dtype, computes, atol", [("float32", "float32", ATOL), (None, "bfloat16", 0.1)])
def test_rounded_weights(language_rounded, dtype, computes, atol):
    """bfloat16 weights: in float32 the library's logits, in their own type nearly those (rounding alone moves 0.03)."""
    inputs = load_file(language_rounded.parent / "io.safetensors")
    expected = load_file(language_rounded / "io.safetensors")["out.logits"]
    model = flamingo_jax.load(language_rounded, dtype)
    assert model.module.dtype == computes
    seen = inputs["in.attention_mask"] == 1
    actual = np.asarray(model.logits(inputs["in.input_ids"], seen))
    np.testing.assert_allclose(actual[seen], expected[seen], rtol=0, atol=atol)
