"""The vision transformer: tokens, positions on other grids, padding of NaFlex, pixels."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import ViTConfig
from flamingo_jax.models.layers import Norm
from flamingo_jax.models.pixels import resize_table, resize_tables, resize_weights
from flamingo_jax.models.vit import ViT, grid_rope

CONFIG = ViTConfig(width=16, depth=2, heads=2, patch_size=4, grid=(3, 3), class_token=True, registers=2, pool="class")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3)).astype(np.uint8)
METHODS = ("bicubic", "bicubic_antialias", "bilinear_antialias")
PATCHES = np.random.default_rng(1).normal(size=(2, 8, 48)).astype(np.float32)  # of NaFlex, padded to 8
SHAPES = np.array([[2, 4], [2, 3]])
MASK = np.arange(8) < SHAPES.prod(1)[:, None]
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@functools.cache
def made(**options):
    """(jitted (tokens, pooled) of inputs, weights), with weights that are random everywhere."""
    model = ViT(dataclasses.replace(CONFIG, **options), jnp.float32)
    shapes = jax.eval_shape(functools.partial(model.init, pool=True), jax.random.key(0), IMAGES)
    rng = np.random.default_rng(2)
    weights = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), nn.meta.unbox(shapes))
    return jax.jit(functools.partial(model.apply, weights, pool=True)), weights["params"]


@pytest.mark.parametrize(
    "options, prefix",
    [
        ({}, 3),
        ({"registers": 0}, 1),
        ({"class_token": False, "pool": "none"}, 2),
        ({"class_token": False, "registers": 0, "pool": "map"}, 0),
        ({"patches_only": True}, 0),
    ],
    ids=str,
)
def test_class_token_and_registers_stand_before_the_patches(options, prefix):
    apply, weights = made(**options)
    tokens, _ = apply(IMAGES)
    assert tokens.shape == (2, prefix + 9, 16)
    shapes = {name: weights[name].shape for name in ("class", "registers") if name in weights}
    rows = {"class": (int(options.get("class_token", True)), 16), "registers": (options.get("registers", 2), 16)}
    assert shapes == {name: shape for name, shape in rows.items() if shape[0]}


def test_patches_alone_are_the_same_patches():
    tokens, pooled = made()[0](IMAGES)
    patches, other = made(patches_only=True)[0](IMAGES)
    close(patches, tokens[:, 3:])
    close(other, pooled)


def test_pooling():
    tokens, pooled = made()[0](IMAGES)
    close(pooled, tokens[:, 0])
    apply, weights = made(final_norm=False, pool_norm=True, projection=6)
    tokens, pooled = apply(IMAGES)
    normed = Norm(jnp.float32, centred=True, epsilon=1e-6).apply({"params": weights["norm"]}, tokens[:, 0])
    assert pooled.shape == (2, 6)
    close(pooled, normed @ weights["projection"]["kernel"])
    tokens, pooled = made(pool="none", class_token=False)[0](IMAGES)
    close(pooled, tokens.mean(1))


def test_a_learnt_probe_pools_by_attention():
    """Not by an average, and not by the order of patches once they have their positions."""
    apply, weights = made(pool="map", class_token=False)
    tokens, pooled = apply(IMAGES)
    assert {"probe", "pool_attention", "pool_mlp"} <= set(weights)
    assert pooled.shape == (2, 16) and np.abs(pooled - tokens.mean(1)).max() > 0.1
    assert np.abs(pooled[0] - pooled[1]).max() > 1e-3


def test_bytes_are_normalised_and_floats_are_taken_as_they_are():
    apply, _ = made(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    floats = ((IMAGES / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]).astype(np.float32)
    close(apply(floats)[0], apply(IMAGES)[0])
    assert np.abs(apply(IMAGES.astype(np.float32))[0] - apply(IMAGES)[0]).max() > 1e-2


def test_what_no_patch_covers_is_cut_off():
    apply, _ = made()
    wide = np.pad(IMAGES, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=255)
    close(apply(wide)[0], apply(IMAGES)[0])
    for height, width in ((3, 12), (12, 3)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels is smaller than one patch of 4"):
            jax.eval_shape(apply, np.zeros((1, height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "options", [{}, {"position_class": True}, {"positions": "rope"}, {"resize": METHODS[2]}], ids=str
)
def test_places_matter_and_other_sizes_have_them(options):
    """Row 0 is the class token: it feels where a patch stands, on a grid of its own size and on another."""
    apply, _ = made(**options)
    for images in (IMAGES, IMAGES[:, :8]):
        tokens, _ = apply(images)
        assert tokens.shape == (2, 3 + images.shape[1] // 4 * 3, 16)
        assert np.abs(apply(np.roll(images, 4, axis=2))[0][:, 0] - tokens[:, 0]).max() > 1e-3


def test_the_class_token_may_have_a_position_of_its_own():
    """The first row of the table: what it loses the token may gain."""
    model, (_, weights) = ViT(dataclasses.replace(CONFIG, position_class=True), jnp.float32), made(position_class=True)
    assert (weights["positions"].shape, made()[1]["positions"].shape) == ((10, 16), (9, 16))
    first = (np.arange(10)[:, None] == 0) * np.arange(16)
    moved = {**weights, "class": weights["class"] + first[:1], "positions": weights["positions"] - first}
    apply = jax.jit(model.apply)
    close(apply({"params": moved}, IMAGES), apply({"params": weights}, IMAGES))


@pytest.mark.parametrize("resize", METHODS)
def test_patches_of_naflex_are_those_of_an_image(resize):
    apply, _ = made(resize=resize, pool="map")
    images = PATCHES[:1].reshape(1, 2, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1, 8, 16, 3)
    for actual, expected in zip(apply(PATCHES, MASK, SHAPES), apply(images), strict=True):
        close(actual[:1], expected)


def test_padding_of_patches_is_not_seen():
    """Neither by the others nor by what is pooled, and the class token and registers are no padding."""
    apply, _ = made(pool="map")
    tokens, pooled = apply(PATCHES, MASK, SHAPES)
    other, same = apply(np.where(MASK[..., None], PATCHES, 9.0), MASK, SHAPES)
    kept = np.pad(MASK, ((0, 0), (3, 0)), constant_values=True)
    close(other[kept], tokens[kept])
    close(same, pooled)
    assert np.isfinite(tokens).all() and np.abs(other - tokens)[~kept].max() > 1e-2


@pytest.mark.parametrize("method", METHODS)
def test_interpolation_keeps_constants_and_equal_grids(method):
    resized = jax.jit(functools.partial(resize_weights, source=4, method=method))
    for target in (2, 5, 9):
        weights = resized(jnp.arange(target), target=jnp.float32(target))
        assert weights.shape == (target, 4)
        close(weights.sum(-1), np.ones(target))
        close(weights, weights[::-1, ::-1])  # no side is preferred
    close(resized(jnp.arange(4), target=jnp.float32(4)), np.eye(4))
    table = jax.random.normal(jax.random.key(0), (3, 3, 2))
    np.testing.assert_array_equal(resize_table(table, (3, 3), method), table.reshape(9, 2))
    both = jax.jit(resize_tables, static_argnums=(2, 3))(table, jnp.array([[2, 4], [5, 1]]), 8, method)
    alone = jax.jit(resize_table, static_argnums=(1, 2))
    close(both[0], alone(table, (2, 4), method))
    close(both[1, :5], alone(table, (5, 1), method))


def test_fewer_rows_are_averages_where_the_kernel_widens():
    halves = resize_weights(jnp.arange(2), 4, jnp.float32(2), "bilinear_antialias")
    close(halves, np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7)
    clamped = np.array([-3 + 19, 19, -3, 0]) / 32  # what would come from before the first row comes from the first
    close(resize_weights(jnp.arange(2), 4, jnp.float32(2), "bicubic")[0], clamped)


def test_rope_turns_patches_alone():
    cos, sin = grid_rope((2, 2), prefix=3, head_size=8, theta=100.0)
    assert cos.shape == sin.shape == (1, 1, 7, 4)
    np.testing.assert_array_equal(sin[0, 0, :3], 0)
    np.testing.assert_array_equal(cos[0, 0, :3], 1)
    rows, columns = sin[0, 0, 3:, :2], sin[0, 0, 3:, 2:]
    close(rows[0], rows[1])  # one row, two columns
    close(columns[0], columns[2])
    close(rows[0], -rows[2])  # centres in [-1, 1]
    close(np.arcsin(rows[2, 1]), np.pi * 100.0**-0.5)  # half of the way to the border, second pair


def test_steps_of_idefics_are_those_of_a_tenth_of_a_row_more():
    """Its code adds 0.1 to the rows that it asks torch for, which then steps by 4 / 6.1 and not by 4 / 6."""
    shifted = resize_weights(jnp.arange(6), 4, jnp.float32(6), "bicubic_shifted")
    close(shifted, resize_weights(jnp.arange(6), 4, jnp.float32(6.1), "bicubic"))
    assert np.abs(shifted - resize_weights(jnp.arange(6), 4, jnp.float32(6), "bicubic")).max() > 0.01
