"""The vision transformer: tokens, positions on other grids, padding of NaFlex, pixels."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import ViTConfig
from flamingo_jax.models.pixels import resize_table, resize_weights
from flamingo_jax.models.vit import ViT, grid_rope

CONFIG = ViTConfig(width=16, depth=2, heads=2, patch_size=4, grid=(3, 3), class_token=True, registers=2, pool="class")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)


def made(*inputs, **options):
    """(jitted apply, weights) with random weights."""
    model = ViT(dataclasses.replace(CONFIG, **options), jnp.float32)
    variables = nn.meta.unbox(model.init(jax.random.key(0), *inputs, pool=True))
    return jax.jit(lambda *inputs: model.apply(variables, *inputs, pool=True)), model


def test_class_token_and_registers_stand_before_the_patches():
    tokens, pooled = made(IMAGES)[0](IMAGES)
    assert tokens.shape == (2, 1 + 2 + 9, 16)
    np.testing.assert_array_equal(pooled, tokens[:, 0])
    patches, _ = made(IMAGES, patches_only=True)[0](IMAGES)
    np.testing.assert_allclose(patches, tokens[:, 3:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool, width", [("map", 16), ("none", 16), ("class", 6)])
def test_pooling_gives_one_vector(pool, width):
    pooled = made(IMAGES, pool=pool, projection=width if pool == "class" else 0)[0](IMAGES)[1]
    assert pooled.shape == (2, width)


def test_bytes_are_normalised_and_floats_are_taken_as_they_are():
    apply, _ = made(IMAGES)
    floats = (IMAGES.astype(np.float32) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(apply(floats)[0], apply(IMAGES)[0], rtol=1e-4, atol=1e-5)
    assert np.abs(apply(IMAGES.astype(np.float32))[0] - apply(IMAGES)[0]).max() > 1e-2


def test_what_no_patch_covers_is_cut_off():
    apply, model = made(IMAGES)
    wide = np.pad(IMAGES, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=255)
    np.testing.assert_allclose(apply(wide)[0], apply(IMAGES)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="3 x 12 pixels is smaller than one patch of 4"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 3, 12, 3)))


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_other_sizes_and_places_matter(positions):
    apply, _ = made(IMAGES, positions=positions, layer_scale=True)
    assert apply(IMAGES[:, :8])[0].shape == (2, 3 + 6, 16)
    moved = np.roll(IMAGES, 4, axis=2)  # the same patches in other columns
    assert np.abs(apply(moved)[0][:, 0] - apply(IMAGES)[0][:, 0]).max() > 1e-4


def test_padding_of_patches_is_not_seen():
    """NaFlex: 2 x 3 and 1 x 4 patches, padded to 8."""
    patches = jax.random.normal(jax.random.key(1), (2, 8, 48))
    shapes = jnp.array([[2, 3], [1, 4]])
    mask = jnp.arange(8) < shapes.prod(1)[:, None]
    options = {"class_token": False, "registers": 0, "pool": "map", "resize": "bilinear_antialias"}
    apply, _ = made(patches, mask, shapes, **options)
    tokens, pooled = apply(patches, mask, shapes)
    other, same = apply(jnp.where(mask[..., None], patches, 9.0), mask, shapes)
    np.testing.assert_array_equal(np.asarray(other)[mask], np.asarray(tokens)[mask])
    np.testing.assert_array_equal(same, pooled)
    assert np.isfinite(tokens).all()


@pytest.mark.parametrize("method", ["bicubic", "bicubic_antialias", "bilinear_antialias"])
def test_interpolation_keeps_constants_and_equal_grids(method):
    for target in (2, 5, 9):
        weights = resize_weights(jnp.arange(target), 4, jnp.float32(target), method)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(resize_weights(jnp.arange(4), 4, jnp.float32(4), method), np.eye(4), atol=1e-6)
    table = jax.random.normal(jax.random.key(0), (3, 3, 2))
    np.testing.assert_array_equal(resize_table(table, (3, 3), method), table.reshape(9, 2))


def test_rope_turns_patches_alone():
    cos, sin = grid_rope((2, 2), prefix=3, head_size=8, theta=100.0)
    assert cos.shape == (1, 1, 7, 4)
    np.testing.assert_array_equal(sin[0, 0, :3], 0)
    rows, columns = sin[0, 0, 3:, :2], sin[0, 0, 3:, 2:]
    np.testing.assert_allclose(rows[0], rows[1])  # one row, two columns
    np.testing.assert_allclose(columns[0], columns[2])
    np.testing.assert_allclose(rows[0], -rows[2], atol=1e-6)  # centres in [-1, 1]
