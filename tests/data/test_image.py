import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from pictures import PICTURE, distance, natural, png, save, scene
from PIL import Image

from flamingo_jax.config import ImageRules
from flamingo_jax.data import image
from flamingo_jax.data.document import Dropped

LARGE = natural(1499, 1150)


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100, "subsampling": "4:4:4"})],
)
def test_lossless_formats_decode_exactly(format, options):
    np.testing.assert_allclose(image.decode(save(PICTURE, format, **options)), scene(), atol=format == "AVIF")


@pytest.mark.parametrize(
    "data",
    [
        save(PICTURE.quantize(16)),
        save(PICTURE, "GIF"),
        save(PICTURE, "AVIF", quality=95),
        save(PICTURE, "JPEG", quality=95),
        save(PICTURE, "JPEG", quality=95, progressive=True),
        save(PICTURE, "JPEG", quality=95, subsampling=0, restart_marker_rows=1),
        save(PICTURE.convert("CMYK"), "JPEG", quality=95),  # inverted, as Adobe has it
        simplejpeg.encode_jpeg(255 - np.asarray(PICTURE.convert("CMYK")), 95, "CMYK", "444"),  # YCCK
        save(PICTURE, "PNG", icc_profile=b"no profile"),
        save(PICTURE, "JPEG", quality=95)[:-2] + b"\0\0\0\xff\xd9",  # bytes between pixels and end: harmless
    ],
    ids=["palette", "gif", "avif", "420", "progressive", "444", "cmyk", "ycck", "icc", "warning"],
)
def test_unusual_kinds_decode_to_the_same_colours(data):
    assert distance(image.decode(data), scene()) < 4


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_grey_becomes_three_equal_channels(format):
    grey = natural(80, 60)[..., 0]
    found = image.decode(save(Image.fromarray(grey), format, quality=95))
    assert distance(found, grey[..., None].repeat(3, -1)) < 3


def test_one_bit():
    picture = Image.fromarray(natural(33, 20)[..., 0]).convert("1")
    np.testing.assert_array_equal(image.decode(save(picture)), np.asarray(picture.convert("RGB")))


def test_sixteen_bits_keep_their_brightness():
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, 0)
    np.testing.assert_array_equal(image.decode(save(Image.fromarray(ramp)))[..., 1], ramp >> 8)
    colours = np.stack([ramp, ramp[:, ::-1], ramp.T], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    np.testing.assert_array_equal(image.decode(png(64, 64, depth=16, data=rows)), colours >> 8)


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "P", {"transparency": 0}),
        ("PNG", "P", {"transparency": bytes(256)}),
        ("PNG", "L", {"transparency": 0}),
        ("PNG", "1", {"transparency": 0}),
        ("PNG", "RGB", {"transparency": (0, 0, 0)}),
        ("GIF", "P", {"transparency": 0}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("AVIF", "RGBA", {}),
    ],
)
def test_transparency_lies_on_white(format, mode, options):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert (image.decode(save(picture, format, **options)) == 255).all()


def test_half_transparency_is_mixed_with_white():
    found = image.decode(save(Image.new("RGBA", (8, 8), (255, 0, 0, 51))))
    assert found[0, 0].tolist() == [255, 204, 204]


def oriented(orientation):
    """What a camera stores, so that turned by ``orientation`` it is the scene; and the EXIF block that says so."""
    shown = PICTURE
    stored = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of each
    if orientation in stored:
        shown = shown.transpose(Image.Transpose(stored[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return shown, exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "CMYK", "PNG", "WEBP", "AVIF", "TIFF"])
def test_orientation_is_applied_once(orientation, format):
    shown, exif = oriented(orientation)
    name = "JPEG" if format == "CMYK" else format
    picture = shown.convert("CMYK") if format == "CMYK" else shown
    data = save(picture, name, exif=exif, **({"lossless": True} if format == "WEBP" else {"quality": 95}))
    assert distance(image.decode(data, formats=(name,)), scene()) < 3
    if format != "TIFF":
        stored = image.store(data, 45)
        assert image.decode(stored).shape == (35, 45, 3)
        assert distance(image.decode(stored), image.resize(scene(), 45)) < 3


def test_orientation_of_either_byte_order_and_damaged_blocks():
    shown, _ = oriented(6)
    entry = {"<": struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0), ">": struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0)}
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        exif = mark + struct.pack(f"{order}LH", 8, 1) + entry[order] + bytes(4)
        np.testing.assert_array_equal(image.decode(save(shown, exif=exif)), scene())
        for bad in (exif[:15], exif[:19], mark, b"", b"what", exif.replace(b"\6", b"\x99")):
            data = png(90, 70, data=b"".join(b"\0" + row.tobytes() for row in scene()), chunks=[(b"eXIf", bad)])
            np.testing.assert_array_equal(image.decode(data), scene())


