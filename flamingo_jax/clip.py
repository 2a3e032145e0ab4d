"""A whole CLIP that computes: how alike images and texts are. ``clip.load(DIR)`` reads a public or converted folder."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from flamingo_jax import sources
from flamingo_jax.config import ClipTextConfig, ViTConfig
from flamingo_jax.convert import run
from flamingo_jax.data import image
from flamingo_jax.data.tokenizer import Tokenizer
from flamingo_jax.inference.clip import embed_images, embed_texts
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.vit import ViT

_LENGTHS = (16, 32)  # of batches of texts, beside the tower's own: most sentences are short
_CHARACTERS = 50  # per token, the most that are looked at


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Both towers, on all devices of this process, each of which has all weights and a part of every batch.

    vision, text: what they are. weights: {"vision", "text"}. identity: equal for equal weights and tokenizers.
    batch: how many images or texts are computed at once; a program is compiled for each shape, of which there are few.
    """

    vision: ViTConfig
    text: ClipTextConfig
    weights: Mapping[str, Any]
    tokenizer: Tokenizer
    dtype: jnp.dtype
    identity: str
    batch: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of pictures."""
        rows, columns = self.vision.grid
        return rows * self.vision.patch_size, columns * self.vision.patch_size

    def picture(self, data: bytes) -> np.ndarray:
        """An image file as the model was trained to see it, uint8 [H, W, 3]: the middle, up to the nearer borders.

        As CLIP's image processor: resized with its aspect kept until it covers ``size``, bicubic, and cut out. Raises
        ValueError when it cannot be read.
        """
        return crop(image.decode(data), *self.size)

    def images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures uint8 [n, H, W, 3] of ``size`` -> unit vectors, float32 [n, E]."""
        encoder, projections = ViT(self.vision, self.dtype), self.weights["text"]
        out = [np.empty((0, self.text.embedding), np.float32)]
        for start in range(0, len(pictures), self._rows):
            part = np.stack(pictures[start : start + self._rows])
            out.append(self._run(part, embed_images, encoder, self.weights["vision"], projections))
        return np.concatenate(out)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> unit vectors, float32 [n, E]; of a text longer than the tower's context, the beginning."""
        tower, end = Decoder(self.text.tower, self.dtype), self.text.end_token
        rows = [self.tokens(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # those of a length are computed together
        out = np.empty((len(rows), self.text.embedding), np.float32)
        for start in range(0, len(rows), self._rows):
            numbers = order[start : start + self._rows]
            longest = len(rows[numbers[-1]])
            length = min(n for n in (*_LENGTHS, self.text.tower.max_positions) if longest <= n)
            part = np.full((len(numbers), length), end, np.int32)
            for place, number in enumerate(numbers):
                part[place, : len(rows[number])] = rows[number]
            out[numbers] = self._run(part, embed_texts, tower, self.weights["text"], end)
        return out

    def tokens(self, text: str) -> list[int]:
        """The ids of a text between those that begin and end it, at most as many as the tower's context has."""
        room = self.text.tower.max_positions - 2
        ids = self.tokenizer.encode(text[: room * _CHARACTERS])[:room]
        return [self.tokenizer.bos, *ids, self.text.end_token]

    @property
    def _rows(self) -> int:
        """``batch``, so that it divides over the devices."""
        devices = jax.local_device_count()
        return -(-self.batch // devices) * devices

    def _run(self, part: np.ndarray, compute, *arguments) -> np.ndarray:
        """A batch, filled up to its full size by its first row."""
        full = np.concatenate([part, np.repeat(part[:1], self._rows - len(part), axis=0)])
        return np.asarray(compute(*arguments, jax.device_put(full, _spread("all"))))[: len(part)]


def load(source: str | pathlib.Path, batch: int = 64) -> Clip:
    """The CLIP of a folder, as public libraries write it or as ``flamingo_jax.convert`` does; or of its hub id.

    Raises ValueError when there is none, or it lacks its text tower or tokenizer.
    """
    found = run.open_source(str(source), find=sources.find)
    vision, text = found.model, found.model.text()
    if text is None:
        raise ValueError(f"{source} is no whole CLIP, it has no text tower; give a CLIP's folder, public or converted.")
    weights = {"vision": vision.place(_spread(None)), "text": text.place(_spread(None))}
    return Clip(vision.config, text.config, weights, text.tokenizer(), vision.dtype(), run.fingerprint(found), batch)


def _spread(axis: str | None) -> NamedSharding:
    """Over this process' devices: rows, or nothing."""
    mesh = jax.make_mesh((jax.local_device_count(),), ("all",), (AxisType.Auto,), devices=jax.local_devices())
    return NamedSharding(mesh, PartitionSpec(axis))


def crop(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of an image, uint8 [height, width, 3], resized until it covers that."""
    rows, columns = pixels.shape[:2]
    # As the library rounds: the resized image to whole pixels, down; and where in it to cut.
    if height * columns >= width * rows:
        tall, wide = height, columns * height // rows
    else:
        tall, wide = rows * width // columns, width
    top, left = (tall - height) // 2, (wide - width) // 2
    y, x = rows / tall, columns / wide
    box = (left * x, top * y, (left + width) * x, (top + height) * y)  # never resized as a whole, which may be long
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC, box=box))
