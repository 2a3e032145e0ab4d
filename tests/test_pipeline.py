"""Stages that start from public checkpoints, as ``stages.STAGE.parts`` names them."""

import contextlib
import dataclasses
import pathlib
import runpy
import time
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax import config as configs
from flamingo_jax import pipeline, sources
from flamingo_jax.convert import run
from flamingo_jax.convert.load import find
from flamingo_jax.models.int8 import is_int8
from flamingo_jax.training import ending, goodput, sharding, state
from flamingo_jax.training.objective import OBJECTIVES

ROOT = pathlib.Path(__file__).parents[1]
LANGUAGE, VISION = (ROOT / "tests" / "golden" / name for name in ("language/qwen3", "vision/clip_vision_gelu"))


@pytest.fixture(scope="module")
def config():
    """The miniature on a public language model and a public encoder, whose class token it drops."""
    given = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]().to_dict()
    language, vision = find(LANGUAGE).config, find(VISION).config
    given["model"]["language"] = dataclasses.asdict(language) | {"max_positions": 128}  # base.py's pages have 112
    given["model"]["vision"] = dataclasses.asdict(vision) | {"patches_only": True, "pool": "none"}
    given["tokenizer"]["vocab_size"] = language.vocab_size
    given["order"], given["stages"] = ("flamingo",), {"flamingo": given["stages"]["flamingo"]}
    given["stages"]["flamingo"]["parts"] = {"language": str(LANGUAGE), "vision": str(VISION)}
    return configs.build(given)


def test_a_stage_starts_from_public_checkpoints(config, tmp_path):
    stage = config.stages["flamingo"]
    goal = OBJECTIVES["flamingo"](config.model, (1,), 0)
    mesh = sharding.make_mesh(configs.MeshConfig(), jax.devices()[:1])
    initial, frozen = pipeline._pretrained(stage, config, tmp_path, goal, mesh)
    assert initial == {} and set(frozen) == {"decoder", "vision"}
    weights = find(LANGUAGE).weights
    blocks = jax.tree.map(lambda leaf: leaf[:, 0], frozen["decoder"]["groups"]["language"]["blocks"])  # every=1
    chex.assert_trees_all_equal(jax.device_get(blocks), jax.tree.map(np.asarray, weights["language"]["blocks"]))
    state.weights(mesh, goal, config.datasets["m3w"].example)


@pytest.mark.parametrize("layout", ["", "orbax"])
def test_a_run_with_int8_is_evaluated_and_exported_with_the_numbers_that_it_trained_with(
    config, tmp_path, monkeypatch, layout
):
    """From a public folder, and from one that has 8 bits already."""
    stage, language = config.stages["flamingo"], str(LANGUAGE)
    if layout:
        language = str(tmp_path / "language")
        run.convert(run.open_source(str(LANGUAGE)), language, layout, "int8")
    stage = dataclasses.replace(stage, parts={**stage.parts, "language": language})
    model = dataclasses.replace(config.model, int8=True, dtype="bfloat16")
    config = dataclasses.replace(config, model=model, stages={"flamingo": stage})
    goal, mesh = OBJECTIVES["flamingo"](model, (1,), 0), sharding.make_mesh(configs.MeshConfig(), jax.devices()[:1])
    _, frozen = pipeline._pretrained(stage, config, tmp_path, goal, mesh)
    monkeypatch.setattr(sources.outcome, "load_result_weights", lambda *_: {"bridge": np.zeros(3, np.float32)})
    monkeypatch.setattr(sources, "run_tokenizer", lambda *_: types.SimpleNamespace(new_tokens=(1,), image=2))
    monkeypatch.setattr(sources, "_training", lambda *_: {})
    found = sources.finished(config, tmp_path, "flamingo")
    placed = found.place()["frozen"]
    chex.assert_trees_all_equal(jax.device_get(placed), jax.device_get(frozen))
    assert sum(map(is_int8, jax.tree.leaves(frozen, is_leaf=is_int8))) > 10
    exported = found.here().weights
    floats = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), frozen, is_leaf=is_int8)
    chex.assert_trees_all_equal(jax.device_get(exported["frozen"]), jax.device_get(floats))


@pytest.mark.parametrize("layout", ["orbax", "safetensors"])
def test_a_stage_starts_from_converted_checkpoints(config, tmp_path, layout):
    parts = {"language": LANGUAGE, "vision": VISION}
    for part, folder in parts.items():
        run.convert(run.open_source(str(folder)), str(tmp_path / part), layout)
    stage = config.stages["flamingo"]
    converted = dataclasses.replace(stage, parts={part: str(tmp_path / part) for part in parts})
    sources.check_folders("x", converted, config)
    goal = OBJECTIVES["flamingo"](config.model, (1,), 0)
    mesh = sharding.make_mesh(configs.MeshConfig(fsdp=2), jax.devices()[:2])
    (_, expected), (_, frozen) = (pipeline._pretrained(one, config, tmp_path, goal, mesh) for one in (stage, converted))
    chex.assert_trees_all_equal(jax.device_get(frozen), jax.device_get(expected))
    assert jax.tree.map(lambda leaf: leaf.sharding, frozen) == jax.tree.map(lambda leaf: leaf.sharding, expected)


def test_a_checkpoint_of_another_model_is_named(config, tmp_path):
    other = dataclasses.replace(config.model.language, epsilon=1e-3)
    changed = dataclasses.replace(config, model=dataclasses.replace(config.model, language=other))
    with pytest.raises(
        ValueError, match=r"qwen3 does not hold config\.model\.language: epsilon: 1e-06 there, 0\.001 here"
    ):
        sources.check_folders("config.stages.flamingo.parts", config.stages["flamingo"], changed)
    stage = dataclasses.replace(config.stages["flamingo"], parts={"language": str(tmp_path / "no/where")})
    with pytest.raises(ValueError, match=r"x\.language='.*no/where': There is no folder .*no/where"):
        sources.check_folders("x", stage, config)
    order = dataclasses.replace(changed, order=("flamingo",))
    with pytest.raises(ValueError, match=r"config\.stages\.flamingo\.parts\.language: .* does not hold"):
        pipeline.run(order, tmp_path)  # before anything is made
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error, said, drawn", [(None, 1, True), (ending.Ended(75, "SIGTERM"), 1, False), (ValueError("x"), 0, False)]
)
def test_where_the_time_went_is_said_when_a_run_ends_in_good_order(tmp_path, error, said, drawn):
    lines = []
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        with pipeline._ledger(tmp_path, lines.append, time.time() - 60) as ledger:
            ledger.begin()
            if error:
                raise error
    assert len(lines) == said and all(line.startswith("goodput: trained 0.0 % of 1:0") for line in lines)
    assert (tmp_path / "evaluation" / "goodput.png").exists() == drawn
    last = goodput.read(tmp_path / goodput.FILE)[-1]
    assert last["seconds"]["start"] >= 60 and last.get("complete", False) == drawn
