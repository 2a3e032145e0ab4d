"""Positions and visibility as pure functions: rotary tables, ALiBi, Transformer-XL's distances, causal masks."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.config import LanguageConfig, RopeConfig
from flamingo_jax.models.fused import Documents


def rope_frequencies(config: RopeConfig, head_size: int, long: bool = False) -> tuple[np.ndarray, float]:
    """Radians per position of each rotated pair, float64 [R / 2], and the factor on cos and sin.

    Scalings: linear (Chen et al. 2023), LLaMA 3's bands by wavelength, YaRN (Peng et al. 2023), LongRoPE (Ding et al.
    2024), whose divisors are others for ``long`` contexts.
    """
    size = config.rotated(head_size)
    frequency = config.theta ** (-np.arange(0, size, 2) / size)
    if config.scaling == "linear":
        return frequency / config.factor, 1.0
    if config.scaling == "longrope":
        return frequency / np.array(config.long if long else config.short), config.magnitude or 1.0
    if config.scaling == "llama3":
        turns = config.original_length * frequency / (2 * math.pi)  # in the context that it was trained on
        blend = np.clip((turns - config.low_frequency) / (config.high_frequency - config.low_frequency), 0, 1)
        return frequency * (blend + (1 - blend) / config.factor), 1.0
    if config.scaling == "yarn":

        def pair(turns):  # the (fractional) pair that turns so often in the original context
            return size * math.log(config.original_length / (turns * 2 * math.pi)) / (2 * math.log(config.theta))

        low, high = pair(config.beta_fast), pair(config.beta_slow)
        if config.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        ramp = np.clip((np.arange(size // 2) - low) / (high - low or 0.001), 0, 1)
        magnitude = config.magnitude or (0.1 * math.log(config.factor) + 1.0 if config.factor > 1 else 1.0)
        return frequency * (1 - ramp + ramp / config.factor), magnitude
    return frequency, 1.0


def rope_tables(config: LanguageConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin for every kind of layer, float32 [kinds, B, 1, L, R / 2], at integer positions [B, L].

    A kind without rope is not rotated: its angles are zero.
    """
    ropes = [kind.rope for kind in config.layers]
    width = max([(rope.rotated(config.head_size) + 1) // 2 for rope in ropes if rope], default=0)

    def tables(long=False):
        found = [rope_frequencies(rope, config.head_size, long) if rope else (np.zeros(width), 1.0) for rope in ropes]
        return np.stack([row for row, _ in found]).astype(np.float32), np.float32([factor for _, factor in found])

    frequency, magnitude = tables()
    originals = [rope.original_length if rope and rope.scaling == "longrope" else 0 for rope in ropes]
    if any(originals):
        beyond = positions.max() >= jnp.array(originals)
        frequency = jnp.where(beyond[:, None], tables(long=True)[0], frequency)
    magnitude = magnitude[:, None, None, None, None]
    angle = positions[None, :, None, :, None].astype(jnp.float32) * frequency[:, None, None, None]
    return jnp.cos(angle) * magnitude, jnp.sin(angle) * magnitude


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array, interleaved: bool = False) -> jax.Array:
    """Rotates the first R dimensions of x [B, H, L, K] by tables [B, 1, L, R / 2] (Su et al. 2021).

    Pairs are the two halves of R, or neighbours when ``interleaved``. Computed in float32.
    """
    half = cos.shape[-1]
    turned = x[..., : 2 * half].astype(jnp.float32)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(turned.shape)
    else:
        a, b = jnp.split(turned, 2, axis=-1)
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    turned = turned.astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], axis=-1)


def alibi_slopes(heads: int, maximum: float) -> np.ndarray:
    """The slope of every head [H], 2^-(maximum i / n) (Press et al. 2022); other than powers of two take every second
    slope of the next one first, as MPT does."""
    count = 2 ** math.ceil(math.log2(heads))
    slopes = 2.0 ** (-np.arange(1, count + 1) * maximum / count)
    return slopes if count == heads else np.concatenate([slopes[1::2], slopes[::2]])[:heads]


def sinusoids(length: int, width: int) -> np.ndarray:
    """Transformer-XL's encoding of distances 0 .. length - 1, float32 [length, width] (Dai et al. 2019)."""
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)[:, :width]


def by_distance(scores: jax.Array, slot: jax.Array | int) -> jax.Array:
    """Scores of queries by distance [.., L, M] -> by key [.., L, M]: out[l, m] = scores[l, slot + l - m].

    The query l stands in column ``slot + l``. Entries above the diagonal (keys after the query) are meaningless.
    """
    *rest, length, count = scores.shape
    turned = jnp.roll(scores[..., ::-1], slot, axis=-1)  # entry t has distance M - 1 - (t - slot)
    twice = jnp.concatenate([turned, turned], axis=-1).reshape(*rest, length * 2 * count)
    # Rows cut one short shift by one each: no gather, whose gradient would be a scatter.
    shifted = twice[..., : length * (2 * count - 1)].reshape(*rest, length, 2 * count - 1)
    return shifted[..., count - 1 :]


