import io
from fractions import Fraction

import av
import numpy as np
import pytest

from flamingo_jax.data import image, video
from flamingo_jax.data.document import Document, decode, encode


def clip(times, shades=None, size=(96, 72), codec="libx264", format="mp4"):
    """A video whose frame at ``times[i]`` seconds is grey of brightness ``shades[i]`` (20 i by default)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=100, options={"crf": "10", "bf": "0"})
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


def test_other_containers():
    assert shades(video.decode(clip([0, 1, 2], format="matroska"))) == [0, 1, 2]


def test_frames_are_resized_but_never_enlarged():
    assert video.decode(clip([0]), size=48)[0].shape == (36, 48, 3)
    assert video.decode(clip([0]), size=480)[0].shape == (72, 96, 3)


def audio():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage" * 100,
        clip([0, 1])[:600],
        clip([]),
        audio(),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd",
    ],
)
def test_bad_files_are_refused(data):
    with pytest.raises(ValueError, match="Not a readable video"):
        video.decode(data)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Not a readable video"):
        video.decode(tmp_path / "missing.mp4")


def test_of_a_damaged_file_what_came_before():
    data = clip([0, 1, 2, 3, 4], size=(320, 240))
    rng, kept = np.random.default_rng(0), []
    for _ in range(40):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = rng.integers(32, len(data))
        damaged[start : start + 40] = rng.integers(0, 256, len(damaged[start : start + 40]))
        try:
            kept.append(len(video.decode(damaged.tobytes())))
        except ValueError:
            pass
    assert kept and min(kept) >= 1
