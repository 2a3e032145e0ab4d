"""Which part of the model a weight belongs to: for tables of parameters, learning rates and what is frozen."""

from __future__ import annotations

from collections.abc import Sequence

_DECODER = {
    "media_projection": "projection",
    "new_rows": "new_tokens",
    "new_head_rows": "new_tokens",
    "embedding": "embeddings",
    "graft": "cross_attention",
}


def part_of(path: Sequence[str]) -> str:
    """The part of a weight, given the names on the way to it in ``params`` or ``frozen``."""
    if path[0] in ("vision", "resampler"):
        return path[0]
    if path[0] == "decoder":
        path = path[1:]
    if path[0] in _DECODER:
        return _DECODER[path[0]]
    return "cross_attention" if "gated" in path else "language"
