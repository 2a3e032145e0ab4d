import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from flamingo_jax.config import ImageRules
from flamingo_jax.data import image
from flamingo_jax.data.document import Dropped


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


JPEG = save(Image.fromarray(natural(400, 300)), "JPEG", quality=90)


def corrupt(data):
    """Overwrites a tenth of the bytes, in the middle."""
    start, stop = len(data) // 2, len(data) * 6 // 10
    return data[:start] + np.random.default_rng(0).bytes(stop - start) + data[stop:]


def jpeg_of_scans(width, height, count):
    """A progressive JPEG whose last scan is repeated."""
    data = save(Image.new("RGB", (width, height), "red"), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * count + data[-2:]


def exif_bomb(tags=20_000, size=240_000):
    """A directory whose entries all claim the whole block: 240 KB that are 4.8 GB when they are read."""
    entries = b"".join(struct.pack("<HHLL", 1 + tag, 7, size, 0) for tag in range(tags))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + entries).ljust(size, b"\0")


def in_segments(data, exif):
    parts = (exif[i : i + 65_000] for i in range(0, len(exif), 65_000))
    segments = (b"\xff\xe1" + struct.pack(">H", len(p) + 8) + b"Exif\0\0" + p for p in parts)
    return data[:2] + b"".join(segments) + data[2:]


def in_avif(exif):
    small = b"II*\0" + bytes(len(exif))
    data = save(PICTURE, "AVIF", exif=small)
    start = data.rindex(b"II*\0")
    return data[:start] + exif + data[start + len(exif) :]