@pytest.mark.parametrize(
    "chunk",
    [(b"zTXt", b"exif\0\0" + zlib.compress(b"II*\0")), (b"tEXt", b"exif\0II*\0"), (b"iTXt", b"exif\0\0\0\0\0x")],
)
def test_a_text_named_exif_is_none(chunk):
    data = png(90, 70, data=b"".join(b"\0" + row.tobytes() for row in scene()), chunks=[chunk])
    np.testing.assert_array_equal(image.decode(data), scene())


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame(format):
    frames = [PICTURE, Image.new("RGB", (90, 70), "green")]
    options = {"lossless": True} if format == "WEBP" else {"quality": 100} if format == "AVIF" else {}
    data = save(frames[0], format, save_all=True, append_images=frames[1:], duration=100, **options)
    assert distance(image.decode(data), scene()) < 3


def test_tiff_is_read_by_who_asks_for_it_alone():
    data = save(PICTURE, "TIFF", save_all=True, append_images=[Image.fromarray(natural(40, 30))])
    with pytest.raises(ValueError, match="none of JPEG, PNG"):
        image.decode(data)
    assert image.store(data, 48).bad
    np.testing.assert_array_equal(image.decode(data, formats=("TIFF",)), scene())
    np.testing.assert_array_equal(image.decode(data, formats=("TIFF",), page=1), natural(40, 30))
    with pytest.raises(ValueError, match="readable image"):
        image.decode(data, formats=("TIFF",), page=2)


def test_stored_images_keep_their_aspect_and_are_never_enlarged():
    def stored(width, height, size):
        data = image.store(save(Image.fromarray(scene(width, height))), size)
        return image.decode(data).shape

    assert stored(200, 100, 48) == (24, 48, 3)
    assert stored(100, 200, 48) == (48, 24, 3)
    assert stored(30, 20, 48) == (20, 30, 3)
    assert stored(400, 1, 48) == (1, 48, 3)
    assert stored(1, 1, 48) == (1, 1, 3)


def test_jpegs_of_all_sizes_get_the_same_shape_as_other_formats():
    rng = np.random.default_rng(0)
    for width, height, size in [(1, 700, 48), (700, 1, 48), (17, 9, 2), *rng.integers(1, (700, 700, 200), (150, 3))]:
        pixels = np.zeros((height, width, 3), np.uint8)
        expected = image.resize(pixels, size).shape if max(width, height) > size else pixels.shape
        assert image.decode(image.encode(pixels), int(size)).shape == expected, (width, height, size)


@pytest.mark.parametrize("width", [1024, 1023, 1021, 1499, 641, 330])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_reduced_jpeg_looks_like_the_full_one_resized_by_pillow(width, subsampling):
    """As two good filters of Pillow look like each other. A pixel cut off at a border would make 1.3."""
    data = save(Image.fromarray(LARGE[: width * 3 // 4, :width]), "JPEG", quality=95, subsampling=subsampling)
    found = image.decode(data, 320)
    with Image.open(io.BytesIO(data)) as file:
        expected = np.asarray(file.resize(found.shape[1::-1], Image.Resampling.BICUBIC))
    assert distance(found, expected) < 0.7
    assert max(distance(found[:, -20:], expected[:, -20:]), distance(found[-20:], expected[-20:])) < 0.8
    assert abs(found.std() - expected.std()) < 0.003 * expected.std()


def test_other_formats_are_resized_as_jpegs_are():
    pixels = natural(1000, 800)
    reduced = image.decode(save(Image.fromarray(pixels), "JPEG", quality=98, subsampling=0), 320)
    assert distance(reduced, image.decode(save(Image.fromarray(pixels)), 320)) < 1


def test_enlarging_is_smooth():
    pixels = natural(100, 80)
    assert distance(image.resize(image.resize(pixels, 300), 100), pixels) < 1.2


def test_a_jpeg_that_would_only_lose_is_kept_as_it_is():
    plain = save(Image.fromarray(natural(300, 200)), "JPEG", quality=80)
    assert image.store(plain, 320) == plain
    stored = image.store(save(Image.fromarray(natural(300, 200))), 320)
    assert image.store(stored, 320) == stored
    rotated, exif = oriented(6)
    for data in (
        save(Image.fromarray(natural(300, 200)), "JPEG", quality=80, progressive=True),
        save(Image.fromarray(natural(300, 200)), "JPEG", quality=80, comment=b"me, at home"),
        save(rotated, "JPEG", exif=exif),
        plain + bytes(100_000),
        save(Image.fromarray(natural(400, 200)), "JPEG", quality=80),
    ):
        kept = image.store(data, 320)
        assert kept != data and b"Exif" not in kept and b"home" not in kept and len(kept) < 60_000
    assert image.decode(image.store(plain, 320)).shape == (200, 300, 3)


def test_the_same_bytes_give_the_same_bytes():
    data = save(Image.fromarray(natural(700, 500)), "JPEG", quality=90)
    assert len({image.store(data, 320) for _ in range(3)}) == 1
    image.cv2.setNumThreads(4)
    try:
        assert image.store(data, 640) == image.store(data, 640)
        many = image.store(data, 640)
    finally:
        image.cv2.setNumThreads(0)
    assert image.store(data, 640) == many


def test_rules_drop_what_the_paper_drops():
    rules = ImageRules()

    def reason(pixels):
        stored = image.store(save(Image.fromarray(pixels), "JPEG"), 48, rules, "there")
        assert not isinstance(stored, Dropped) or (stored.place.startswith("there") and not stored.bad)
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
