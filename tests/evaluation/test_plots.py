import json

import pytest
from PIL import Image

from flamingo_jax.evaluation import plots


def write(path, rows):
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')  # cut short by a kill
    return path


def test_training_and_gates_are_drawn(tmp_path):
    rows = [{"step": s, "loss/m3w": 1 / s, "gate/attention/0": 0.1 * s, "gate/attention/10": -0.2} for s in (1, 2)]
    stages = {"missing": tmp_path / "none.jsonl", "flamingo": write(tmp_path / "flamingo" / "metrics.jsonl", rows)}
    for draw in (plots.training, plots.gates):
        path = tmp_path / f"{draw.__name__}.png"
        assert draw(stages, path)
        assert min(Image.open(path).size) > 300


@pytest.mark.parametrize("count", [1, 60])
def test_goodput_is_drawn(tmp_path, count):
    lines = [{"start": n, "time": 1e9 + 100 * n, "now": "train", "seconds": {"train": 50.0}} for n in range(count)]
    assert plots.goodput(write(tmp_path / "run" / "goodput.jsonl", lines), tmp_path / "goodput.png")
    width, height = Image.open(tmp_path / "goodput.png").size
    assert width == 1200 and 300 < height < 1200


def test_nothing_to_draw(tmp_path):
    assert not plots.training({"a": tmp_path / "none.jsonl"}, tmp_path / "a.png")
    assert not plots.gates({}, tmp_path / "a.png")
    assert not plots.goodput(tmp_path / "none.jsonl", tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
