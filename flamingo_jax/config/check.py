"""The checks that the dataclasses of the configuration share."""

from __future__ import annotations

from flamingo_jax.config.suggest import suggest

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "squared_relu")


def choose(config, **options) -> None:
    """Raises ValueError when a field of ``config`` has a value that its option does not have."""
    for field, allowed in options.items():
        if getattr(config, field) not in allowed:
            raise ValueError(
                f"{field}={getattr(config, field)!r} is unknown; {suggest(getattr(config, field), allowed)}."
            )


def divide(width: int, heads: int, even: bool = True) -> int:
    """The head size. Raises ValueError when the heads do not divide the width, or the size is odd and may not be."""
    size = width // heads
    if width % heads or (even and size % 2):
        kind = "heads of even size" if even else "heads"
        raise ValueError(f"width {width} does not divide into {heads} {kind}; change one of them.")
    return size
