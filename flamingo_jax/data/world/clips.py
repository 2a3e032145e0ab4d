"""Clips of moving objects: H.264 in MP4, four seconds at four frames per second, with their captions in a table."""

from __future__ import annotations

import csv
import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from flamingo_jax.config import WorldConfig
from flamingo_jax.data.world import grammar
from flamingo_jax.data.world.attributes import Concept, draw_clip, generator, pick
from flamingo_jax.data.world.scene import render_clip

FRAME_RATE = 4
FOLDER = "vtp"


def write(root: Path, config: WorldConfig, training: tuple[Concept, ...], numbers: range) -> None:
    """Writes the clips of the given ``numbers`` to ``root``/vtp/NNNNN.mp4."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        scene, _, rng = _clip(config, training, number)
        (folder / f"{number:05d}.mp4").write_bytes(encode(render_clip(scene, rng)))


def write_captions(root: Path, config: WorldConfig, training: tuple[Concept, ...]) -> None:
    """Writes ``root``/vtp/captions.csv with the columns path (beside the table) and caption."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "caption"))
        for number in range(config.clips):
            table.writerow((f"{number:05d}.mp4", _clip(config, training, number)[1]))


def encode(frames: list[np.ndarray]) -> bytes:
    """An MP4 of the frames (uint8 [height, width, 3], even sides), shown one after another at ``FRAME_RATE``."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options={"preset": "superfast", "crf": "23"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # the clips are made in parallel; and the bytes depend on the number of threads
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _clip(config: WorldConfig, training: tuple[Concept, ...], number: int):
    rng = generator(config.seed, "clip", number)
    scene = draw_clip(rng, pick(rng, training))
    return scene, grammar.clip_text(rng, scene), rng