def causal(known: jax.Array, slot: jax.Array | int, length: int) -> jax.Array:
    """Which keys each of ``length`` queries sees: those up to itself that are no padding. bool [B, length, M].

    known bool [B, M]: keys that are no padding; the first query stands in column ``slot``. Or int, where rows pack
    several documents and every column is a query: the segments, each key's document, numbered 1, 2, ... along the row,
    0 for padding. A query then sees keys of its own document alone. With slot = 0:

        known 0 1 1 1   sees  . . . .       segments 1 1 2 2 0   sees  x . . . .
                              . x . .                                  x x . . .
                              . x x .                                  . . x . .
                              . x x x                                  . . x x .
                                                                       . . x x .
    """
    columns = jnp.arange(known.shape[1])
    earlier = columns <= slot + jnp.arange(length)[:, None]
    if known.dtype == bool:
        return earlier & known[:, None, :]
    own = documents(known)
    return earlier & (own.keys[:, None, :] == own.queries[:, :, None])


def documents(known: jax.Array) -> Documents:
    """Of which document every column is, as a query and as a key. known: as in ``causal``."""
    if known.dtype == bool:
        return Documents(jnp.ones_like(known, jnp.int32), known.astype(jnp.int32))
    # Padding sees what the document before it sees, so that one segment is exactly the bool mask.
    return Documents(jnp.maximum(jax.lax.cummax(known, axis=1), 1), known)


def count(known: jax.Array) -> jax.Array:
    """The position of every column, int [B, M]: how many tokens of its document stand before it.

    known: as in ``causal``. Padding on either side changes nothing, nor do the documents before.

        known     0 0 1 1 1   segments  1 1 1 2 2 3 0
        position  0 0 0 1 2   position  0 1 2 0 1 0 0
    """
    if known.dtype == bool:
        return jnp.maximum(jnp.cumsum(known, axis=1) - 1, 0)
    return jnp.maximum(causal(known, 0, known.shape[1]).sum(-1) - 1, 0)


def windowed(visible: jax.Array, windows: tuple[int, ...], slot: jax.Array | int) -> jax.Array:
    """The causal mask [B, L, M] for every kind of layer, [kinds, B, L, M]: a window of w leaves w keys, with itself.

    Window 2:  x . . .      0 (all):  x . . .
               x x . .                x x . .
               . x x .                x x x .
               . . x x                x x x x
    """
    length, count = visible.shape[1:]
    distance = slot + jnp.arange(length)[:, None] - jnp.arange(count)
    return jnp.stack([visible & (distance < window) if window else visible for window in windows])


def place(
    config: LanguageConfig,
    known: jax.Array,
    slot: jax.Array | None,
    length: int,
    bidirectional: bool = False,
    kernels: bool = False,
):
    """All that a decoder's layers need to know of positions, for ``length`` queries from column ``slot`` (None: 0).

    known: as in ``causal``; bool where there is a slot, or with ``bidirectional``. kernels: as ``ModelConfig``'s.

    Returns:
        positions int [B, L] of the queries, and a dict: visible bool [kinds, B, L, M], known, slot, rope (tables or
        None), bias (ALiBi's, float32 [B, H, 1, M], or None), documents (``Documents`` that together with windows say
        what ``visible`` says, or None).
    """
    counts = count(known)
    start = 0 if slot is None else slot
    positions = counts if slot is None else jax.lax.dynamic_slice_in_dim(counts, slot, length, axis=1)
    visible = jnp.broadcast_to(known[:, None], (*positions.shape, known.shape[1]))
    visible = visible if bidirectional else causal(known, start, length)
    bias = None
    if config.positions == "alibi":
        slopes = alibi_slopes(config.heads, config.alibi_max)
        bias = (counts[:, None] * slopes[:, None]).astype(jnp.float32)[:, :, None]
    return positions, {
        "visible": windowed(visible, tuple(kind.window for kind in config.layers), start),
        "known": known,
        "slot": slot,
        "rope": rope_tables(config, positions) if config.positions == "rope" else None,
        "bias": bias,
        "documents": documents(known) if kernels and slot is None and not bidirectional else None,
    }


def at_kind(place: dict, kind: jax.Array) -> dict:
    """What ``place`` says for one layer: ``visible`` and ``rope`` of its kind."""

    def pick(table):
        return table[0] if table.shape[0] == 1 else jax.lax.dynamic_index_in_dim(table, kind, keepdims=False)

    rope = place["rope"] and tuple(pick(table) for table in place["rope"])
    return {**place, "visible": pick(place["visible"]), "rope": rope}
