"""Collectives over a torus of 4 x 4: rings in both directions, along as many axes as a group reaches over."""

import itertools

import numpy as np
import pytest

from flamingo_jax.planning import links, program
from flamingo_jax.training.chips import CHIPS

CHIP = CHIPS["v5e"]
PLACES = np.array([(0, x, y) for x, y in itertools.product(range(4), range(4))])
TORUS = links.Links(CHIP, PLACES, (4, 4))
TWO = links.Links(CHIP, np.array([(s, x, y) for s in range(2) for _, x, y in PLACES[:4]]), (1, 4))
LARGE, SIZE = "f32[8192,8192]{1,0}", 2**28  # bytes


def operation(line):
    return program.read(f"ENTRY %main (a: f32[]) -> f32[] {{\n  ROOT %x = {line}\n}}\n").computations["main"][0]


def close(seconds, expected):
    """Within the microseconds that hops take."""
    assert expected <= seconds < expected + 8e-6


@pytest.mark.parametrize(
    "kind, groups, share",
    [
        ("all-gather", "[4,4]<=[16]", 3 / 4 / 2),  # rows: one ring, both ways
        ("all-gather", "[4,4]<=[4,4]T(1,0)", 3 / 4 / 2),  # columns
        ("all-gather", "[1,16]<=[16]", 15 / 16 / 4),  # both axes at once
        ("all-gather", "{{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}", 1 / 2),  # one link
        ("all-reduce", "[4,4]<=[16]", 2 * 3 / 4 / 2),
        ("all-reduce", "[16,1]<=[16]", 0),
    ],
)
def test_rings(kind, groups, share):
    found = operation(f"{LARGE} {kind}(%a), replica_groups={groups}, dimensions={{0}}")
    assert links.kind_of(found) == kind and links.bytes_of(found) == SIZE
    close(TORUS.seconds(found), share * SIZE / CHIP.link)


def test_a_reduce_scatter_moves_what_it_is_given():
    found = operation(f"{LARGE} reduce-scatter(%a), replica_groups=[4,4]<=[16], dimensions={{0}}")
    assert links.bytes_of(found) == 4 * SIZE
    close(TORUS.seconds(found), 4 * SIZE * 3 / 4 / 2 / CHIP.link)


@pytest.mark.parametrize("pairs, hops, way", [("{0,1},{1,2}", 1, (0, 1)), ("{3,0}", 1, (0, 1)), ("{0,5}", 2, (1, 1))])
def test_permutes(pairs, hops, way):
    line = f"({LARGE}, {LARGE}, u32[]) collective-permute-start(%a), source_target_pairs={{{pairs}}}"
    found = operation(line)
    assert links.kind_of(found) == "collective-permute" and TORUS.way(found) == way
    close(TORUS.seconds(found), hops * SIZE / CHIP.link)


def test_between_slices_the_network_counts():
    """Each device of a slice of four brings its own quarter across."""
    found = operation(f"{LARGE} all-reduce(%a), replica_groups=[1,8]<=[8]")
    inside, across = 2 * 3 / 4 / 2 * SIZE / CHIP.link, 2 * 1 / 2 * SIZE / 4 / CHIP.network
    close(TWO.seconds(found), inside + across)


def test_groups():
    assert links.groups_of("replica_groups={{0,2},{1,3}}", 4) == [[0, 2], [1, 3]]
    assert links.groups_of("replica_groups=[2,2]<=[4]", 4) == [[0, 1], [2, 3]]
    assert links.groups_of("replica_groups=[2,2]<=[2,2]T(1,0)", 4) == [[0, 2], [1, 3]]
    mesh = "replica_groups=mesh['a'=2,'b'=2,'c'=2]"
    assert links.groups_of(mesh + " {'b'}", 8) == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert links.groups_of(mesh + " {'a','c'}", 8) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert links.groups_of(mesh + ", dimensions={0}", 8) == [[i] for i in range(8)]
    turned = "replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}"
    assert links.groups_of(turned, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="No groups of devices are known in 'replica_groups=some'"):
        links.groups_of("replica_groups=some", 8)
    assert links.groups_of("replica_groups={}", 3) == [[0, 1, 2]]
