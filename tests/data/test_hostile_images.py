"""Images that are damaged, claim what they are not, or cost more than they are worth."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from pictures import PICTURE, distance, natural, png, save, scene
from PIL import Image

from flamingo_jax.data import image


def test_a_tiff_that_points_to_itself_is_not_read_twenty_thousand_times():
    with pytest.raises(ValueError, match="too many parts"):
        image.decode(exif_bomb(), formats=("TIFF",))


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
    """In a process of its own, for the peak of memory is the process'; it begins at 60 MB."""
    for i, data in enumerate((*REFUSED.values(), *DECODED.values())):
        (tmp_path / f"{i}.bin").write_bytes(data)
    script = """if True:
        import pathlib, sys, time
        from flamingo_jax.data import image
        for path in pathlib.Path(sys.argv[1]).iterdir():
            data, start = path.read_bytes(), time.process_time()
            image.store(data, 320)
            assert time.process_time() - start < 8, path
        print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60)
    assert not found.returncode and int(found.stdout) < 400_000, found.stderr


def test_an_image_at_the_limit_takes_what_is_documented(tmp_path):
    side = int(image.MAX_PIXELS**0.5)
    (tmp_path / "a").write_bytes(save(Image.new("P", (side, side)), "GIF", transparency=0))
    script = """if True:
        import pathlib, sys
        from flamingo_jax.data import image
        assert image.decode(pathlib.Path(sys.argv[1]).read_bytes(), 320).shape == (320, 320, 3)
        print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path / "a"], capture_output=True, text=True, timeout=60)
    assert not found.returncode and int(found.stdout) < 1_500_000, found.stderr


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
