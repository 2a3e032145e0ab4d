import io
import itertools
import struct
import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from flamingo_jax.data import video


def clip(times, shades=None, size=(96, 72), codec="libx264", format="mp4", options=None):
    """A video whose frame at ``times[i]`` seconds is grey of brightness ``shades[i]`` (20 i by default)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=100, options=options or {"crf": "10", "bf": "0"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for i, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), shades[i] if shades else 20 * i, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 100), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def shades(frames):
    return [round(float(frame.mean()) / 20) for frame in frames]


def test_frames_are_taken_at_even_times():
    data = clip([i / 4 for i in range(12)])  # three seconds, four frames a second
    frames = video.decode(data, fps=1.0)
    assert frames[0].shape == (72, 96, 3) and frames[0].dtype == np.uint8
    assert shades(frames) == [0, 4, 8]
    assert shades(video.decode(data, fps=2.0)) == [0, 2, 4, 6, 8, 10]
    assert shades(video.decode(data, fps=2.0, max_frames=3)) == [0, 2, 4]
    assert shades(video.decode(data, fps=0.25)) == [0]


def test_a_variable_rate_is_sampled_by_time_and_not_by_number():
    # Many frames in the first second, then one that stays for four, then the last.
    data = clip([0, 0.1, 0.2, 0.3, 0.4, 5.0])
    assert shades(video.decode(data, fps=1.0)) == [0, 4, 4, 4, 4, 5]


def test_time_starts_at_the_first_frame():
    assert shades(video.decode(clip([3.0, 4.0, 5.0]), fps=1.0)) == [0, 1, 2]


def test_a_path_gives_the_same_as_its_bytes(tmp_path):
    data = clip([0, 1])
    (tmp_path / "a.bin").write_bytes(data)
    for one, other in zip(video.decode(tmp_path / "a.bin"), video.decode(data), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("codec", "format"),
    [
        ("libx264", "mov"),
        ("libx264", "matroska"),
        ("libvpx", "webm"),
        ("libsvtav1", "mp4"),
        ("mpeg4", "avi"),  # which has no time stamps of its own
        ("mpeg4", "mp4"),
    ],
)
def test_other_containers_and_codecs(codec, format):
    data = clip([i / 100 for i in range(201)], [i // 20 for i in range(201)], codec=codec, format=format, options={})
    assert video.is_video(data[:16])
    frames = video.decode(data, fps=2.0)
    assert [round(float(frame.mean())) for frame in frames] == pytest.approx([0, 2, 5, 7, 10], abs=2)


def test_a_moving_gif_decodes_but_counts_as_an_image():
    frames = [Image.new("L", (96, 72), 20 * i) for i in range(6)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=500)
    assert shades(video.decode(buffer.getvalue(), fps=1.0)) == [0, 2, 4]
    assert not video.is_video(buffer.getvalue())


@pytest.mark.parametrize("moving", [False, True])
def test_an_avif_is_no_video(moving):
    buffer, frame = io.BytesIO(), Image.new("RGB", (16, 16))
    frame.save(buffer, "AVIF", save_all=moving, append_images=[Image.new("RGB", (16, 16), "red")] if moving else [])
    assert not video.is_video(buffer.getvalue())


def test_the_suffix_says_nothing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(clip([0, 1], format="matroska"))
    assert shades(video.decode(tmp_path / "a.jpg")) == [0, 1]
    (tmp_path / "b.mp4").write_bytes(b"<html>gone</html>")
    with pytest.raises(ValueError, match="known format"):
        video.decode(tmp_path / "b.mp4")


def turned(data, degrees):
    """An MP4 that says that it is to be turned clockwise, as telephones do: in the matrix of its track's header."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9l", cosine << 16, sine << 16, 0, -sine << 16, cosine << 16, 0, 0, 0, 1 << 30)
    start = data.index(b"tkhd") + 44
    return data[:start] + matrix + data[start + 36 :]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_upright(degrees):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    data = turned(buffer.getvalue(), degrees)
    (frame,) = video.decode(data, size=48)
    expected = np.rot90(pixels, -degrees // 90)
    assert frame.shape == (expected.shape[0] // 2, expected.shape[1] // 2, 3)
    assert np.abs(frame.astype(int) - expected[::2, ::2]).mean() < 6


def test_frames_are_resized_but_never_enlarged():
    assert video.decode(clip([0]), size=48)[0].shape == (36, 48, 3)
    assert video.decode(clip([0]), size=480)[0].shape == (72, 96, 3)


def audio(cover=False):
    """A piece of music, perhaps with a picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 96, 72, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover:
            image = io.BytesIO()
            Image.new("RGB", (96, 72)).save(image, "JPEG")
            packet = av.Packet(image.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 1)
            container.mux(packet)
    return buffer.getvalue()


def of_pictures(pictures, rate=10):
    """An AVI whose packets are these JPEG or PNG files; its header knows the size of the first alone."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 96, 72, "yuvj420p"
        for i, picture in enumerate(pictures):
            content = io.BytesIO()
            picture.save(content, "JPEG")
            packet = av.Packet(content.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, rate)
            packet.is_keyframe = True
            container.mux(packet)
    return buffer.getvalue()


def with_pixels(data, width, height):
    """An MP4 whose sample description claims another size."""
    at = data.index(b"avc1", data.index(b"stsd")) + 28
    return data[:at] + struct.pack(">HH", width, height) + data[at + 4 :]


GIF_OF_60000 = (
    b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\x80\0\0" + bytes(6) + b"," + bytes(8) + b"\0\2\2D\1\0;"
)

REFUSED = {
    "empty": b"",
    "garbage": b"garbage" * 100,
    "truncated": clip([0, 1])[:600],
    "without frames": clip([]),
    "audio": audio(),
    "cover": audio(cover=True),
    "play list": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd",
    "frames of 12000": of_pictures([Image.new("L", (12_000, 12_000))]),
    "gif of 60000": GIF_OF_60000,
    "an image": b"\xff\xd8\xff\xe0",
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused(name):
    with pytest.raises(ValueError, match="Not a readable video"):
        video.decode(REFUSED[name])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Not a readable video"):
        video.decode(tmp_path / "missing.mp4")


def test_a_claimed_size_is_not_believed():
    assert shades(video.decode(with_pixels(clip([0, 1]), 60_000, 60_000))) == [0, 1]


def test_frames_that_grow_in_the_middle_end_the_clip():
    data = of_pictures([Image.new("L", (96, 72), 100)] * 12 + [Image.new("L", (8_000, 8_000))] * 20)
    assert [frame.shape for frame in video.decode(data, fps=10.0)] == [(72, 96, 3)] * 12


def fakes(*times, corrupt=(), keys=()):
    """Frames at these times, as FFmpeg would give them."""
    return [SimpleNamespace(time=t, is_corrupt=t in corrupt, key_frame=t in keys) for t in times]


def times_shown(frames, fps=1.0, max_frames=32):
    return [frame.time for frame in video._shown(frames, fps, max_frames)]


def test_damaged_frames_are_not_shown_nor_what_is_made_from_them():
    times = range(8)
    assert times_shown(fakes(*times, corrupt=[3], keys=[0, 6])) == [0, 1, 2, 2, 2, 2, 6, 7]
    assert times_shown(fakes(*times, corrupt=[3])) == [0, 1, 2]
    assert times_shown(fakes(*times, corrupt=[0], keys=[0, 5])) == [5, 6, 7]


def test_frames_without_time_stamp_are_not_shown():
    assert times_shown(fakes(0, None, 1, 2, None)) == [0, 1, 2]
    assert times_shown(fakes(None, None)) == []


def test_what_comes_before_an_error_is_shown_whole():
    def damaged():
        yield from fakes(0, 1, 2)
        raise av.InvalidDataError(0, "damaged")

    shown = []
    with pytest.raises(av.InvalidDataError):
        for frame in video._shown(damaged(), 1.0, 32):
            shown.append(frame.time)
    assert shown == [0, 1, 2]


def test_a_claimed_rate_of_a_million_and_times_that_stand_still_or_go_back_end():
    assert len(times_shown(frame for i in itertools.count() for frame in fakes(i / 1e6))) == 1
    assert len(times_shown(frame for _ in itertools.count() for frame in fakes(5.0))) == 1
    assert len(times_shown(frame for i in itertools.count() for frame in fakes(-float(i)))) <= 1
    assert times_shown(fakes(0, 1e18), max_frames=4) == [0, 0, 0, 0]


def test_damaged_bytes_never_raise_another_error():
    data, rng = clip([0, 1, 2, 3, 4], size=(320, 240)), np.random.default_rng(0)
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = rng.integers(0, len(data))
        damaged[start : start + 4] = rng.integers(0, 256, len(damaged[start : start + 4]))
        try:
            assert len(video.decode(damaged.tobytes())) >= 1
        except ValueError:
            pass


def test_long_and_huge_clips_take_little_time_and_memory(tmp_path):
    """Ten hours of black; and what was refused above."""
    hours = clip(range(0, 36_000, 10), [0] * 3_600, size=(64, 48), options={"preset": "ultrafast"})
    for i, data in enumerate((hours, of_pictures([Image.new("L", (12_000, 12_000))]), GIF_OF_60000)):
        (tmp_path / f"{i}.bin").write_bytes(data)
    script = """if True:
        import pathlib, resource, sys, time
        from flamingo_jax.data import video
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            start = time.process_time()
            try:
                print(len(video.decode(path)), end=" ")
            except ValueError:
                print("refused", end=" ")
            assert time.process_time() - start < 15, path
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=60)
    assert not found.returncode, found.stderr
    *results, memory = found.stdout.split()
    assert results == ["32", "refused", "refused"] and int(memory) < 400
