"""Image-text pairs in tar shards with the layout of img2dataset: key.jpg, key.txt, key.json."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar
from flamingo_jax.data.world.attributes import Concept, draw_scene, generator, pick
from flamingo_jax.data.world.scene import encode, render

SHARD = 500  # pairs in one tar
NAMES = ("align", "ltip")  # short and noisy captions; long and exact ones


def write(root: Path, config: WorldConfig, training: tuple[Concept, ...], name: str, shard: int) -> None:
    """Writes ``root``/``name``/NNNNN.tar."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    allowed = frozenset(training)
    with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for index in range(shard * SHARD, min((shard + 1) * SHARD, getattr(config, name))):
            rng = generator(config.seed, name, index)
            scene = draw_scene(rng, pick(rng, training))
            text = grammar.noisy_caption(rng, scene, allowed) if name == "align" else grammar.caption(scene)
            pixels = render(scene, rng)
            # img2dataset numbers the samples of a shard with four digits after the five of the shard.
            key = f"{shard:05d}{index - shard * SHARD:04d}"
            image = encode(pixels, ".jpg", rng)
            _add(tar, f"{key}.jpg", image)
            _add(tar, f"{key}.txt", text.encode())
            _add(tar, f"{key}.json", json.dumps(_metadata(key, text, image, pixels)).encode())


def _metadata(key: str, text: str, image: bytes, pixels: np.ndarray) -> dict:
    height, width = pixels.shape[:2]
    return {
        "url": f"https://images.example/{key}.jpg",
        "caption": text,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(image).hexdigest(),
    }


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # its time is zero: the same world is the same bytes
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
