"""The time of a schedule: what overlaps counts once, loops as often as they run."""

import pathlib

import numpy as np
import pytest

from flamingo_jax.planning import links, program, schedule
from flamingo_jax.training.chips import CHIPS

CHIP = CHIPS["v5e"]
RING = links.Links(CHIP, np.array([(0, i) for i in range(4)]), (4,))
SIZE = 2**20
GATHER = 3 / 4 / 2 * SIZE / CHIP.link + 2e-6


def seconds(*lines):
    text = "\n".join(f"  %{line}" for line in lines)
    return schedule.estimate(program.read(f"ENTRY %main (a: f32[512,512]) -> f32[] {{\n{text}\n}}\n"), RING)


def product(name, took):
    cycles = round(took * CHIP.clock)
    return f'{name} = f32[512,512]{{1,0}} convolution(%a, %a), backend_config={{"estimated_cycles":"{cycles}"}}'


START = "s = (f32[128,512], f32[512,512]) all-gather-start(%a), replica_groups=[1,4]<=[4]"
DONE = "d = f32[512,512]{1,0} all-gather-done(%s)"
PARAMETER = "a = f32[512,512]{1,0} parameter(0)"


def test_what_is_alone_is_waited_for():
    found = seconds(PARAMETER, "g = f32[512,512]{1,0} all-gather(%a), replica_groups=[1,4]<=[4]")
    assert found.seconds == pytest.approx(GATHER) == found.waited["all-gather"]


@pytest.mark.parametrize("took", [GATHER / 2, 2 * GATHER])
def test_what_overlaps_counts_once(took):
    found = seconds(PARAMETER, START, product("p", took), DONE)
    assert found.seconds == pytest.approx(max(took, GATHER), rel=1e-3)
    assert found.waited["all-gather"] == pytest.approx(max(0, GATHER - took), abs=1e-9)
    assert found.busy["matrix"] == pytest.approx(took, rel=1e-3)


def test_two_collectives_share_the_links():
    other = START.replace("s =", "t ="), DONE.replace("d =", "e =").replace("%s", "%t")
    assert seconds(PARAMETER, START, other[0], DONE, other[1]).seconds == pytest.approx(2 * GATHER)


def test_permutes_of_opposite_ways_do_not():
    def permute(name, pairs):
        shape = "(f32[512,512], f32[512,512], u32[])"
        return f"{name} = {shape} collective-permute-start(%a), source_target_pairs={{{pairs}}}"

    def done(name):
        return f"{name}d = f32[512,512] collective-permute-done(%{name})"

    one = SIZE / CHIP.link + 1e-6
    both = PARAMETER, permute("s", "{0,1},{1,2}"), permute("t", "{1,0},{2,1}"), done("s"), done("t")
    assert seconds(*both).seconds == pytest.approx(one)
    same = PARAMETER, permute("s", "{0,1},{1,2}"), permute("t", "{0,1},{1,2}"), done("s"), done("t")
    assert seconds(*same).seconds == pytest.approx(2 * one)


def test_a_chain_of_products_takes_its_operations_at_the_chips_best():
    chip = CHIPS["v5p"]
    text = pathlib.Path(__file__).with_name("chain.txt").read_text()
    found = schedule.estimate(program.read(text), links.Links(chip, np.zeros((4, 2), int), (1,)))
    assert found.seconds == pytest.approx(10 * 2 * 4096 * 8192 * 8192 / chip.flops, rel=0.2)


@pytest.mark.parametrize("took", [GATHER / 2, 2 * GATHER])
def test_what_runs_inside_of_fusions_overlaps_too(took):
    """As the TPU's compiler has it: a fusion starts the gather, another one ends it, products stand between them."""
    gather = "  %g = f32[512,512]{1,0} all-gather(%a), channel_id=7, replica_groups=[1,4]<=[4]\n"
    text = "".join(
        f"%{name} (a: f32[512,512]) -> f32[512,512] {{\n  %a = f32[512,512]{{1,0}} parameter(0)\n{gather}"
        f'  ROOT %c = f32[512,512]{{1,0}} custom-call(%g), custom_call_target="AsyncCollective{name}"\n}}\n\n'
        for name in ("Start", "Done")
    )
    lines = [
        PARAMETER,
        "s = f32[512,512]{1,0} fusion(%a), kind=kCustom, calls=%Start",
        product("p", took),
        "d = f32[512,512]{1,0} fusion(%s), kind=kCustom, calls=%Done",
    ]
    text += "ENTRY %main (a: f32[512,512]) -> f32[] {\n" + "\n".join(f"  %{line}" for line in lines) + "\n}\n"
    found = schedule.estimate(program.read(text), RING)
    assert found.seconds == pytest.approx(max(took, GATHER), rel=1e-3)
    assert found.busy["all-gather"] == pytest.approx(GATHER)
    assert found.waited["all-gather"] == pytest.approx(max(0, GATHER - took), abs=1e-9)
