"""Pictures for the tests of images."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def scene(width=90, height=70):
    """Left half red, right half blue, a white top row of an eighth."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    pixels[: height // 8] = 255
    return pixels


def natural(width, height):
    """Noise whose spectrum falls as a photograph's, with alike channels."""
    rng = np.random.default_rng(0)
    shape = height + 64, width + 64  # the noise repeats itself beyond its borders, and an image does not
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
    frequency[0, 0] = 1.0
    noise = 0.7 * rng.standard_normal((1, *shape)) + 0.3 * rng.standard_normal((3, *shape))
    smooth = np.fft.irfft2(np.fft.rfft2(noise) / frequency**1.5, s=shape)[:, :height, :width]
    return (128 + 50 * smooth / smooth.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()


def save(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png(width, height, colour=2, depth=8, data=b"\0" * 100, chunks=()):
    """A PNG put together by hand, so that its header may claim what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data, 1)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def distance(one, other):
    return np.abs(one.astype(int) - other.astype(int)).mean()


PICTURE = Image.fromarray(scene())
