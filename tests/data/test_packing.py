"""Packing: every document once, as many to each row, even lengths."""

import numpy as np
import pytest

from flamingo_jax.config import ExampleConfig, MixConfig
from flamingo_jax.data import packing


def test_every_document_stands_in_one_row():
    rng = np.random.default_rng(0)
    for rows in (1, 2, 4):
        lengths = rng.integers(0, 30, 8 * rows).tolist()
        packed = packing.pack(lengths, rows, 1000)
        assert [len(row) for row in packed] == [8] * rows
        assert sorted(entry for row in packed for entry in row) == list(enumerate(lengths))
        assert all(row == sorted(row) for row in packed)


def test_lengths_come_out_even():
    rng = np.random.default_rng(0)
    spread, alone = [], []
    for _ in range(200):
        lengths = np.minimum(4 + rng.poisson(rng.gamma(4, 3.1, 32)), 32).tolist()
        sums = [sum(length for _, length in row) for row in packing.pack(lengths, 4, 1000)]
        spread.append(max(sums) - min(sums))
        alone.append(np.ptp(np.reshape(lengths, (4, 8)).sum(1)))
    assert np.mean(spread) < np.mean(alone) / 4


def test_what_exceeds_a_row_is_cut_from_its_longest():
    assert packing.pack([5, 9, 2, 8], 1, 18) == [[(0, 5), (1, 5), (2, 2), (3, 6)]] or packing.pack(
        [5, 9, 2, 8], 1, 18
    ) == [[(0, 5), (1, 6), (2, 2), (3, 5)]]
    assert sum(length for _, length in packing.pack([30] * 8, 1, 100)[0]) == 100
    assert packing.pack([3, 3], 1, 6) == [[(0, 3), (1, 3)]]


def test_row_shapes():
    example = ExampleConfig(32, media=2, frames=3)
    assert packing.row_shape(example, MixConfig(8)) is example
    row = packing.row_shape(example, MixConfig(8, pack=4, row_length=80))
    assert (row.length, row.media, row.frames) == (80, 8, 3)
    with pytest.raises(ValueError, match=r"row_length=31 .* 32 tokens .*pack=2.* up to 64"):
        packing.row_shape(example, MixConfig(8, pack=2, row_length=31))
    assert [packing.evened(MixConfig(*mix)) for mix in ((8,), (8, 1, 4, 80), (32, 1, 4, 80), (48, 1, 4, 80))] == [
        1, 2, 4, 4,
    ]  # fmt: skip


def test_bad_mixtures_are_named():
    for fields, message in [
        ({"pack": 2}, "pack=2 with row_length=0"),
        ({"row_length": 10}, "pack=1 with row_length=10"),
        ({"pack": 3, "row_length": 9}, "batch_size=8 documents .* pack=3"),
    ]:
        with pytest.raises(ValueError, match=message):
            MixConfig(8, **fields)
