"""The outlines of the shapes, as loops of corner points."""

from __future__ import annotations

import numpy as np


def _polar(radii, degrees) -> np.ndarray:
    angles = np.radians(np.asarray(degrees, float))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _crescent() -> np.ndarray:
    outer = _polar(np.ones(33), np.linspace(52, 308, 33))
    # The inner arc runs back through the outer one's end points, bulging to the left.
    start, end = outer[-1], outer[0]
    center_x = start[0] + 0.02
    inner = np.linspace(-90, -270, 25)
    radius = abs(start[1] - end[1]) / 2
    bite = np.stack([center_x + 0.95 * radius * np.cos(np.radians(inner)), radius * np.sin(np.radians(inner))], 1)
    return np.concatenate([outer, bite]) + (0.18, 0.0)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, y / 16 - 0.05], 1)


def _cross(arm: float = 0.34, reach: float = 0.98) -> np.ndarray:
    a, r = arm, reach
    quarter = np.array([(-a, -r), (a, -r), (a, -a)])
    turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, n) for n in range(4)])


_ROUND = np.linspace(0, 360, 48, endpoint=False)
# Loops of corner points, the first filled and the second cut out; the unit circle is the object's diameter, y down.
OUTLINES = {
    "circle": [_polar(np.full(48, 0.95), _ROUND)],
    "square": [np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])],
    "triangle": [_polar(np.full(3, 1.12), (-90, 30, 150)) + (0, 0.22)],
    "star": [_polar(np.tile((1.08, 0.46), 5), np.arange(10) * 36 - 90) + (0, 0.06)],
    "heart": [_heart()],
    "cross": [_cross()],
    "ring": [_polar(np.full(48, 1.0), _ROUND), _polar(np.full(48, 0.44), _ROUND)],
    "crescent": [_crescent()],
    "diamond": [np.array([(0.0, -1.06), (0.68, 0.0), (0.0, 1.06), (-0.68, 0.0)])],
    "arrow": [
        np.array([(-1.0, -0.36), (0.08, -0.36), (0.08, -0.86), (1.04, 0.0), (0.08, 0.86), (0.08, 0.36), (-1.0, 0.36)])
    ],
}
