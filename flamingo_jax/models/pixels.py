"""From bytes to what an encoder reads, and position tables for other image sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flamingo_jax.models.axes import constrain


def normalise(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images [B, H, W, 3] of uint8 -> (x / 255 - mean) / std, float32. Floats are normalised already and stay."""
    images = constrain(images, "images", None, None, None)
    if images.dtype != jnp.uint8:
        return images
    mean, std = (jnp.asarray(value, jnp.float32) * 255 for value in (mean, std))
    return (images.astype(jnp.float32) - mean) / std


def _cubic(x: jax.Array, a: float) -> jax.Array:
    """Keys' kernel at distances x."""
    x = jnp.abs(x)
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0.0))


def resize_weights(index: jax.Array, source: int, target: jax.Array, method: str) -> jax.Array:
    """Share of each of ``source`` rows in row ``index`` of ``target`` rows, float32 [.., source].

    As torch interpolates without aligned corners: bicubic (a = -0.75, clamped at the border), or with antialiasing
    bicubic (a = -0.5) or bilinear, whose kernels widen when there are fewer rows than before. bicubic_shifted: steps
    as if there were 0.1 rows more, as IDEFICS has it.
    """
    scale = source / (jnp.asarray(target, jnp.float32) + 0.1 * (method == "bicubic_shifted"))
    at = ((index + 0.5) * scale - 0.5)[..., None]
    rows = jnp.arange(source)
    if method in ("bicubic", "bicubic_shifted"):
        taps = jnp.floor(at) + jnp.arange(-1, 3)  # [.., 4]
        hit = jnp.clip(taps, 0, source - 1)[..., None] == rows
        return (hit * _cubic(at - taps, -0.75)[..., None]).sum(-2)
    distance = (rows - at) / jnp.maximum(scale, 1.0)[..., None]
    weight = jnp.maximum(1 - jnp.abs(distance), 0) if method == "bilinear_antialias" else _cubic(distance, -0.5)
    return weight / weight.sum(-1, keepdims=True)


def resize_table(table: jax.Array, shape: tuple[int, int], method: str) -> jax.Array:
    """A position table [h, w, D] for another grid: [h' w', D], row by row."""
    if table.shape[:2] == tuple(shape):
        return table.reshape(-1, table.shape[-1])
    rows, columns = (
        resize_weights(jnp.arange(new), old, jnp.float32(new), method)
        for new, old in zip(shape, table.shape[:2], strict=True)
    )
    resized = jnp.einsum("rh,cw,hwD->rcD", rows, columns, table.astype(jnp.float32))
    return resized.reshape(-1, table.shape[-1])


def resize_tables(table: jax.Array, shapes: jax.Array, count: int, method: str) -> jax.Array:
    """A position table [h, w, D] for images of different grids [B, 2], padded to ``count`` patches: [B, count, D]."""
    height, width = shapes[:, :1], shapes[:, 1:]
    index = jnp.minimum(jnp.arange(count), height * width - 1)  # padding: any finite value
    rows = resize_weights(index // width, table.shape[0], height, method)
    columns = resize_weights(index % width, table.shape[1], width, method)
    return jnp.einsum("BPh,BPw,hwD->BPD", rows, columns, table.astype(jnp.float32))
