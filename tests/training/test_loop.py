"""The loop: what is killed and started again ends with the same bits."""

import dataclasses
import json
import re
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from small_stage import Killed, Numbers, stage

from flamingo_jax.config import ExampleConfig, MeshConfig, MixConfig
from flamingo_jax.training import ending, loop, metrics, microbatch, objective, outcome, placement, sharding
from flamingo_jax.training.step import make_step


@pytest.mark.parametrize("mesh", [pytest.param((1, 1, 1), marks=pytest.mark.slow), (2, 2, 2)], ids=str)
def test_interrupted_equals_undisturbed(model_config, tmp_path, mesh):
    mesh = sharding.make_mesh(MeshConfig(*mesh), jax.devices()[: int(np.prod(mesh))])

    def one(name, stream, **options):
        plain = stage(model_config, tmp_path / name, stream, mesh, **options)
        return dataclasses.replace(plain, config=dataclasses.replace(plain.config, profile=(3, 5)), flops=1e9)

    whole, last = loop.train(one("whole", Numbers()))
    with pytest.raises(Killed):
        loop.train(one("cut", Numbers(last=4), saved=True))
    said = []
    parts, again = loop.train(one("cut", Numbers()), said.append)
    assert said[:2] == ["language: continuing at step 4 of 6", "language: text: 48 documents (2.40 epochs), 576 tokens"]
    chex.assert_trees_all_equal(whole, parts)
    assert last == again
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1] and json.loads(logs[0].splitlines()[-1])["step"] == 6
    # Beside these: how fast it was, but for the first update of each process, and a profile, cut where the run was.
    speeds = [metrics.read(tmp_path / name, metrics.SPEED) for name in ("whole", "cut")]
    assert [[line["step"] for line in lines] for lines in speeds] == [[2, 3, 4, 5, 6], [2, 3, 4, 6]]
    for line in speeds[0] + speeds[1]:
        assert line["tokens_per_second"] == pytest.approx(8 * 12 / line["seconds_per_step"])
        assert line["tflops_per_device"] == pytest.approx(1e-3 / mesh.size / line["seconds_per_step"])
        assert 0 <= line["data_wait"] <= 1 and not {"mfu", "images_per_second"} & line.keys()
    for name in ("whole", "cut"):
        assert len(list((tmp_path / name).glob("profile/plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.slow
def test_an_interrupted_round_robin_keeps_its_turns_and_its_log(model_config, tmp_path):
    """Killed after the last whole round, of which the log's last line needs a loss."""
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    def in_turn(directory, last=None):
        streams = {"a": Numbers(last), "b": Numbers()}
        plain = stage(model_config, tmp_path / directory, None, mesh, steps=7, saved=True)
        mixture = {"a": MixConfig(8), "b": MixConfig(8, weight=0.2)}
        config = dataclasses.replace(plain.config, mixture=mixture, mixing="round_robin")
        examples = dict.fromkeys(streams, plain.examples["text"])
        return dataclasses.replace(plain, config=config, examples=examples, streams=streams)

    runs = [in_turn("whole"), in_turn("cut", last=3), in_turn("cut")]
    whole, last = loop.train(runs[0])
    with pytest.raises(Killed):
        loop.train(runs[1])
    said = []
    parts, again = loop.train(runs[2], said.append)
    assert said[0] == "language: continuing at step 4 of 7"
    chex.assert_trees_all_equal(whole, parts)
    assert last == again
    for run in (runs[0], runs[2]):
        assert {name: stream.next for name, stream in run.streams.items()} == {"a": 4, "b": 3}
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    lines = [json.loads(line) for line in logs[0].splitlines()]
    assert logs[0] == logs[1] and [line["step"] for line in lines] == [2, 4, 6, 7]
    assert all({"loss/a", "loss/b"} < set(line) for line in lines)
    assert lines[2]["loss/b"] == lines[3]["loss/b"] and lines[2]["loss/a"] != lines[3]["loss/a"]


def test_a_run_goes_on_with_another_mixture(model_config, tmp_path):
    """One dataset's batches are what they would have been, while another comes and a third goes."""
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    class Kept(Numbers):
        def __next__(self):
            taken.append(self.next)
            return super().__next__()

    def mixed(streams, **mixture):
        plain = stage(model_config, tmp_path, None, mesh, saved=True)
        config = dataclasses.replace(plain.config, mixture=mixture)
        examples = dict.fromkeys(streams, plain.examples["text"])
        return dataclasses.replace(plain, config=config, examples=examples, streams=streams)

    taken, said = [], []
    with pytest.raises(Killed):
        loop.train(mixed({"gone": Numbers(), "kept": Kept(last=4)}, gone=MixConfig(8), kept=MixConfig(8)))
    assert taken == [0, 1, 2, 3, 4]  # the last was asked for in vain
    after = {"kept": Kept(), "new": Numbers()}
    _, metrics = loop.train(mixed(after, kept=MixConfig(8, weight=0.3), new=MixConfig(8)), said.append)
    assert taken == [0, 1, 2, 3, 4, 4, 5] and after["new"].next == 2
    assert said[:4] == [
        "language: kept: weight is 0.3 from here on, and was 1.0",
        "language: new is new: it is read from its beginning",
        "language: gone is read no more; it had come to document 4",
        "language: continuing at step 4 of 6",
    ]
    assert metrics["seen/kept/documents"] == 48 and metrics["seen/new/documents"] == 16


@pytest.mark.parametrize("data, rounds, starving", [(0.2, 0, True), (0.02, 60000, False)])
def test_only_devices_that_stand_still_wait_for_data(model_config, tmp_path, monkeypatch, data, rounds, starving):
    """Batches take ``data`` seconds. A long update needs none meanwhile, a short one does."""

    class Slow(Numbers):
        def __next__(self):
            time.sleep(data)
            return super().__next__()

    def make_slow(*arguments):
        def slow(state, frozen, batches):
            state, metrics = make_step(*arguments)(state, frozen, batches)
            work = jax.lax.fori_loop(0, rounds, lambda _, x: jnp.sin(x @ x), jnp.ones((32, 32)))
            return state | {"step": state["step"] + (work[0, 0] > 2)}, metrics  # never

        return slow

    monkeypatch.setattr(loop, "make_step", make_slow)
    said, mesh = [], sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    loop.train(stage(model_config, tmp_path, Slow(), mesh), said.append)
    share = float(re.search(r"waited (.*)% of its time", said[-1])[1])
    assert share > 50 if starving else share == 0


def test_progress_counts_an_update_of_a_round_on_average(model_config, tmp_path):
    plain = stage(model_config, tmp_path, None, None)
    config = dataclasses.replace(plain.config, mixture={"a": MixConfig(8), "b": MixConfig(4)})
    examples = {"a": ExampleConfig(12), "b": ExampleConfig(8, frames=3)}
    mixed = dataclasses.replace(plain, config=config, examples=examples)
    assert loop._work_per_step(mixed, round_length=1) == {"tokens": 128, "images": 20}
    assert loop._work_per_step(mixed, round_length=2) == {"tokens": 64, "images": 10}


def test_a_mixtures_microbatches_are_those_of_its_steps(model_config, tmp_path, monkeypatch):
    """All documents of the whole batch are counted, and a change of pieces between two starts is said."""
    asked, gradient = [], microbatch.gradient
    monkeypatch.setattr(microbatch, "gradient", lambda goal, pieces: asked.append(pieces) or gradient(goal, pieces))
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    def cut(directory, pieces, last=None):
        plain = stage(model_config, tmp_path / directory, Numbers(last), mesh, steps=3, saved=True)
        return dataclasses.replace(
            plain, config=dataclasses.replace(plain.config, mixture={"text": MixConfig(8, microbatches=pieces)})
        )

    whole, _ = loop.train(cut("whole", 1), lambda _: None)
    with pytest.raises(Killed):
        loop.train(cut("cut", 2, last=2))
    said = []
    pieces, metrics = loop.train(cut("cut", 4), said.append)
    assert asked == [1, 2, 4] and said[0] == "language: text: microbatches is 4 from here on, and was 2"
    assert metrics["seen/text/documents"] == 24 and metrics["seen/text/tokens"] == 24 * 12
    chex.assert_trees_all_close(pieces, whole, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_continues_on_another_mesh(model_config, tmp_path):
    with pytest.raises(Killed):
        mesh = sharding.make_mesh(MeshConfig(8, 1, 1))
        loop.train(stage(model_config, tmp_path, Numbers(last=3), mesh, saved=True))
    mesh = sharding.make_mesh(MeshConfig(1, 4, 2))
    moved, _ = loop.train(stage(model_config, tmp_path, Numbers(), mesh), lambda _: None)
    straight, _ = loop.train(stage(model_config, tmp_path / "straight", Numbers(), mesh))
    chex.assert_trees_all_close(moved, straight, rtol=1e-3, atol=1e-4)


def test_weights_are_stored_once_by_content(tmp_path):
    weights = {"a": {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3)}}
    first = outcome.store_weights(tmp_path, "vision", weights)
    assert outcome.store_weights(tmp_path, "vision", weights) == first
    assert outcome.store_weights(tmp_path, "vision", {"a": {"kernel": weights["a"]["kernel"] + 1}}) != first
    chex.assert_trees_all_equal(outcome.load_weights(tmp_path, first), weights)


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(ValueError, match="Stage 'language' has no result"):
        outcome.load_result_weights(tmp_path, "language")


def test_frozen_weights_that_do_not_fit_are_listed(model_config, flamingo, tmp_path):
    goal = objective.flamingo(model_config, new_tokens=(3,), pad=0)
    example = ExampleConfig(length=12, media=3, size=16)
    mesh = sharding.make_mesh(MeshConfig())
    frozen = flamingo[1]["frozen"]
    initial, placed = placement.place_parts(mesh, goal, example, frozen, "float32")
    assert initial == {}
    chex.assert_trees_all_equal(jax.device_get(placed), jax.device_get(frozen))
    broken = {**frozen, "decoder": {**frozen["decoder"], "norm": {"scale": np.zeros(5)}, "extra": np.zeros(1)}}
    with pytest.raises(ValueError, match=r"(?s)decoder/extra.*nothing.*decoder/norm/scale.*\(32,\).*\(5,\)"):
        placement.place_parts(mesh, goal, example, broken, "float32")


class Pages(Numbers):
    """Batches of pages with pictures."""

    def __next__(self):
        rng = np.random.default_rng(self.next)
        media = rng.integers(0, 256, (8, 3, 1, 16, 16, 3)).astype(np.uint8)
        index = np.sort(rng.integers(0, 4, (8, 12))).astype(np.int32)
        return super().__next__() | {"media": media, "media_index": index, "media_mask": np.ones((8, 3), bool)}


def test_training_leaves_the_frozen_weights_as_they_were(model_config, flamingo, tmp_path):
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    goal = objective.flamingo(model_config, new_tokens=(3,), pad=0)
    example = ExampleConfig(length=12, media=3, size=16)
    _, frozen = placement.place_parts(mesh, goal, example, flamingo[1]["frozen"], "float32")
    plain = stage(model_config, tmp_path, Pages(), mesh, steps=3)
    pages = dataclasses.replace(plain, name="flamingo", objective=goal, examples={"text": example}, frozen=frozen)
    params, metrics = loop.train(pages)
    chex.assert_trees_all_equal(jax.device_get(frozen), jax.device_get(flamingo[1]["frozen"]))
    assert set(params) == {"resampler", "decoder"} and {"gate/attention/0", "loss/text"} < set(metrics)
    table = {"query": ("fsdp", "tensor", None), "out": ("tensor", None, "fsdp")}
    for name, axes in table.items():  # trained and stored as the table of sharding.py says
        for tree in (params["resampler"]["layers"], params["decoder"]["groups"]["gated"]):
            assert tree["attention"][name]["kernel"].sharding.spec == PartitionSpec(None, *axes)
    assert frozen["decoder"]["embedding"]["table"].sharding.spec == PartitionSpec("tensor", None)


def test_a_part_that_is_not_frozen_starts_from_its_weights_and_trains(model_config, flamingo, tmp_path):
    """The ablations: language model and embeddings train along, from where they were, at rates of their own."""
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    goal = objective.flamingo(dataclasses.replace(model_config, frozen=("vision",)), new_tokens=(3,), pad=0)
    example = ExampleConfig(length=12, media=3, size=16)
    given = jax.device_get(flamingo[1]["frozen"])
    initial, frozen = placement.place_parts(mesh, goal, example, given, "float32")
    assert set(frozen) == {"vision"} and set(initial) == {"decoder"}
    plain = stage(model_config, tmp_path, Pages(), mesh, steps=2)
    rates = {"embeddings": 0.0, "language": 0.1}
    config = dataclasses.replace(plain.config, optimizer=dataclasses.replace(plain.config.optimizer, rates=rates))
    more = {"objective": goal, "examples": {"text": example}, "frozen": frozen, "initial": initial, "config": config}
    params, _ = loop.train(dataclasses.replace(plain, name="flamingo", **more))
    params = jax.device_get(params)
    chex.assert_trees_all_equal(params["decoder"]["embedding"], given["decoder"]["embedding"])
    before, after = (tree["decoder"]["groups"]["language"]["blocks"] for tree in (given, params))
    moves = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert all(0 < move < 5e-3 for move in jax.tree.leaves(moves))


def test_an_update_that_is_not_finite_is_not_made(model_config, tmp_path):
    """The run ends with the weights of one that never saw its batch; past the budget it ends with a code of its own."""
    mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])

    class Bad(Numbers):
        bad, left_out = (), ()

        def __next__(self):
            while self.next in self.left_out:
                self.next += 1
            now = self.next
            batch = super().__next__()
            return batch | {"weights": batch["weights"] * np.float32(np.nan if now in self.bad else 1)}

        def records(self, state):
            return [("file", state)]

    bad, without = Bad(), Bad()
    bad.bad, without.left_out = (2,), (2,)
    said = []
    skipped, metrics = loop.train(stage(model_config, tmp_path / "bad", bad, mesh, steps=5), said.append)
    expected, plain = loop.train(stage(model_config, tmp_path / "without", without, mesh, steps=4))
    chex.assert_trees_all_equal(skipped, expected)
    assert metrics["skipped"] == 1 and plain["skipped"] == 0
    assert "language: update 3 was not made: grad_norm nan, loss/text nan" in said
    bad = Bad()
    bad.bad = tuple(range(2, 6))
    one = stage(model_config, tmp_path / "worse", bad, mesh, steps=9)
    with pytest.raises(ending.Ended) as end:
        loop.train(dataclasses.replace(one, config=dataclasses.replace(one.config, max_skipped=3)))
    assert end.value.code == ending.DIVERGED and "step 6, text: file:5" in end.value.sentence
