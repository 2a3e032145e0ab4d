"""Losses on what is not trained on: which, when, and that none is missed."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_stage import Killed, Numbers, stage

from flamingo_jax.config import MeshConfig, MixConfig
from flamingo_jax.training import ending, lookout, loop, metrics, sharding, validation
from flamingo_jax.training.checkpoint import find

ONE = MeshConfig(1, 1, 1)


class Held(Numbers):
    """Batches of other numbers than the training's. It breaks off at its batch ``last``."""

    def __next__(self):
        if self.next == self.last:
            raise Killed
        self.next += 100
        try:
            return super().__next__()
        finally:
            self.next -= 100


def validated(model_config, directory, last=None, steps=6, held=Held, **options):
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    mixture = {"held": MixConfig(8)}
    plain = stage(
        model_config, directory, Numbers(last), mesh, steps, validation=mixture, validate_every_steps=2,
        validate_batches=3, **options,
    )  # fmt: skip
    return dataclasses.replace(plain, validation={"held": held})


def lines(directory):
    return metrics.read(directory, metrics.VALIDATION)


def test_the_loss_is_that_of_all_tokens(model_config, tmp_path):
    """Of three batches of which the later have fewer tokens that count."""

    class Uneven(Held):
        def __next__(self):
            batch = super().__next__()
            batch["weights"][:, 12 - 4 * (self.next - 1) :] = 0
            return batch

    params, _ = loop.train(validated(model_config, tmp_path, held=Uneven, steps=2), lambda _: None)
    one, stream = validated(model_config, tmp_path), Uneven()
    batches = [next(stream) for _ in range(3)]
    losses = [float(one.objective.loss(params, {}, batch)) for batch in batches]
    counts = [batch["weights"][:, 1:].sum() for batch in batches]
    assert len(set(counts)) == 3
    (line,) = lines(tmp_path)
    assert line["loss/held"] == line["loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-5)


def test_it_is_measured_at_its_steps_and_changes_nothing(model_config, tmp_path):
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    plain, last = loop.train(stage(model_config, tmp_path / "plain", Numbers(), mesh, steps=5), lambda _: None)
    said = []
    params, same = loop.train(validated(model_config, tmp_path / "held", steps=5), said.append)
    assert last == same and jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), plain, params))
    assert [line["step"] for line in lines(tmp_path / "held")] == [2, 4, 5]
    assert sum("validation loss/held" in line for line in said) == 3
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("plain", "held")]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("batch", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_what_a_killed_run_owes_comes_first(model_config, tmp_path, batch):
    """It dies while it is validated after step 4, whose checkpoint is there."""

    class Dying(Held):
        opened = 0

        def __init__(self):
            Dying.opened += 1
            super().__init__(batch if Dying.opened == 2 else None)

    whole, _ = loop.train(validated(model_config, tmp_path / "whole"), lambda _: None)
    with pytest.raises(Killed):
        loop.train(validated(model_config, tmp_path / "cut", held=Dying), lambda _: None)
    assert [line["step"] for line in lines(tmp_path / "cut")] == [2]
    said = []
    again, _ = loop.train(validated(model_config, tmp_path / "cut"), said.append)
    assert said[0] == "language: continuing at step 4 of 6"
    assert said[1].startswith("language: step 4: validation loss/held ")
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, again))


def test_what_was_measured_before_the_kill_is_not_there_twice(model_config, tmp_path):
    with pytest.raises(Killed):
        loop.train(validated(model_config, tmp_path, last=5), lambda _: None)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]
    loop.train(validated(model_config, tmp_path), lambda _: None)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_a_signal_ends_it_between_two_batches_and_it_is_owed(model_config, tmp_path, monkeypatch):
    asked = iter([False, True])
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stopping", lambda: next(asked))
        with pytest.raises(ending.Ended, match=str(ending.PREEMPTED)):
            loop.train(validated(model_config, tmp_path), lambda _: None)
    assert not lines(tmp_path)
    said = []
    loop.train(validated(model_config, tmp_path), said.append)
    assert said[0] == "language: continuing at step 2 of 6"
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6]


def test_a_signal_in_the_last_one_lets_it_end(model_config, tmp_path, monkeypatch):
    """The stage is then complete, and of its last step there is no checkpoint."""
    monkeypatch.setattr(loop, "stopping", lambda: pytest.fail("nobody is to ask"))
    loop.train(validated(model_config, tmp_path, steps=2), lambda _: None)
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_one_process_is_asked_alone(monkeypatch):
    monkeypatch.setattr(ending, "asked", lambda: True)
    assert lookout.stopping()


def test_the_best_are_kept(model_config, tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(validation.Validation, "run", lambda *arguments: {"loss": next(losses)})
    loop.train(validated(model_config, tmp_path, steps=12, keep_best=2, keep_latest=1), lambda _: None)
    assert validation.best(tmp_path, 2) == {4, 6}
    assert [found.step for found in find(tmp_path / "checkpoints")] == [10, 6, 4]


def test_of_equals_the_later_are_best_and_what_is_not_finite_is_not(tmp_path):
    values = {2: 1.0, 4: float("nan"), 6: 1.0, 8: 1.5}
    text = "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in values.items())
    (tmp_path / metrics.VALIDATION).write_text(text)
    assert [validation.best(tmp_path, count) for count in (0, 1, 2, 9)] == [set(), {6}, {2, 6}, {2, 6, 8}]
    assert validation.best(tmp_path / "none", 1) == set()


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(validate_every_steps=5), "belong together"),
        (dict(validation={"held": MixConfig(8)}), "belong together"),
        (dict(keep_best=1), "keep_best=1 needs losses to choose by"),
        (
            dict(validation={"text": MixConfig(8)}, validate_every_steps=5),
            "this stage trains on text; name other datasets",
        ),
        (dict(validate_batches=0), "validate_batches=0 must be at least 1"),
    ],
)
def test_senseless_configs_are_refused(model_config, options, said):
    plain = stage(model_config, None, None, None).config
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(plain, **options)
