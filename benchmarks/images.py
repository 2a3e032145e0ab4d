"""How fast images are decoded and brought to the size that datasets store, beside Pillow: one core, in one run.

    python benchmarks/images.py [--rounds=15] [--size=320]

Prints, for JPEGs of several sizes, the images a second of Pillow (decoded in full, resized with its bicubic filter) and
of ``image.decode`` and ``image.store`` (which encodes as well), medians over rounds that alternate between them, the
ratios to Pillow, and how far apart the two decoders' pixels are: their mean absolute difference, and beside it that of
Pillow's two best filters (bicubic, Lanczos). Then the same of a stored image, which training decodes.
The JPEGs hold noise whose spectrum falls with frequency as that of photographs does.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from flamingo_jax.data import image

SIZES = ((512, 384), (1024, 768), (2048, 1536))
QUALITY = 90


def photograph(width: int, height: int) -> np.ndarray:
    """Noise, uint8 [height, width, 3], whose amplitudes fall as 1 / frequency^1.5; channels alike to 70 %."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1.0
    common, channels = rng.standard_normal((height, width)), []
    for _ in range(3):
        noise = np.fft.rfft2(0.7 * common + 0.3 * rng.standard_normal((height, width)))
        smooth = np.fft.irfft2(noise / frequency**1.5, s=(height, width))
        channels.append(128 + 50 * (smooth - smooth.mean()) / smooth.std())
    return np.stack(channels, -1).clip(0, 255).astype(np.uint8)


def pillow(data: bytes, size: int, filter: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as file:
        picture = file.convert("RGB")
    if max(picture.size) > size:
        scale = size / max(picture.size)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), filter)
    return np.asarray(picture)


def rates(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Calls a second of processor time, the median of ``rounds`` in which each is called once after the other."""
    seconds = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, call in contenders.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {name: 1 / statistics.median(values[1:]) for name, values in seconds.items()}  # the first one warms up


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=320, help="Longest side of stored images, pixels.")
    options = parser.parse_args()
    size = options.size
    for width, height in SIZES:
        buffer = io.BytesIO()
        Image.fromarray(photograph(width, height)).save(buffer, "JPEG", quality=QUALITY)
        data = buffer.getvalue()
        contenders = {
            "Pillow": lambda data=data: pillow(data, size),
            "decode": lambda data=data: image.decode(data, size),
            "store": lambda data=data: image.store(data, size),
        }
        measured = rates(contenders, options.rounds)
        reference = pillow(data, size)
        print(
            f"{width} x {height}, {len(data) // 1000} KB, to {size}: "
            + ", ".join(f"{name} {rate:.0f}/s" for name, rate in measured.items())
            + "; "
            + ", ".join(f"{name} / Pillow: {measured[name] / measured['Pillow']:.2f}" for name in ("decode", "store"))
            + f"; difference {difference(image.decode(data, size), reference):.2f}"
            + f" (Lanczos {difference(pillow(data, size, Image.Resampling.LANCZOS), reference):.2f})",
            flush=True,
        )
    stored = image.store(data, size)
    measured = rates(
        {"Pillow": lambda: pillow(stored, size), "decode": lambda: image.decode(stored, size)}, 20 * options.rounds
    )
    print(
        f"stored, {len(stored) // 1000} KB: "
        + ", ".join(f"{name} {rate:.0f}/s" for name, rate in measured.items())
        + f"; decode / Pillow: {measured['decode'] / measured['Pillow']:.2f}"
    )


if __name__ == "__main__":
    main()
