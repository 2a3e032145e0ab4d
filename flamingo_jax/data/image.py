"""Images: bytes -> pixels -> bytes. Pixels are uint8 [H, W, 3] RGB, upright, with transparency laid on white."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageStat

from flamingo_jax.config import ImageRules
from flamingo_jax.data.document import Dropped

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""The only decoders that are ever run: Pillow's rarer ones read no web page's images but widen what may go wrong."""

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header: 64 MP are 192 MB of RGB, and a 100 KB PNG can claim far more."""

MAX_SIDE = 20_000
"""The longest side accepted, pixels (OBELICS' limit)."""

QUALITY = 95
"""JPEG quality of stored images, with full chroma: at 48 px, a colour is a handful of pixels."""

_WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # the EXIF tag, and what makes each of its values upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, size: int | None = None) -> np.ndarray:
    """Decodes an image; of an animation the first frame.

    Args:
        data: a JPEG, PNG, WebP or GIF file.
        size: when given, an image whose longest side is longer is resized to it; none is ever enlarged.

    Returns:
        uint8 [H, W, 3], EXIF orientation applied.

    Raises:
        ValueError: ``data`` is none of these, is damaged or too large.
    """
    # Pillow raises a dozen exception types on damaged files (SyntaxError, struct.error, MemoryError, ... among them).
    try:
        with _open(data) as image:
            return np.asarray(_upright(image, size))
    except Exception as error:
        raise ValueError(f"Not a readable image of {len(data)} bytes: {error}.") from None


def store(
    data: bytes, size: int, rules: ImageRules | None = None, place: str = "", quality: int = QUALITY
) -> bytes | Dropped:
    """An image in the form that datasets hold: a JPEG whose longest side is at most ``size`` pixels.

    Args:
        data: an image file.
        size: none is enlarged to it.
        rules: what else is dropped than files that cannot be decoded.
        place: where the image was, for the report.
    """
    rules = rules or ImageRules(0, float("inf"), 0.0)
    try:
        with _open(data) as image:
            short, long = sorted(image.size)
            if short < rules.side:
                return Dropped("image too small", f"{place}: {image.width} x {image.height} pixels")
            if long > rules.aspect * short:
                return Dropped("image too long or wide", f"{place}: {image.width} x {image.height} pixels")
            image = _upright(image, size)
    except Exception as error:  # see ``decode``
        return Dropped("image not readable", f"{place}: {error}", bad=True)
    if max(ImageStat.Stat(image).stddev) < rules.deviation:
        return Dropped("image of a single colour", place)
    return _save(image, quality)


def encode(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """uint8 [H, W, 3] as a JPEG with full chroma resolution."""
    return _save(Image.fromarray(pixels), quality)


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] with its aspect kept and its longest side ``size`` pixels, smaller or larger than before."""
    height, width = pixels.shape[:2]
    if max(height, width) == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(_fit(width, height, size), Image.Resampling.BICUBIC))


def pad(pixels: np.ndarray, size: int, fill: tuple[int, int, int]) -> np.ndarray:
    """The paper's input (A.3): resized to fit a square with its aspect kept, centred, the rest the mean value.

    Args:
        pixels: uint8 [H, W, 3].
        size: side S of the square, pixels.
        fill: the mean value per channel, 0..255.

    Returns:
        uint8 [S, S, 3].
    """
    pixels = resize(pixels, size)
    height, width = pixels.shape[:2]
    square = np.empty((size, size, 3), np.uint8)
    square[:] = fill
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS} or longer than {MAX_SIDE}")
    return image


def _upright(image: Image.Image, size: int | None) -> Image.Image:
    """RGB, EXIF orientation applied, the longest side at most ``size``."""
    if size and max(image.size) > 4 * size:
        # A JPEG decodes several times faster at 1/2, 1/4 or 1/8; twice the wanted size keeps the resize sharp.
        image.draft("RGB", _fit(*image.size, 2 * size))
    orientation = image.getexif().get(_ORIENTATION, 1)
    image = _rgb(image)
    if size and max(image.size) > size:
        image = image.resize(_fit(*image.size, size), Image.Resampling.BICUBIC)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return image


def _save(image: Image.Image, quality: int = QUALITY) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip all above 255 to white
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, _WHITE)
        ground.alpha_composite(image)
        image = ground
    return image.convert("RGB")


def _fit(width: int, height: int, size: int) -> tuple[int, int]:
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))
