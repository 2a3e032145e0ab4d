"""Which part of the model a weight belongs to: for tables of parameters, learning rates and what is frozen."""

from __future__ import annotations

from collections.abc import Sequence

# part -> what it is, in the order of the data flow.
PARTS = {
    "vision": "vision encoder",
    "resampler": "Perceiver Resampler",
    "projection": "projection of the latents to the language model's width",
    "cross_attention": "gated cross-attention (and a graft's self-attention)",
    "new_tokens": "rows of the new tokens",
    "language": "blocks of the language model",
    "embeddings": "token table, positions and head",
}
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
