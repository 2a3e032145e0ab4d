"""The image library of the world's web: pictures of training concepts that many pages share."""

from __future__ import annotations

import hashlib
from pathlib import Path

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world.attributes import Concept, Scene, draw_scene, generator
from flamingo_jax.data.world.scene import draw_suffix, encode, render

FOLDER = "images"  # below the folder of the pages


def entry(config: WorldConfig, training: tuple[Concept, ...], number: int) -> tuple[str, Scene]:
    """(path below the pages' folder, scene) of a picture.

    number: ``concept index * images_per_concept + copy``. The path says nothing about the picture.
    """
    return _entry(config, training, number)[:2]


def write(root: Path, config: WorldConfig, training: tuple[Concept, ...], numbers: range) -> None:
    """Renders the pictures of the given ``numbers`` below ``root``/pages."""
    for number in numbers:
        path, scene, rng = _entry(config, training, number)
        file = root / "pages" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(render(scene, rng), file.suffix, rng))


def _entry(config: WorldConfig, training: tuple[Concept, ...], number: int):
    rng = generator(config.seed, "library", number)
    scene = draw_scene(rng, training[number // config.images_per_concept])
    name = hashlib.blake2b(f"{config.seed}/{number}".encode(), digest_size=6).hexdigest()
    return f"{FOLDER}/{name[:2]}/{name[2:]}{draw_suffix(rng)}", scene, rng
