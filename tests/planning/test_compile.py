"""What is planned is the step that the loop runs."""

import pathlib
import runpy

import pytest

from flamingo_jax import config as configs
from flamingo_jax.config import MeshConfig
from flamingo_jax.planning import compile as planned
from flamingo_jax.training import microbatch, sharding

BASE = pathlib.Path(__file__).parents[2] / "configs" / "base.py"


class Traced(Exception):
    pass


def test_a_plan_has_the_mixtures_microbatches(monkeypatch):
    config = runpy.run_path(str(BASE))["get_config"]()
    config.stages.language.mixture.text.microbatches = 4
    asked = []

    def stop(goal, pieces):
        asked.append(pieces)
        raise Traced

    monkeypatch.setattr(microbatch, "gradient", stop)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    with pytest.raises(Traced):
        planned.compile_step(configs.build(config), "language", mesh, None)
    assert asked == [4]
    config.stages.language.mixture.text.microbatches = 16
    with pytest.raises(ValueError, match=r"text.batch_size=32 .* or microbatches of 1, 2, 4, 8"):
        planned.compile_step(configs.build(config), "language", mesh, None)


def test_what_the_compiler_needs_is_read_from_its_refusal():
    reason = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (104.50G) exceeds available HBM (15.75G)."  # noqa: E501
    assert planned.TooLarge(reason).bytes == int(104.5 * 2**30) and planned.TooLarge("other").bytes == 0
