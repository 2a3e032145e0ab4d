"""Public vision encoders compute what the library computes that wrote them: tokens and pooled vectors, at any size."""

import dataclasses
import json

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import flamingo_jax
from flamingo_jax.models.nfnet import ACTIVATIONS, NFNet

ATOL = 2e-4


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ATOL)


def last(images):
    """Channels first -> channels last."""
    return np.moveaxis(images, -3, -1)


def expect(io, prefix):
    """(tokens, pooled), which transformers and open_clip name differently; of an NFNet the cells."""
    if f"{prefix}features_nchw" in io:
        cells = last(io[f"{prefix}features_nchw"])
        cells = cells.reshape(cells.shape[0], -1, cells.shape[-1])
        return cells, cells.mean(1)
    names = ("last_hidden_state", "tokens"), ("pooler_output", "pooled")
    return (next(io[prefix + name] for name in pair if prefix + name in io) for pair in names)


@pytest.fixture(scope="module")
def case(vision_folder):
    return flamingo_jax.load(vision_folder), load_file(vision_folder / "io.safetensors")


def test_tokens_and_pooled(case):
    model, io = case
    for inputs, outputs in (("in.", "out."), ("var.big_", "var.big_")):  # the second: another size than the table's
        if f"{inputs}pixel_values" not in io:
            continue
        images, more, seen = io[f"{inputs}pixel_values"], (), ...
        if "in.spatial_shapes" in io:  # NaFlex: patches of images of different shapes, padded
            more = (io["in.pixel_attention_mask"], io["in.spatial_shapes"])
            seen = more[0] == 1
        else:
            images = last(images)
        tokens, pooled = expect(io, outputs)
        close(np.asarray(model.features(images, *more))[seen], tokens[seen])
        close(model.pooled(images, *more), pooled)


def test_other_layouts_hold_the_same_weights(vision_copy):
    """Older names, stray buffers and towers that are not the vision encoder."""
    model, original = flamingo_jax.load(vision_copy), flamingo_jax.load(vision_copy.parent)
    assert model.config == original.config
    chex.assert_trees_all_equal(model.variables, original.variables)


def test_open_clip_without_quick_gelu(open_clip_folder, tmp_path):
    """The same weights under a config that does not name the activation."""
    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())
    assert config["model_cfg"].pop("quick_gelu")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").symlink_to(open_clip_folder / "open_clip_model.safetensors")
    model, io = flamingo_jax.load(tmp_path), load_file(open_clip_folder / "io.safetensors")
    close(model.features(last(io["in.pixel_values"])), io["var.gelu_tokens"])
    close(model.pooled(last(io["in.pixel_values"])), io["var.gelu_pooled"])


def test_patches_that_would_be_misread_are_refused(naflex_folder):
    model, io = flamingo_jax.load(naflex_folder), load_file(naflex_folder / "io.safetensors")
    patches, mask, shapes = io["in.pixel_values"], io["in.pixel_attention_mask"], io["in.spatial_shapes"]
    for wrong, words in (
        ((patches.astype(np.uint8), mask, shapes), "must be normalised patches, floats"),
        ((patches[..., 1:], mask, shapes), "must be normalised patches, floats"),
        ((patches, mask, None), "both mask and shapes"),
        ((patches, mask[:, 1:], shapes), r"mask must be \[B, P\]"),
        ((patches, mask, shapes[:1]), r"shapes must be whole numbers \[B, 2\]"),
        ((patches, mask, -shapes), r"shapes must be whole numbers \[B, 2\]"),
        ((patches, mask, shapes + 1), "shapes have .* patches, but mask has"),
    ):
        with pytest.raises(ValueError, match=words):
            model.features(*wrong)


def test_naflex_takes_whole_images_too(naflex_folder):
    model, io = flamingo_jax.load(naflex_folder), load_file(naflex_folder / "io.safetensors")
    image, count = last(io["in.image_1"])[None], io["in.pixel_attention_mask"][1].sum()
    close(model.features(image)[0], io["out.last_hidden_state"][1, :count])
    close(model.pooled(image)[0], io["out.pooler_output"][1])


def test_nfnet_before_its_last_convolution(nfnet_folder):
    """Without the expansion the features are the last stage's; timm applies the activation after the expansion."""
    model, io = flamingo_jax.load(nfnet_folder), load_file(nfnet_folder / "io.safetensors")
    module = NFNet(dataclasses.replace(model.config, expansion=0), model.module.dtype)
    weights = {name: weight for name, weight in model.variables["params"].items() if name != "expansion"}
    actual = jax.jit(module.apply)({"params": weights}, last(io["in.pixel_values"]))
    close(actual, ACTIVATIONS[model.config.activation](last(io["mid.stage_3"])))


def test_nfnet_pooled_is_what_the_classifier_reads(nfnet_folder):
    model, io = flamingo_jax.load(nfnet_folder), load_file(nfnet_folder / "io.safetensors")
    head = load_file(nfnet_folder / "model.safetensors")
    logits = np.asarray(model.pooled(last(io["in.pixel_values"]))) @ head["head.fc.weight"].T + head["head.fc.bias"]
    close(logits, io["out.logits"])
