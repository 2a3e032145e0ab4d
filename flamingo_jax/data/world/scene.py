"""Renders scenes: anti-aliased objects over neutral backgrounds, with nuisance variation, as arrays of pixels.

Lengths are fractions of the picture's longest side, so that what is readable at one size is readable at any.
"""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
from PIL import Image, ImageDraw

from flamingo_jax.data.world.attributes import COUNTS, Scene, pick
from flamingo_jax.data.world.outlines import OUTLINES

SIDES = (72, 128)  # pixels of the longest side
SUPERSAMPLING = 4
SMALL_DIAMETERS = (0.31, 0.34)
LARGE_DIAMETERS = {"four": (0.42, 0.45), "three": (0.42, 0.45), "two": (0.43, 0.47), "one": (0.44, 0.50)}
CENTERED_DIAMETERS = (0.44, 0.62)  # a single large object in the center has the most room
CLIP_SIZE = (96, 72)
CLIP_FRAMES = 16
# Hue in degrees, saturation, value: apart from one another, under the jitter below too.
_COLOURS = {
    "red": (0, 0.92, 0.86),
    "orange": (28, 0.95, 0.98),
    "yellow": (55, 0.90, 0.98),
    "green": (125, 0.80, 0.62),
    "cyan": (183, 0.78, 0.92),
    "blue": (225, 0.90, 0.82),
    "purple": (280, 0.80, 0.60),
    "pink": (332, 0.40, 1.00),
}
_PNG_FRACTION = 0.1
_JPEG_QUALITIES = (80, 96)
_HUE_JITTER = 5.0
_BRIGHTNESS_JITTER = 0.08
_ROTATION = math.radians(10)  # more would turn squares into diamonds
# Marks are pale on dark colours and dark on pale ones; backgrounds keep away from both tones.
_PALE, _DARK = 248.0, 12.0
_PALE_MARKS = frozenset(("red", "green", "blue", "purple"))
_BACKGROUND_TONES = (92.0, 185.0)
_STRIPE_PERIOD, _DOT_PERIOD, _DOT_RADIUS, _CHECK_PERIOD, _BORDER = 0.105, 0.115, 0.032, 0.155, 0.045
_FULL_PERIOD_DIAMETER = 0.45  # marks are as given on objects of this diameter, and finer on smaller ones


