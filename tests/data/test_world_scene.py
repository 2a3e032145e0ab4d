"""What the pictures and clips show is what their scenes say."""

import colorsys
import io

import av
import numpy as np
import pytest
from PIL import Image

from flamingo_jax.data.world import clips
from flamingo_jax.data.world.attributes import COLOURS, COUNTS, MOTIONS, PLACES, SHAPES, SIZES, Concept, Scene, pick
from flamingo_jax.data.world.scene import _COLOURS, _scatter, encode, render, render_clip


def coloured(pixels):
    """Where the object is: neutral backgrounds have little saturation. bool [height, width]."""
    pixels = pixels.astype(int)
    return pixels.max(-1) - pixels.min(-1) > 70


def center(pixels):
    rows, columns = np.nonzero(coloured(pixels))
    return columns.mean() / pixels.shape[1], rows.mean() / pixels.shape[0]


def test_pictures_have_the_sizes_that_the_filters_keep():
    rng = np.random.default_rng(0)
    for index in range(200):
        scene = Scene(Concept(pick(rng, SHAPES), pick(rng, COLOURS), "plain"), COUNTS[index % 4], pick(rng, SIZES))
        pixels = render(scene, rng)
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
        assert 72 <= min(pixels.shape[:2]) and max(pixels.shape[:2]) <= 128
        assert max(pixels.shape[:2]) / min(pixels.shape[:2]) <= 1.5


def test_colours_are_told_apart_by_hue_and_saturation_after_jpeg_at_48_pixels():
    rng = np.random.default_rng(1)
    wrong = 0
    for index in range(240):
        colour = COLOURS[index % 8]
        pixels = render(Scene(Concept("square", colour, "plain"), "one", "small", pick(rng, PLACES)), rng)
        picture = Image.open(io.BytesIO(encode(pixels, ".jpg", rng)))
        picture.thumbnail((48, 48))
        small = np.asarray(picture)
        mean = np.median(small[coloured(small)], 0) / 255
        hue, saturation, _ = colorsys.rgb_to_hsv(*mean)
        far = {
            name: abs((hue * 360 - h + 180) % 360 - 180) + 40 * abs(saturation - s)
            for name, (h, s, _) in _COLOURS.items()
        }
        wrong += min(far, key=far.get) != colour
    assert wrong <= 2


@pytest.mark.parametrize("size", SIZES)
def test_places(size):
    rng = np.random.default_rng(2)
    for index in range(100):
        place = PLACES[index % 5]
        x, y = center(render(Scene(Concept("circle", pick(rng, COLOURS), "plain"), "one", size, place), rng))
        offsets = {"left": 0.5 - x, "right": x - 0.5, "top": 0.5 - y, "bottom": y - 0.5}
        if place == "center":
            assert max(offsets.values()) < 0.08
        else:
            assert max(offsets, key=offsets.get) == place and offsets[place] > 0.1


def test_small_and_large_do_not_overlap():
    rng = np.random.default_rng(3)
    areas = {size: [] for size in SIZES}
    for index in range(120):
        scene = Scene(Concept("square", pick(rng, COLOURS), "plain"), COUNTS[index % 4], SIZES[index // 4 % 2])
        pixels = render(scene, rng)
        share = coloured(pixels).sum() / (1 + index % 4) / max(pixels.shape[:2]) ** 2
        areas[scene.size].append(share)
    assert 1.5 * max(areas["small"]) < min(areas["large"]) * 1.1


def test_objects_do_not_touch():
    rng = np.random.default_rng(4)
    for _ in range(300):
        count, radius = int(rng.integers(2, 5)), rng.uniform(13, 22)
        centers = np.array(_scatter(count, 100, 98, radius, rng))
        gaps = np.linalg.norm(centers[:, None] - centers[None], axis=-1) + 1e9 * np.eye(count)
        assert gaps.min() > 2 * radius
        assert (centers > radius).all() and (centers < (100, 98) - np.array(radius)).all()


def test_textures_change_the_inside():
    rng = np.random.default_rng(5)
    for shape in SHAPES:
        spread = {}
        for texture in ("plain", "striped", "dotted", "checkered", "bordered"):
            pixels = render(Scene(Concept(shape, "blue", texture), "one", "small", "center"), rng)
            spread[texture] = (pixels.min(-1) > 215).mean()
        assert min(share for texture, share in spread.items() if texture != "plain") > 5 * spread["plain"] + 0.002


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_encode(suffix):
    rng = np.random.default_rng(6)
    pixels = render(Scene(Concept("star", "red", "plain")), rng)
    image = Image.open(io.BytesIO(encode(pixels, suffix, rng)))
    assert image.format == {".jpg": "JPEG", ".png": "PNG"}[suffix] and image.size == pixels.shape[1::-1]


@pytest.mark.parametrize("motion", MOTIONS)
def test_clips_show_their_motion_at_one_frame_per_second(motion):
    rng = np.random.default_rng(7)
    scene = Scene(Concept("circle", "red", "plain"), motion=motion)
    data = clips.encode(render_clip(scene, rng))
    with av.open(io.BytesIO(data)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == [index / 4 for index in range(16)]
    seconds = [frame.to_ndarray(format="rgb24") for frame in frames[::4]]
    (x0, y0), (x1, y1) = center(seconds[0]), center(seconds[-1])
    grown = coloured(seconds[-1]).sum() / coloured(seconds[0]).sum()
    moved = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0}
    if motion in moved:
        assert moved[motion] > 0.25 and 0.7 < grown < 1.4
    else:
        assert grown > 2 if motion == "growing" else grown < 0.5
        assert max(moved.values()) < 0.06
