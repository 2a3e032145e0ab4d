"""Media: looks, colours, padding, the cache."""

import io

import numpy as np
import pytest
from PIL import Image

from flamingo_jax.config import ColourConfig, ExampleConfig
from flamingo_jax.data import image, medium

MEAN = (124, 116, 104)
STRONG = ColourConfig(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def picture(width=12, height=8, seed=0, format="PNG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue(), pixels


def test_the_middle_of_all_draws_changes_nothing():
    np.testing.assert_allclose(medium.colour_map(STRONG, MEAN, [0.5] * 4), np.eye(3, 4), atol=1e-6)


def test_each_colour_change_does_what_its_name_says():
    pixel = np.array([200.0, 100.0, 50.0])

    def changed(draws, **config):
        mapped = medium.colour_map(ColourConfig(**config), MEAN, draws)
        return mapped[:, :3] @ pixel + mapped[:, 3]

    grey = pixel @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(changed([1, 0.5, 0.5, 0.5], brightness=0.2), 1.2 * pixel, rtol=1e-5)
    np.testing.assert_allclose(changed([0.5, 0, 0.5, 0.5], contrast=0.5), (pixel + MEAN) / 2, rtol=1e-5)
    np.testing.assert_allclose(changed([0.5, 0.5, 0, 0.5], saturation=1.0), [grey] * 3, rtol=1e-5)
    turned = changed([0.5, 0.5, 0.5, 1], hue=1 / 3)
    assert turned @ [0.299, 0.587, 0.114] == pytest.approx(grey, rel=1e-4)  # as bright as before
    assert np.argmax(turned) != np.argmax(pixel)
    np.testing.assert_allclose(changed([0.5, 0.5, 0.5, 1], hue=0.5), changed([0.5, 0.5, 0.5, 0], hue=0.5), rtol=1e-4)


def test_a_map_is_applied_to_the_picture_and_not_to_its_padding():
    data, pixels = picture()
    config = ExampleConfig(8, size=12, colour=STRONG)
    look = medium.Look(colour=medium.colour_map(STRONG, MEAN, [0.9, 0.1, 0.8, 0.2]))
    out = medium.load([data], config, look)[0]
    assert (out[:2] == MEAN).all() and (out[10:] == MEAN).all()
    want = pixels @ look.colour[:, :3].T + look.colour[:, 3]
    assert np.abs(out[2:10] - np.clip(want, 0, 255)).max() < 1


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (12, 12)])
@pytest.mark.parametrize("colour", [None, np.eye(3, 4, dtype=np.float32)], ids=["plain", "colour"])
def test_mirrored_is_mirrored(shape, colour):
    data, _ = picture(*shape)
    config = ExampleConfig(8, size=12)
    plain, mirrored = (medium.load([data], config, medium.Look(flip=flip, colour=colour)) for flip in (False, True))
    assert (mirrored == plain[:, :, ::-1]).all() and (mirrored != plain).any()


def test_looks_are_drawn_as_often_as_the_config_says():
    config = ExampleConfig(8, frames=2, flip=0.25, colour=ColourConfig(brightness=0.1))
    rng = np.random.default_rng(0)
    looks = [medium.choose_look(5, rng.random(medium.DRAWS).tolist(), config) for _ in range(400)]
    assert {look.first for look in looks} == {0, 1, 2, 3}
    assert 0.18 < np.mean([look.flip for look in looks]) < 0.32
    factors = [look.colour[0, 0] for look in looks]
    assert 0.9 <= min(factors) < 0.92 and 1.08 < max(factors) <= 1.1
    assert medium.choose_look(1, [0.0] * medium.DRAWS, ExampleConfig(8)) == medium.PLAIN


def test_frames_of_a_clip_look_alike_and_the_last_is_repeated():
    data, _ = picture()
    look = medium.Look(1, True, medium.colour_map(STRONG, MEAN, [0.2] * 4))
    out = medium.load([b"not looked at", data, data], ExampleConfig(8, frames=4, size=12), look)
    assert (out == out[0]).all()


def test_a_medium_without_frames_is_none():
    with pytest.raises(ValueError, match="without frames"):
        medium.load([], ExampleConfig(8, size=12))


def test_the_cache_decodes_once_until_it_is_full(monkeypatch):
    decoded = []

    def decode(data, size):
        decoded.append(data)
        return pixels[data]

    pixels = {bytes([i]): np.full((8, 8, 3), i, np.uint8) for i in range(4)}
    monkeypatch.setattr(image, "decode", decode)
    monkeypatch.setattr(medium, "_CACHE_BYTES", 2 * 192)
    known = medium.cached()
    for data in (b"\0", b"\1", b"\0", b"\1", b"\2"):
        assert (known(data, 8) == data[0]).all()
    assert decoded == [b"\0", b"\1", b"\2"]
    assert known(b"\2", 8) is None and known(b"\0", 8) is None  # the third did not fit: no cache from there on