def render(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A picture of a still scene: uint8 [height, width, 3], sides 72 to 128 pixels, aspect at most 1.5."""
    count = 1 + COUNTS.index(scene.count)
    widest = 1.5  # longest side over shortest, as far as the objects leave room
    if scene.size == "large" or count > 2:
        widest = 1.03 if scene.size == "large" and count > 2 else 1.15
    longest = int(rng.integers(SIDES[0], SIDES[1] + 1))
    shortest = max(SIDES[0], round(longest / rng.uniform(1.0, widest)))
    width, height = (longest, shortest) if rng.random() < 0.5 else (shortest, longest)
    diameter = longest * rng.uniform(*_diameters(scene))
    if count == 1:
        centers = [_place(scene.place, width, height, diameter / 2, rng)]
    else:
        centers = _scatter(count, width, height, diameter / 2, rng)
    pixels = _background(width, height, rng)
    tones, texture = _tones(scene, rng), _texture(scene, longest, diameter, rng)
    for center in centers:
        _draw(pixels, scene.concept, center, diameter, rng.uniform(-_ROTATION, _ROTATION), tones, texture, longest)
    return _noise(pixels, rng.uniform(1.0, 6.0), rng)


def render_clip(scene: Scene, rng: np.random.Generator) -> list[np.ndarray]:
    """A clip of one moving, growing or shrinking object: ``CLIP_FRAMES`` pictures, uint8 [72, 96, 3]."""
    width, height = CLIP_SIZE
    small, large = width * rng.uniform(0.22, 0.27), width * rng.uniform(0.50, 0.58)
    steady = width * rng.uniform(0.29, 0.35)
    start, end = {"growing": (small, large), "shrinking": (large, small)}.get(scene.motion, (steady, steady))
    path = _path(scene.motion, width, height, steady / 2, rng)
    background = _background(width, height, rng)
    tones, texture, angle = _tones(scene, rng), _texture(scene, width, steady, rng), rng.uniform(-_ROTATION, _ROTATION)
    noise = rng.uniform(0.5, 2.5)
    frames = []
    for step in range(CLIP_FRAMES):
        done = step / (CLIP_FRAMES - 1)
        center = tuple(a + (b - a) * done for a, b in zip(*path, strict=True))
        pixels = background.copy()
        _draw(pixels, scene.concept, center, start + (end - start) * done, angle, tones, texture, width)
        frames.append(_noise(pixels, noise, rng))
    return frames


def _diameters(scene: Scene) -> tuple[float, float]:
    if scene.size == "small":
        return SMALL_DIAMETERS
    return CENTERED_DIAMETERS if scene.place == "center" else LARGE_DIAMETERS[scene.count]


def _place(place: str | None, width: int, height: int, radius: float, rng: np.random.Generator) -> tuple[float, float]:
    """The center of a single object: near the named edge, or near the middle."""
    x, y = (side * rng.uniform(0.44, 0.56) for side in (width, height))
    near = radius + 1 + rng.uniform(0.0, 0.03) * max(width, height)
    return {"left": (near, y), "right": (width - near, y), "top": (x, near), "bottom": (x, height - near)}.get(
        place, (width / 2 + (x - width / 2) / 2, height / 2 + (y - height / 2) / 2)
    )


def _scatter(count: int, width: int, height: int, radius: float, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centers of ``count`` objects that do not touch: thrown at random, or on a grid where throwing finds no room."""
    margin, apart = radius + 1, (2.12 * radius + 1) ** 2
    for _ in range(8):
        found: list[tuple[float, float]] = []
        throws = rng.uniform((margin, margin), (width - margin, height - margin), (3 * count, 2)).tolist()
        for x, y in throws:
            if len(found) < count and all((x - a) ** 2 + (y - b) ** 2 > apart for a, b in found):
                found.append((x, y))
        if len(found) == count:
            return found
    columns, rows = (2, 2) if count > 2 else (2, 1) if width >= height else (1, 2)
    cell_width, cell_height = width / columns, height / rows
    slack_x, slack_y = (max(0.0, cell / 2 - 1.03 * radius - 0.5) for cell in (cell_width, cell_height))
    return [
        (
            (cell % columns + 0.5) * cell_width + rng.uniform(-slack_x, slack_x),
            (cell // columns + 0.5) * cell_height + rng.uniform(-slack_y, slack_y),
        )
        for cell in rng.permutation(columns * rows)[:count].tolist()
    ]


def _path(motion: str, width: int, height: int, radius: float, rng: np.random.Generator):
    """(start, end) of the object's center; one that grows or shrinks stays about where it is."""
    x, y = width * rng.uniform(0.42, 0.58), height * rng.uniform(0.44, 0.56)
    near_x, near_y = (radius * rng.uniform(0.9, 1.2) for _ in range(2))
    left, right = (near_x, y), (width - near_x, y)
    top, bottom = (x, near_y), (x, height - near_y)
    paths = {"left": (right, left), "right": (left, right), "up": (bottom, top), "down": (top, bottom)}
    return paths.get(motion, ((x, y), (x, y)))


def _background(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Neutral: one tone, a gradient of two, or soft clouds. float32 [height, width, 3]."""
    tone = rng.uniform(*_BACKGROUND_TONES)
    tint = rng.uniform(-9, 9, 3).astype(np.float32)
    kind = rng.random()
    if kind < 0.3:
        return np.full((height, width, 3), tone + tint, np.float32)
    corners = (2, 2) if kind < 0.65 else tuple(rng.integers(4, 11, 2).tolist())
    strength = rng.uniform(10, 45) if kind < 0.65 else rng.uniform(6, 18)
    coarse = np.clip(tone + rng.uniform(-strength, strength, corners), *_BACKGROUND_TONES).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    return smooth[..., None] + tint


def _tones(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """The object's jittered colour, float32 [3], and the tone of its marks."""
    hue, saturation, value = _COLOURS[scene.concept.colour]
    hue = (hue + rng.uniform(-_HUE_JITTER, _HUE_JITTER)) / 360 % 1
    value = min(1.0, value * rng.uniform(1 - _BRIGHTNESS_JITTER, 1 + _BRIGHTNESS_JITTER))
    colour = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation * rng.uniform(0.94, 1.0), value), np.float32)
    return colour, _PALE if scene.concept.colour in _PALE_MARKS else _DARK


def _texture(scene: Scene, longest: int, diameter: float, rng: np.random.Generator) -> tuple[float, ...]:
    """(angle, scale in pixels, phase, phase) of the marks, the same on all objects of a picture."""
    # Stripes are oblique: along a shape's own axis they would be one or two, and look like a part of the shape.
    oblique = pick(rng, (math.pi / 4, -math.pi / 4)) if scene.concept.texture == "striped" else 0.0
    angle = oblique + rng.uniform(-_ROTATION, _ROTATION)
    scale = longest * rng.uniform(0.95, 1.05) * min(1.2, math.sqrt(diameter / longest / _FULL_PERIOD_DIAMETER))
    return angle, scale, rng.uniform(0, 1), rng.uniform(0, 1)


def _draw(pixels: np.ndarray, concept, center, diameter, angle, tones, texture, longest) -> None:
    """Composites one object onto ``pixels`` (float32 [height, width, 3]) in place."""
    height, width = pixels.shape[:2]
    border = _BORDER * longest if concept.texture == "bordered" else 0.0
    reach = math.ceil(diameter * 0.56 + border / 2) + 1
    left, top = max(0, int(center[0]) - reach), max(0, int(center[1]) - reach)
    right, bottom = min(width, int(center[0]) + reach + 1), min(height, int(center[1]) + reach + 1)
    radius = diameter / 2 - 0.3 * border
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    turn = np.array(((cos, sin), (-sin, cos)))
    offset = (center[0] - left + 0.5, center[1] - top + 0.5)
    loops = [((loop @ turn + offset) * SUPERSAMPLING).ravel().tolist() for loop in OUTLINES[concept.shape]]
    size = (right - left, bottom - top)
    mask, edge = _masks(loops, size, border)
    colour, mark = tones
    if concept.texture == "plain":
        paint = colour
    else:
        marks = edge if border else _marks(concept.texture, size, center[0] - left, center[1] - top, texture)
        paint = colour + marks[..., None] * (mark - colour)
    patch = pixels[top:bottom, left:right]
    patch += mask[..., None] * (paint - patch)


def _masks(loops, size, border: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Coverage of the outline's inside, float32 [height, width] in 0..1, and of its edge where it has a border."""
    big = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    inside = Image.new("L", big)
    draw = ImageDraw.Draw(inside)
    for fill, loop in zip((255, 0), loops, strict=False):
        draw.polygon(loop, fill=fill)
    mask = np.asarray(inside.reduce(SUPERSAMPLING), np.float32) / 255
    if not border:
        return mask, None
    # Half of the border lies outside of the outline: thin shapes keep an inside whose colour shows.
    line = Image.new("L", big)
    draw = ImageDraw.Draw(line)
    for loop in loops:
        draw.line(loop + loop[:4], fill=255, width=round(border * SUPERSAMPLING), joint="curve")
    edge = np.asarray(line.reduce(SUPERSAMPLING), np.float32) / 255
    return np.maximum(mask, edge), edge


def _marks(kind: str, size, x: float, y: float, texture) -> np.ndarray:
    """Coverage of stripes, dots or checks, float32 [height, width] in 0..1, edges about one pixel wide."""
    angle, scale, phase_u, phase_v = texture
    across = np.arange(size[0], dtype=np.float32) + (0.5 - x)
    down = (np.arange(size[1], dtype=np.float32) + (0.5 - y))[:, None]
    cos, sin = math.cos(angle), math.sin(angle)
    period = scale * {"striped": _STRIPE_PERIOD, "dotted": _DOT_PERIOD, "checkered": _CHECK_PERIOD}[kind]
    u = (across * cos + down * sin) / period + phase_u
    if kind == "striped":
        return np.clip(0.5 + np.sin(2 * np.pi * u) * (period / 6), 0, 1)
    v = (down * cos - across * sin) / period + phase_v
    if kind == "checkered":
        return np.clip(0.5 + np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v) * (period / 4), 0, 1)
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.clip(0.5 + scale * _DOT_RADIUS - period * np.sqrt(u * u + v * v), 0, 1)


def _noise(pixels: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Sensor noise of the given standard deviation (uniform: bytes are the fastest to draw), then uint8."""
    grain = np.frombuffer(rng.bytes(pixels.size), np.uint8).reshape(pixels.shape)
    return np.clip(pixels + (grain - np.float32(127.5)) * np.float32(strength / 73.9), 0, 255).astype(np.uint8)


def draw_suffix(rng: np.random.Generator) -> str:
    """The format of a picture's file: most are JPEGs, some are PNGs."""
    return ".png" if rng.random() < _PNG_FRACTION else ".jpg"


def encode(pixels: np.ndarray, suffix: str, rng: np.random.Generator) -> bytes:
    """The picture as the bytes of a PNG, or of a JPEG of random quality."""
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(*_JPEG_QUALITIES)))
    return buffer.getvalue()
