import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from flamingo_jax.data import image
from flamingo_jax.data.document import Dropped


def scene(width=90, height=70):
    """Left half red, right half blue, a white top row of an eighth."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 200
    pixels[: height // 8] = 255
    return pixels


def save(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png_claiming(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_decode_exactly(format, options):
    np.testing.assert_array_equal(image.decode(save(Image.fromarray(scene()), format, **options)), scene())


def test_unusual_modes_decode_to_the_same_colours():
    picture = Image.fromarray(scene())
    for data in (
        save(picture.quantize(16)),
        save(picture, "GIF"),
        save(picture.convert("CMYK"), "JPEG", quality=95),
        save(picture, "JPEG", quality=95, progressive=True),
    ):
        assert np.abs(image.decode(data).astype(int) - scene()).mean() < 4


def test_sixteen_bit_grey_keeps_its_brightness():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, 0)
    np.testing.assert_array_equal(image.decode(save(Image.fromarray(ramp)))[..., 1], ramp >> 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(mode):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    data = save(picture, transparency=0) if mode == "P" else save(picture)
    assert (image.decode(data) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    shown = Image.fromarray(scene())
    stored = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # the inverse of each
    for method in stored.get(orientation, []):
        shown = shown.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(shown, exif=exif)
    np.testing.assert_array_equal(image.decode(data), scene())


def test_of_an_animation_the_first_frame():
    frames = [Image.fromarray(scene()), Image.new("RGB", (90, 70), "green")]
    data = save(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(image.decode(data), scene())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        png_claiming(60_000, 60_000),
        png_claiming(30_000, 30_000),
        png_claiming(25_000, 10),
        png_claiming(9_000, 9_000),
        png_claiming(0, 5),
        save(Image.fromarray(scene()), "JPEG")[:400],
        save(Image.fromarray(scene()), "TIFF"),
    ],
    ids=["empty", "html", "svg", "60000", "30000", "side", "pixels", "zero", "truncated", "tiff"],
)
def test_bad_files_are_refused(data):
    with pytest.raises(ValueError, match="readable image"):
        image.decode(data)
    assert image.store(data, 48, place="a.png").reason == "image not readable"


def test_damaged_bytes_never_raise_another_error():
    rng = np.random.default_rng(0)
    for data in (save(Image.fromarray(scene()), f) for f in ("PNG", "JPEG", "WEBP", "GIF")):
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(256)
            try:
                image.decode(bytes(damaged[: rng.integers(8, len(data))]))
            except ValueError:
                pass


def test_stored_images_keep_their_aspect_and_are_never_enlarged():
    def stored(width, height, size):
        data = image.store(save(Image.fromarray(scene(width, height))), size)
        return image.decode(data).shape

    assert stored(200, 100, 48) == (24, 48, 3)
    assert stored(100, 200, 48) == (48, 24, 3)
    assert stored(30, 20, 48) == (20, 30, 3)
    assert stored(400, 1, 48) == (1, 48, 3)


def test_a_reduced_jpeg_looks_like_the_full_one_resized():
    pixels = np.asarray(Image.fromarray(scene()).resize((1000, 800)))
    data = save(Image.fromarray(pixels), "JPEG", quality=95)
    np.testing.assert_allclose(image.decode(data, 50).astype(int), image.resize(image.decode(data), 50), atol=16)


def test_rules_drop_what_the_paper_drops():
    rules = image.Rules()

    def reason(pixels):
        stored = image.store(save(Image.fromarray(pixels), "JPEG"), 48, rules, "there")
        assert not isinstance(stored, Dropped) or stored.place.startswith("there")
        return getattr(stored, "reason", None)

    assert reason(scene(64, 64)) is None
    assert reason(scene(63, 64)) == reason(scene(64, 63)) == "image too small"
    assert reason(scene(192, 64)) is None
    assert reason(scene(193, 64)) == reason(scene(64, 193)) == "image too long or wide"
    assert reason(np.full((80, 80, 3), 238, np.uint8)) == "image of a single colour"
    word = np.full((80, 80, 3), 255, np.uint8)
    word[30:34, 20:60] = 0
    assert reason(word) is None


def test_pad_centres_on_the_mean_and_keeps_the_aspect():
    fill = (1, 2, 3)
    padded = image.pad(np.full((10, 20, 3), 200, np.uint8), 40, fill)
    assert padded.shape == (40, 40, 3) and padded.dtype == np.uint8
    assert (padded[10:30] == 200).all() and (padded[:10] == fill).all() and (padded[30:] == fill).all()
    tall = image.pad(np.full((81, 27, 3), 200, np.uint8), 27, fill)
    assert (tall[:, 9:18] == 200).all() and (tall[:, :9] == fill).all() and (tall[:, 18:] == fill).all()
