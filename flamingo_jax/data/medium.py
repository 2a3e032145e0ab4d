"""A medium: from encoded frames to the pixels that the model sees."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from flamingo_jax.config import ColourConfig, ExampleConfig
from flamingo_jax.data import image

# A dataset whose frames fit is decoded once and not in every epoch: at 48 px, four times the speed.
_CACHE_BYTES = 2**27

DRAWS = 6
"""Random numbers that a medium takes."""

# The luma of BT.601, which JPEG uses, and its colour plane: every colour is its grey and a place in that plane. The
# coefficients of a 3 x 3 map by three parts: to the grey, to the plane, and in the plane a quarter turn on.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_IN_YIQ = (np.diag([1, 0, 0]), np.diag([0, 1, 1]), np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]))
_PARTS = np.stack([np.linalg.inv(_TO_YIQ) @ part @ _TO_YIQ for part in _IN_YIQ], axis=-1).tolist()


class Look(NamedTuple):
    """How a medium is shown: from which of its frames on, mirrored or not, in which colours (float32 [3, 4] or None).

    All frames of a clip look alike.
    """

    first: int = 0
    flip: bool = False
    colour: np.ndarray | None = None


PLAIN = Look()
_NONE = ColourConfig()


def choose_look(frames: int, draws: Sequence[float], config: ExampleConfig) -> Look:
    """The paper's augmentation (3.1, A.3) of a medium of ``frames`` frames, by ``DRAWS`` numbers in [0, 1).

    Of a clip of more than T frames T consecutive ones are shown, from a random start.
    """
    start, flip, *colour = draws
    return Look(
        int(start * max(1, frames - config.frames + 1)),
        flip < config.flip,
        None if config.colour == _NONE else colour_map(config.colour, config.fill, colour),
    )


def colour_map(config: ColourConfig, mean: Sequence[float], draws: Sequence[float]) -> np.ndarray:
    """Brightness, contrast, saturation and hue, one after another, as one map of (R, G, B, 1), float32 [3, 4].

    All four are linear but for what leaves 0..255, which is cut off once, at the end: that makes it one pass over the
    pixels, a small part of the time that it takes to decode them (``benchmarks/stream.py``).

    draws: four numbers in [0, 1); 0.5 leaves the colours as they are.
    """
    brightness, contrast, saturation = (
        1 + (2 * draw - 1) * most
        for draw, most in zip(draws, (config.brightness, config.contrast, config.saturation), strict=False)
    )
    turn = 2 * math.pi * (2 * draws[3] - 1) * config.hue
    straight, across, gain = saturation * math.cos(turn), saturation * math.sin(turn), contrast * brightness
    rows = []  # numbers, not arrays: arrays of nine numbers take longer than what is done with them
    for row in _PARTS:
        tint = [grey + straight * plane + across * quarter for grey, plane, quarter in row]
        shift = (1 - contrast) * sum(t * m for t, m in zip(tint, mean, strict=True))
        rows.append([*(gain * t for t in tint), shift])
    return np.array(rows, np.float32)


def load(
    frames: Sequence[bytes],
    config: ExampleConfig,
    look: Look = PLAIN,
    *,
    known: Callable[[bytes, int], np.ndarray | None] = lambda data, size: None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """T frames of a medium, decoded and padded; where they end early, the last is repeated.

    Args:
        frames: encoded. config: gives T, S and the mean value. look: how they are shown; by default as they are.
        known: gives the pixels of a frame where they are known, as ``cached()`` does.
        out: uint8 [T, S, S, 3] that they are written into; after an error it holds anything.

    Returns:
        uint8 [T, S, S, 3].

    Raises:
        ValueError: a frame does not decode, or there is none.
    """
    if not frames:  # nothing to repeat
        raise ValueError("a medium without frames")
    chosen = frames[look.first : look.first + config.frames]
    out = np.empty((config.frames, config.size, config.size, 3), np.uint8) if out is None else out
    for place, data in zip(out, chosen, strict=False):
        pixels = known(data, config.size)
        pixels = image.decode(data, config.size, into=place) if pixels is None else pixels
        image.pad(pixels, config.size, config.fill, flip=look.flip, colour=look.colour, out=place)
    out[len(chosen) :] = out[len(chosen) - 1]
    return out


def cached() -> Callable[[bytes, int], np.ndarray | None]:
    """``known`` that remembers what it decoded; once that outgrows 128 MiB, it forgets and knows nothing ever after.

    What it returns is shared: do not change it in place. Raises ValueError as ``image.decode``.
    """
    known: dict[tuple[bytes, int], np.ndarray] | None = {}
    room = _CACHE_BYTES

    def find(data: bytes, size: int) -> np.ndarray | None:
        nonlocal known, room
        found = known  # another thread may drop it meanwhile
        if found is None:
            return None
        key = hashlib.blake2b(data, digest_size=16).digest(), size
        pixels = found.get(key)
        if pixels is None:
            pixels = found[key] = image.resize(image.decode(data, size), size)
            room -= pixels.nbytes
            if room < 0:
                known = None
        return pixels

    return find
