"""Several documents in one row: which ones, and how many tokens of each.

A caption fills half of a row of its own (ALIGN: 12.4 tokens of 32). Every row has ``pack`` documents, so that no medium
is padding, which costs far more than text; and the lengths of neighbouring rows are evened out.

    <BOS><image> a dog <EOC><EOS><BOS><image> a cat <EOC><EOS><PAD>      tokens
      1     1    1  1    1    1    2     2    2  2    2    2    0        segments: no document sees another
      0     1    1  1    1    1    0     2    2  2    2    2    0        media_index
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from flamingo_jax.config import ExampleConfig, MixConfig

_EVENED = 4  # rows among which lengths are evened out: what is cut off by then is little (benchmarks/packing.py)


def row_shape(config: ExampleConfig, mix: MixConfig) -> ExampleConfig:
    """The shape of a row of packed documents: L and N are the row's. Raises ValueError when a document does not fit."""
    if mix.pack == 1:
        return config
    if mix.row_length < config.length:
        raise ValueError(
            f"row_length={mix.row_length} is less than the {config.length} tokens that one document may have "
            f"(example.length); with pack={mix.pack}, give up to {mix.pack * config.length}."
        )
    return dataclasses.replace(config, length=mix.row_length, media=mix.pack * config.media)


def evened(mix: MixConfig) -> int:
    """Among how many neighbouring rows of a batch documents are exchanged, whatever host makes them."""
    return 1 if mix.pack == 1 else math.gcd(mix.rows, _EVENED)


def pack(lengths: Sequence[int], rows: int, length: int) -> list[list[tuple[int, int]]]:
    """Deals documents of ``lengths`` tokens out to ``rows`` rows of ``length`` tokens, as many to each.

    The longest go first and the rows take turns back and forth, so that their lengths come out even. Where they exceed
    a row nevertheless, its longest documents lose their ends.

    Returns:
        Per row (document, how many of its tokens) in the order of the documents.
    """
    if len(lengths) == 1:
        return [[(0, min(lengths[0], length))]]
    turns = [*range(rows), *reversed(range(rows))]
    dealt: list[dict[int, int]] = [{} for _ in range(rows)]
    for turn, document in enumerate(np.argsort(-np.asarray(lengths), kind="stable").tolist()):
        dealt[turns[turn % len(turns)]][document] = lengths[document]
    for row in dealt:
        for _ in range(sum(row.values()) - length):
            row[max(row, key=row.get)] -= 1
    return [sorted(row.items()) for row in dealt]
