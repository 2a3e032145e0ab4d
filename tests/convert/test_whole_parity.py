"""IDEFICS and OpenFlamingo compute what their own code computes: features, latents, logits, generated tokens."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import flamingo_jax
from flamingo_jax.convert.flamingo import idefics_config

ATOL = 2e-4


def close(actual, expected, where=...):
    np.testing.assert_allclose(np.asarray(actual)[where], expected[where], rtol=0, atol=ATOL)


def read_io(folder, pixels):
    """(tensors, images with channels last)."""
    io = load_file(folder / "io.safetensors")
    return io, np.moveaxis(io[pixels], -3, -1)


def encode(model, images):
    """(tokens of the vision encoder [B N, P, C], latents [B, N, R, D])."""

    def both(module, images):
        return module.vision(images.reshape(-1, *images.shape[-3:])), module.encode(images)

    return jax.jit(lambda variables, images: model.module.apply(variables, images, method=both))(
        model.variables, images
    )


@pytest.fixture(scope="module")
def idefics(idefics_folder):
    return flamingo_jax.load(idefics_folder / "hf"), *read_io(idefics_folder, "in.pixel_values")


def test_idefics_logits(idefics):
    """With the library's own image mask, with all or no images visible, and with the media that the tokens name."""
    model, io, images = idefics
    tokens, mask, own = io["in.input_ids"], io["in.attention_mask"] == 1, io["in.image_attention_mask"] == 1
    seen = {
        "out.logits": own,
        "var.logits_no_image_mask_all_zero": np.zeros_like(own),
        "var.logits_all_images_visible": np.ones_like(own),
    }
    for key, media_index in seen.items():
        close(model.logits(tokens, mask, images, media_index), io[key], mask)
    close(model.logits(tokens, mask, images), io["out.logits"], mask)


def test_idefics_flag_of_the_resampler(idefics_folder):
    """The flag at the top counts; the sub-config's, which today's files have too, only where there is none."""
    config = json.loads((idefics_folder / "hf" / "config.json").read_text())
    for top, below, used in ((True, False, True), (False, True, False), (None, True, True), (None, False, False)):
        changed = {key: value for key, value in config.items() if key != "use_resampler"}
        changed |= {} if top is None else {"use_resampler": top}
        changed["perceiver_config"] = {**(config.get("perceiver_config") or {}), "use_resampler": below}
        assert (idefics_config(changed).resampler is not None) == used


def test_idefics_without_its_gates(idefics):
    """The bare language model, new tokens included."""
    model, io, images = idefics

    def shut(path, leaf):
        return np.zeros_like(leaf) if path[-1].key.endswith("_gate") else leaf

    params = jax.tree_util.tree_map_with_path(shut, model.variables["params"])
    closed = dataclasses.replace(model, variables={**model.variables, "params": params})
    mask = io["in.attention_mask"] == 1
    close(closed.logits(io["in.input_ids"], mask, images), io["var.logits_gates_zero"], mask)


def test_idefics_sees(idefics):
    model, io, images = idefics
    features, latents = encode(model, images[:, :, None])
    close(features.reshape(io["mid.vision_last_hidden_state"].shape), io["mid.vision_last_hidden_state"])
    close(latents, io["mid.image_hidden_states"])


def test_idefics_greedy(idefics):
    model, io, images = idefics
    tokens, length = io["in.input_ids"], io["in.input_ids"].shape[1]
    expected = io["out.generate_greedy_8"]
    np.testing.assert_array_equal(expected[:, :length], tokens)
    actual = model.greedy(tokens, io["in.attention_mask"], images, steps=8)
    np.testing.assert_array_equal(actual, expected[:, length:])


def test_idefics_other_layouts_hold_the_same_weights(idefics_copy):
    """Shards, the first checkpoints' names; their configs too."""
    model, original = flamingo_jax.load(idefics_copy), flamingo_jax.load(idefics_copy.parent / "hf")
    assert model.config == original.config
    chex.assert_trees_all_equal(model.variables, original.variables)


def test_idefics_configs_of_three_spellings_mean_the_same(idefics_folder):
    files = [idefics_folder / name for name in ("hf/config.json", "config_legacy.json", "config_flat.json")]
    today, legacy, flat = (json.loads(file.read_text()) for file in files)
    assert "vision_config" in today and "vision_config" in legacy and "vision_embed_dim" in flat and today != legacy
    assert idefics_config(today) == idefics_config(legacy) == idefics_config(flat)


@pytest.fixture(scope="module")
def peer(open_flamingo_folder):
    return flamingo_jax.load(open_flamingo_folder), *read_io(open_flamingo_folder, "images")


def test_open_flamingo_logits(peer):
    """Several and adjacent images, text before the first, right padding."""
    model, io, images = peer
    mask = io["mask"] == 1
    assert not mask.all()
    close(model.logits(io["ids"], mask, images), io["logits"], mask)


def pad(width, *arrays, left=False):
    """Arrays of a row per example padded by 0 to a width that is compiled already."""
    missing = width - arrays[0].shape[1]
    return (np.pad(array, ((0, 0), (missing, 0) if left else (0, missing))) for array in arrays)


@pytest.mark.parametrize("case", ["c", "d", "e"])
def test_open_flamingo_other_numbers_of_images(peer, case):
    """c: more <image> than images, d: fewer, e: none. An error, unless ``media_index`` says what is meant."""
    model, io, images = peer
    tokens = io[f"{case}_ids"]
    with pytest.raises(ValueError, match="<image> tokens"):
        model.logits(tokens, None, images)
    index = (tokens == model.image_token).cumsum(1)
    known = index <= images.shape[1]  # what the peer does after an <image> without an image is its own
    wide, mask, wide_index = pad(io["ids"].shape[1], tokens, np.ones_like(tokens), np.where(known, index, 0))
    logits = model.logits(wide, mask, images, wide_index)[:, : tokens.shape[1]]
    assert known.all() == (case != "c")
    close(logits, io[f"{case}_logits"], known)
    if case == "e":
        close(model.logits(tokens), io["e_logits"])


@pytest.mark.parametrize("case, context", [("h", "g"), ("hpad", "f")])
def test_open_flamingo_logits_of_continuations(peer, case, context):
    """What classification by likelihood reads; hpad has padding on the left."""
    model, io, images = peer
    before, after = io[f"{context}_ids"], io[f"{case}_cls"]
    mask = np.concatenate([io.get(f"{context}_mask", np.ones_like(before)), np.ones_like(after)], axis=1)
    assert mask.all() == (case == "h")
    wide, wide_mask = pad(io["ids"].shape[1], np.concatenate([before, after], axis=1), mask)
    close(model.logits(wide, wide_mask, images)[:, : mask.shape[1]], io[f"{case}_logits_full"], mask == 1)


def test_open_flamingo_sees(peer):
    model, io, images = peer
    features, latents = encode(model, images)
    close(features, io["vision_tokens"])
    close(latents, io["resampler_out"])


@pytest.mark.parametrize("case", ["f", "g"])
def test_open_flamingo_greedy(peer, case):
    """Both are padded on the left: f as it is stored, g up to f's width."""
    model, io, images = peer
    tokens = io[f"{case}_ids"]
    mask = io.get(f"{case}_mask", np.ones_like(tokens))
    expected = io[f"{case}_greedy"][:, tokens.shape[1] :]
    actual = model.greedy(*pad(io["f_ids"].shape[1], tokens, mask, left=True), images, steps=8)
    np.testing.assert_array_equal(actual, expected)
