"""Images: bytes -> pixels -> bytes. Pixels are uint8 [H, W, 3] RGB, upright, with transparency laid on white.

JPEGs in the usual colours are decoded by libjpeg-turbo, reduced already where they are much larger than wanted;
everything else by Pillow. Colour profiles (ICC) are ignored: the numbers are taken as sRGB, which nearly all mean.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import struct
import threading
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from flamingo_jax.config import ImageRules
from flamingo_jax.data.document import Dropped

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")
"""The only decoders that are ever run: Pillow's rarer ones read no web page's images but widen what may go wrong."""

MAX_PIXELS = 64_000_000
"""Larger images are refused by their header, for a 100 KB PNG can claim any size: 64 MP take up to 1.4 GB to decode."""

MAX_SIDE = 20_000
"""The longest side accepted, pixels (OBELICS' limit)."""

MAX_SCANNED = 20 * MAX_PIXELS
"""Pixels times scans of a progressive JPEG, which has about ten: for a dozen bytes, each is a pass over all pixels."""

QUALITY = 95
"""JPEG quality of stored images, with full chroma: at 48 px, a colour is a handful of pixels."""

REDUCED = 1.5
"""A JPEG is not decoded at less than so many times the wanted size: nearer to it, what is left to resize blurs."""

_JPEG = b"\xff\xd8\xff"
_COLOURS = ("Gray", "YCbCr", "RGB")  # of JPEGs; CMYK, which Adobe inverts, is left to Pillow
_SCAN = re.compile(rb"\xff\xda\0[\x06\x08\x0a\x0c]")
_HARMLESS = re.compile(
    "extraneous bytes|unknown JFIF revision|Adobe color transform|bad ICC|SOS parameters|Inconsistent progression"
)  # among libjpeg-turbo's warnings
_BARE = frozenset(b"\xc0\xc4\xda\xdb\xdd\xe0\xee")  # a baseline JPEG's markers that are no metadata
_EXIF = b"Exif\0\0"
_EXIF_ITEM = re.compile(rb"(infe.{8,10})Exif", re.DOTALL)  # the entry of an AVIF's list that there is one
_ORIENTATION = 0x0112  # the EXIF tag, and what makes each of its values upright
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
_READS = {b"GIF8": 5_000, b"": 25_000}  # of one file by Pillow; a PNG of 50 MB in chunks of 8 KB takes 18,000
_WHITE = (255, 255, 255)
_scratch = threading.local()

cv2.setNumThreads(0)  # whoever decodes many images decodes them in parallel already


def decode(
    data: bytes,
    size: int | None = None,
    *,
    formats: tuple[str, ...] = FORMATS,
    page: int = 0,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes an image; of an animation the first frame.

    Args:
        data: a file of one of ``formats``.
        size: when given, an image whose longest side is longer is resized to it; none is ever enlarged.
        formats: Pillow's names of the decoders that may run: ``FORMATS``, or "TIFF".
        page: of a TIFF, which of its images.
        into: uint8 [S, S, 3] that the pixels are meant for (``pad``), which spares copies.

    Returns:
        uint8 [H, W, 3], EXIF orientation applied. With ``into`` it may be the middle of that, or memory that the next
        call in this thread uses again.

    Raises:
        ValueError: ``data`` is none of these, is damaged or too large.
    """
    # Pillow raises a dozen exception types on damaged files (SyntaxError, struct.error, MemoryError, ... among them).
    try:
        shape = _bare(data) if size and "JPEG" in formats else None
        if shape and max(shape) <= size:  # as they are stored: nothing to find out, nothing to resize
            return _decode_jpeg(data, *shape, shape, into)
        return _pixels(data, *_open(data, formats, page), size)
    except Exception as error:
        raise ValueError(f"Not a readable image of {len(data)} bytes: {_message(error)}.") from None


def store(
    data: bytes, size: int, rules: ImageRules | None = None, place: str = "", quality: int = QUALITY
) -> bytes | Dropped:
    """An image in the form that datasets hold: a JPEG whose longest side is at most ``size`` pixels.

    It is ``data`` itself if that is such a JPEG, baseline and without metadata, and no longer than it would become.

    Args:
        data: an image file.
        size: none is enlarged to it.
        rules: what else is dropped than files that cannot be decoded.
        place: where the image was, for the report.
        quality: of the JPEG, 0..100.
    """
    rules = rules or ImageRules(0, float("inf"), 0.0)
    try:
        width, height, image = _open(data, FORMATS)
        short, long = sorted((width, height))
        if short < rules.side:
            return Dropped("image too small", f"{place}: {width} x {height} pixels")
        if long > rules.aspect * short:
            return Dropped("image too long or wide", f"{place}: {width} x {height} pixels")
        pixels = _pixels(data, width, height, image, size)
    except Exception as error:  # see ``decode``
        return Dropped("image not readable", f"{place}: {_message(error)}", bad=True)
    if cv2.meanStdDev(pixels)[1].max() < rules.deviation:
        return Dropped("image of a single colour", place)
    encoded = encode(pixels, quality)
    kept = image is None and long <= size and len(data) <= len(encoded) and _bare(data)
    return data if kept else encoded


def encode(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """uint8 [H, W, 3] as a JPEG with full chroma resolution."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "444")


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] with its aspect kept and its longest side ``size`` pixels, smaller or larger than before."""
    height, width = pixels.shape[:2]
    return _resize(pixels, _fit(width, height, size))


def pad(
    pixels: np.ndarray,
    size: int,
    fill: tuple[int, int, int],
    *,
    flip: bool = False,
    colour: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The paper's input (A.3): resized to fit a square with its aspect kept, centred, the rest the mean value.

    Args:
        pixels: uint8 [H, W, 3]; they may be in ``out`` already, as ``decode`` puts whole rows.
        size: side S of the square, pixels.
        fill: the mean value per channel, 0..255.
        flip: mirrors it left to right.
        colour: float32 [3, 4], a map of (R, G, B, 1), or None; the padding stays the mean value.
        out: uint8 [S, S, 3] that the result is written into.

    Returns:
        uint8 [S, S, 3].
    """
    pixels = resize(pixels, size)
    height, width = pixels.shape[:2]
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    top, left = (size - height) // 2, (size - width) // 2
    there = _middle(out, height, width) if np.may_share_memory(pixels, out) else None
    if flip:
        pixels = cv2.flip(pixels, 1, dst=there)
    if colour is not None:
        pixels = cv2.transform(pixels, colour, dst=there)
    if there is None:
        rest = top, size - height - top, left, size - width - left
        cv2.copyMakeBorder(pixels, *rest, cv2.BORDER_CONSTANT, dst=out, value=fill)
    else:
        border = blank(size, fill)
        out[:top], out[top + height :] = border[:top], border[top + height :]
    return out


def _middle(square: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    return square[top : top + height, left : left + width]


@functools.lru_cache(maxsize=16)  # to copy from it takes a tenth of the time of spreading three numbers
def blank(size: int, fill: tuple[int, int, int]) -> np.ndarray:
    """uint8 [S, S, 3] of one colour, not to be changed."""
    return np.full((size, size, 3), fill, np.uint8)


def _open(data: bytes, formats: tuple[str, ...], page: int = 0) -> tuple[int, int, Image.Image | None]:
    """(width, height, image) as the header has them; image is None for what libjpeg-turbo will decode."""
    width, height, image = 0, 0, None
    if "JPEG" in formats and data.startswith(_JPEG):
        with contextlib.suppress(ValueError, KeyError):  # a kind of JPEG that Pillow may know
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            width = width if colours in _COLOURS else 0
    if not width:
        try:
            image = Image.open(_File(_without_exif(data)), formats=formats)
        except UnidentifiedImageError:  # it would name an address in memory
            raise ValueError(f"it is damaged, or none of {', '.join(formats)}") from None
        image.seek(page)
        width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels are more than {MAX_PIXELS} or longer than {MAX_SIDE}")
    if data.startswith(_JPEG) and (scans := len(_SCAN.findall(data))) * width * height > MAX_SCANNED:
        raise ValueError(f"{scans} scans of {width} x {height} pixels are more than {MAX_SCANNED}")
    return width, height, image


def _pixels(data: bytes, width: int, height: int, image: Image.Image | None, size: int | None) -> np.ndarray:
    """What ``decode`` returns, of what ``_open`` returned."""
    shape = _fit(width, height, size) if size and max(width, height) > size else (width, height)
    pixels = _decode_jpeg(data, width, height, shape) if image is None else _resize(np.asarray(_rgb(image)), shape)
    if data.startswith(_JPEG):
        exif = next((part for _, part in _segments(data) if part.startswith(_EXIF)), b"")
    else:
        exif = image.info.get("exif")
    # A PNG may also have a text of that name.
    if isinstance(exif, bytes) and (orientation := _orientation(exif.removeprefix(_EXIF))) in _UPRIGHT:
        pixels = np.ascontiguousarray(_UPRIGHT[orientation](pixels))
    return pixels


def _decode_jpeg(
    data: bytes, width: int, height: int, shape: tuple[int, int], into: np.ndarray | None = None
) -> np.ndarray:
    """Resized to ``shape``, (width, height), by way of 1/8 to 4/8 of the size where that is enough."""
    if shape == (width, height):
        if into is None:
            return _decode_turbo(data)
        if width == len(into):  # whole rows, which are one piece of memory
            return _decode_turbo(data, buffer=_middle(into, height, width))
        if len(getattr(_scratch, "memory", b"")) < into.size:
            _scratch.memory = bytearray(into.size)  # new memory would cost a fifth of the decoding
        return _decode_turbo(data, buffer=_scratch.memory)
    # min_factor: libjpeg-turbo is slower at 5/8 to 7/8 than at the full size.
    least = {"min_width": math.ceil(REDUCED * shape[0]), "min_height": math.ceil(REDUCED * shape[1])}
    pixels = _decode_turbo(data, min_factor=2, **least)
    if pixels.shape[:2] == (height, width):
        return _resize(pixels, shape)
    # Where the size is no multiple of 8, the last row and column reach beyond the image. The image itself is resized.
    eighths = next(n for n in range(1, 8) if (-(-height * n // 8), -(-width * n // 8)) == pixels.shape[:2])
    scales = {"fx": shape[0] / (width * eighths / 8), "fy": shape[1] / (height * eighths / 8)}
    return cv2.resize(pixels, None, interpolation=cv2.INTER_AREA, **scales)[: shape[1], : shape[0]]


def _decode_turbo(data: bytes, **options) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **options)
    except ValueError as error:  # after other warnings comes grey or noise; after errors, what was in the memory before
        if not _HARMLESS.search(str(error)):
            raise
    return simplejpeg.decode_jpeg(data, "RGB", strict=False, **options)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip all above 255 to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", image.size, _WHITE)
        ground.paste(image, mask=image)
        return ground
    return image.convert("RGB")


def _resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """To ``shape``, (width, height)."""
    height, width = pixels.shape[:2]
    if (width, height) == shape:
        return pixels
    smaller = shape[0] <= width and shape[1] <= height
    return cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _fit(width: int, height: int, size: int) -> tuple[int, int]:
    scale = size / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, content) of a JPEG's segments before its pixels, the first thousand."""
    at = 2
    for _ in range(1000):
        if data[at : at + 1] != b"\xff" or len(data) < at + 4 or data[at + 1] == 0xDA:
            return
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + size]
        at += 2 + size


def _bare(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a baseline JPEG in one scan and without metadata, such as where it was taken; else None."""
    at, frame, last = 2, 0, len(data) - 12
    while data.startswith(_JPEG) and at < last and data[at] == 0xFF and (marker := data[at + 1]) in _BARE:
        if marker == 0xC0:
            frame = at
        elif marker == 0xDA:
            colours = data[frame + 9]
            one_scan = frame and colours in (1, 3) and data[at + 4] == colours
            return (
                (data[frame + 7] << 8 | data[frame + 8], data[frame + 5] << 8 | data[frame + 6]) if one_scan else None
            )
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def _orientation(exif: bytes) -> int:
    """Of a block of EXIF, 0 if it has none. Pillow would read all of it, and a few KB can point to gigabytes."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    with contextlib.suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}L", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHLH", exif, at)
            if tag == _ORIENTATION:
                return value
    return 0


def _without_exif(data: bytes) -> bytes:
    """Hides EXIF from Pillow, which reads it when it opens a JPEG or AVIF; see ``_orientation``."""
    if data.startswith(_JPEG):
        return data.replace(_EXIF, b"none\0\0")
    return _EXIF_ITEM.sub(rb"\1none", data) if data[4:8] == b"ftyp" else data


class _File(io.BytesIO):
    """A file that Pillow must read in a bounded number of calls, and about once.

    The blocks of a GIF's comment, of 255 bytes, cost it quadratic time, and the directory of a TIFF may point to the
    same bytes 65,535 times.
    """

    def __init__(self, data: bytes):
        super().__init__(data)
        self._calls = next(count for start, count in _READS.items() if data.startswith(start))
        self._bytes = 4 * len(data) + 1_000_000

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._calls -= 1
        self._bytes -= len(data)
        if min(self._calls, self._bytes) < 0:
            raise ValueError("it has too many parts")
        return data


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__