def gif_of_comments(size):
    data = save(PICTURE, "GIF")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + b"!\xfe" + (b"\xff" + b"x" * 255) * (size // 256) + b"\0" + data[start:]


def webp_claiming(width, height):
    frame = save(Image.new("RGB", (8, 8)), "WEBP", lossless=True)[12:]
    size = struct.pack("<HBHB", (width - 1) & 0xFFFF, (width - 1) >> 16, (height - 1) & 0xFFFF, (height - 1) >> 16)
    frame = bytes(6) + struct.pack("<HBHB", 7, 0, 7, 0) + bytes(4) + frame
    parts = [(b"VP8X", b"\2\0\0\0" + size), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(n + struct.pack("<L", len(d)) + d + bytes(len(d) & 1) for n, d in parts)
    return b"RIFF" + struct.pack("<L", len(body)) + body


def gif_claiming(width, height):
    data = bytearray(save(PICTURE, "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def jpeg_claiming(width, height):
    data = bytearray(JPEG)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png_bomb(side):
    """A PNG that is what it claims: a hundred KB that Pillow would decode to as many millions."""
    rows, packer = bytes(100 * (1 + side // 8)), zlib.compressobj(9)
    packed = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    return png(side, side, colour=0, depth=1).replace(zlib.compress(b"\0" * 100, 1), packed)


REFUSED = {
    "empty": b"",
    "html": b"<html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "start of a jpeg": JPEG[:3],
    "header of a jpeg": JPEG[:300],
    "truncated jpeg": JPEG[: len(JPEG) * 2 // 3],
    "corrupt jpeg": corrupt(JPEG),
    "truncated png": save(Image.fromarray(natural(400, 300)))[:-60_000],
    "corrupt png": corrupt(save(Image.fromarray(natural(400, 300)))),
    "truncated webp": save(Image.fromarray(natural(400, 300)), "WEBP")[:-4000],
    "truncated gif": save(PICTURE, "GIF")[:-100],
    "truncated avif": save(Image.fromarray(natural(400, 300)), "AVIF")[:-3000],
    "png bomb": png_bomb(30_000),
    "png of 60000": png(60_000, 60_000),
    "png of 30000": png(30_000, 30_000),
    "png of 9000": png(9_000, 9_000),
    "png of 25000 x 10": png(25_000, 10),
    "png of 0 x 5": png(0, 5),
    "jpeg of 60000": jpeg_claiming(60_000, 60_000),
    "jpeg of 9000": jpeg_claiming(9_000, 9_000),
    "webp of 60000": webp_claiming(60_000, 60_000),
    "webp of 16383": webp_claiming(16_383, 16_383),
    "gif of 60000": gif_claiming(60_000, 60_000),
    "gif of 65535 x 900": gif_claiming(65_535, 900),
    "scans": jpeg_of_scans(4000, 4000, 100),
    "scans of cmyk": corrupt(save(PICTURE.convert("CMYK"), "JPEG"))[:200] + b"\xff\xda\0\x0e" * 100,
    "comments": gif_of_comments(20_000_000),
    "fill bytes": b"\xff\xd8" + b"\xff" * 20_000_000,
    "empty segments": save(PICTURE.convert("CMYK"), "JPEG")[:2] + b"\xff\xe5\0\2" * 5_000_000,
    "tiff": save(PICTURE, "TIFF"),
}

DECODED = {
    "exif of a png": png(90, 70, data=b"".join(b"\0" + r.tobytes() for r in scene()), chunks=[(b"eXIf", exif_bomb())]),
    "exif of a jpeg": in_segments(save(PICTURE, "JPEG"), exif_bomb()),
    "exif of cmyk": in_segments(save(PICTURE.convert("CMYK"), "JPEG"), exif_bomb()),
    "exif of an avif": in_avif(exif_bomb()),
    "segments": save(PICTURE, "JPEG")[:2] + b"\xff\xe5\0\2" * 5_000_000 + save(PICTURE, "JPEG")[2:],
}
"""Hostile, yet images."""


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused(name):
    with pytest.raises(ValueError, match="Not a readable image"):
        image.decode(REFUSED[name], 320)
    dropped = image.store(REFUSED[name], 48, place="there")
    assert dropped.reason == "image not readable" and dropped.bad and dropped.place.startswith("there: ")
    assert len(dropped.place) > len("there: ")


@pytest.mark.parametrize("name", DECODED)
def test_hostile_metadata_is_passed_over(name):
    assert distance(image.decode(DECODED[name]), scene()) < 4


def test_hostile_files_cost_little_time_and_memory(tmp_path):
    """In a process of its own, since the peak of memory is the process'; it begins at 60 MB."""
    for i, data in enumerate((*REFUSED.values(), *DECODED.values())):
        (tmp_path / f"{i}.bin").write_bytes(data)
    script = """if True:
        import pathlib, resource, sys, time
        from flamingo_jax.data import image
        for path in pathlib.Path(sys.argv[1]).iterdir():
            data, start = path.read_bytes(), time.process_time()
            image.store(data, 320)
            assert time.process_time() - start < 8, path
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60)
    assert not found.returncode and int(found.stdout) < 500, found.stderr


def test_an_image_at_the_limit_takes_what_is_documented(tmp_path):
    side = int(image.MAX_PIXELS**0.5)
    (tmp_path / "a").write_bytes(save(Image.new("P", (side, side)), "GIF", transparency=0))
    script = """if True:
        import pathlib, resource, sys
        from flamingo_jax.data import image
        assert image.decode(pathlib.Path(sys.argv[1]).read_bytes(), 320).shape == (320, 320, 3)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "a"], capture_output=True, text=True, timeout=60)
    assert not found.returncode and int(found.stdout) < 1.6e9, found.stderr


def test_damaged_bytes_never_raise_another_error():
    rng = np.random.default_rng(0)
    for data in (save(PICTURE, f) for f in image.FORMATS):
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(0, len(data), 4):
                damaged[place] = rng.integers(256)
            try:
                image.decode(bytes(damaged[: rng.integers(8, len(data))]))
            except ValueError:
                pass


def test_whatever_a_decoder_raises_is_one_error(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(image.simplejpeg, "decode_jpeg", fail)
    with pytest.raises(ValueError, match="MemoryError"):
        image.decode(JPEG)
    assert image.store(JPEG, 48, place="a").place == "a: MemoryError"


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
