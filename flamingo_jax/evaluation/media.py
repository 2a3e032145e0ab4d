"""The media of a benchmark, each read and encoded once; prompts then only gather latents.

A medium's latents do not depend on the prompt that it stands in, so one pass serves all shots, episodes and tasks
(otherwise a support image is encoded again in every prompt that shows it).
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from flamingo_jax.config import DatasetConfig, ExampleConfig
from flamingo_jax.data import image as pixels
from flamingo_jax.data import medium, video
from flamingo_jax.data.benchmarks.index import VIDEOS
from flamingo_jax.evaluation.tasks import BLANK


class Library:
    """Latents by path, in host memory: [M, R, D] and the row of every path."""

    def __init__(self, rows: dict[str, int], latents: np.ndarray):
        self._rows = rows
        self._latents = latents

    def gather(self, media: Sequence[Sequence[str]], count: int) -> np.ndarray:
        """The latents [B, count, R, D] of each prompt's media, in order; places that are left over hold any latents."""
        rows = np.zeros((len(media), count), np.int32)
        for row, paths in enumerate(media):
            rows[row, : len(paths)] = [self._rows[path] for path in paths]
        return self._latents[rows]


def encode(model, variables, paths: Iterable[str], image: ExampleConfig, clip: DatasetConfig, batch: int) -> Library:
    """Reads and encodes all ``paths`` and the blank, in batches of one shape.

    Args:
        model, variables: a ``Flamingo`` module and its collections.
        paths: files; videos by their suffix.
        image: size and fill of images. clip: the same of videos (``clip.example``), and how their frames are taken.
        batch: media per step.

    Raises:
        ValueError: a file is missing or does not decode (its name is in the message), or images and videos are mixed.
    """
    paths = sorted(set(paths))
    moving = any(map(is_video, paths))
    if moving != all(map(is_video, paths)):
        raise ValueError(f"A benchmark mixes images and videos, like {paths[0]}; split it into two.")
    shape = clip.example if moving else image
    frames = shape.frames if moving else 1
    blank = np.full((frames, shape.size, shape.size, 3), shape.fill, np.uint8)
    rows = {path: row for row, path in enumerate([*paths, BLANK])}
    names, latents = list(rows), []
    for start in range(0, len(names), batch):
        some = [blank if name == BLANK else read(name, image, clip) for name in names[start : start + batch]]
        full = np.stack(some + [blank] * (batch - len(some)))[:, None]
        latents.append(np.asarray(_encode(model, variables, full))[: len(some), 0])
    return Library(rows, np.concatenate(latents))


def read(path: str, image: ExampleConfig, clip: DatasetConfig) -> np.ndarray:
    """One medium as the model takes it, uint8 [T, S, S, 3]: through all that a training medium goes through.

    That includes the JPEG that records store. Raises ValueError that names the file.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"Cannot read the medium {path}: {error.strerror}.") from None
    try:
        if is_video(path):
            frames = video.decode(data, fps=clip.fps, max_frames=clip.max_frames, size=clip.size)
            return medium.load([pixels.encode(frame) for frame in frames], clip.example)
        return medium.load([pixels.encode(pixels.decode(data, image.size))], image)[:1]
    except ValueError as error:
        raise ValueError(f"Cannot decode the medium {path}: {error}") from None


def is_video(path: str) -> bool:
    return path.lower().endswith(VIDEOS)


@functools.partial(jax.jit, static_argnames="model")
def _encode(model, variables, media):
    return model.apply(variables, media, method="encode")
