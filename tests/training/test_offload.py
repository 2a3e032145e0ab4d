"""``remat="offload"``: the inputs of groups of layers wait for the backward pass in the host's memory."""

import dataclasses
import re

import jax
import pytest
import updates

from flamingo_jax.training import sharding

MIXTURE = {"packed": updates.MIXTURE["packed"]}
MODEL = dataclasses.replace(updates.MODEL, remat="offload")


@pytest.mark.parametrize("remat, count", [("full", 0), ("offload", 1)])
def test_what_groups_keep_goes_to_the_host(remat, count):
    """The values of a piece's rows before each of two groups, and nothing else."""
    model = dataclasses.replace(MODEL, remat=remat)
    mesh, step, state, frozen = updates.prepare((2, 2, 2), mixture=MIXTURE, model=model)
    with sharding.use(mesh):
        trace = str(jax.make_jaxpr(step)(state, frozen, updates.feed(mesh, MIXTURE, 0)))
    rows = MIXTURE["packed"].rows // MIXTURE["packed"].microbatches
    kept = f"f32<host>[2,{rows},{MIXTURE['packed'].row_length},{MODEL.language.width}]"
    assert re.findall(r"\w+:(\S+<host>\S+) = scan", trace) == [kept] * count


@pytest.mark.slow
def test_updates_stay_the_same():
    found = updates.run((2, 2, 2), mixture=MIXTURE, model=MODEL)
    updates.assert_same(found, updates.run((2, 2, 2), mixture=MIXTURE))
