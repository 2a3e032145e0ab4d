"""The configs of full size: the paper's counts by shapes alone, and configs whose parts do not fit."""

import pathlib
import runpy

import pytest

from flamingo_jax import config as configs
from flamingo_jax import plan

FOLDER = pathlib.Path(__file__).parents[1] / "configs"


def load(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"]()


def totals(name):
    """Billions of weights by part, with the language model's blocks and embeddings as one."""
    table = plan.count(configs.build(load(name)).model)
    sums = {part: sum(row.values()) / 1e9 for part, row in table.items()}
    sums["all"] = sum(sums.values())
    sums["language"] += sums.pop("embeddings")
    return sums


@pytest.mark.parametrize(
    "name, cross_attention, within, total",
    [("flamingo_3b", 1.2, 0.01, 3.2), ("flamingo_9b", 1.6, 0.01, 9.3), ("flamingo_80b", 10.0, 0.04, 80.0)],
)
def test_the_papers_counts(name, cross_attention, within, total):
    found = totals(name)
    assert found["vision"] == pytest.approx(0.435, rel=0.01)
    assert found["resampler"] == pytest.approx(0.194, rel=0.01)
    assert found["cross_attention"] == pytest.approx(cross_attention, rel=within)
    assert found["all"] == pytest.approx(total, rel=0.01)


def test_language_models_of_the_papers_sizes():
    """24 layers of 2048 are 1.374B; the paper's table rounds to one digit after the point."""
    small = totals("flamingo_3b")["language"]
    assert round(small, 1) == 1.4 and small == pytest.approx(1.374, rel=0.001)
    assert totals("flamingo_9b")["language"] == pytest.approx(7.1, rel=0.01)
    assert totals("flamingo_80b")["language"] == pytest.approx(70, rel=0.01)


@pytest.mark.parametrize("name, low, high", [("flamingo_public_3b", 2.8, 3.3), ("flamingo_public_9b", 9.0, 11.0)])
def test_public_parts(name, low, high):
    found = totals(name)
    assert low < found["all"] < high and found["vision"] == pytest.approx(0.413, rel=0.01)


def test_the_table_has_a_line_per_part_and_sums():
    table = {"vision": {"params": 0, "frozen": 5}, "embeddings": {"params": 2, "frozen": 0}}
    table = {part: table.get(part, {"params": 0, "frozen": 0}) for part in configs.PARTS}
    lines = plan.render(table).splitlines()
    assert [line.split()[-3:] for line in lines[1:]] == [
        ["0", "5", "5"],
        ["2", "0", "2"],
        ["2", "0", "2"],
        ["2", "5", "7"],
    ]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"gated.every": 3}, r"config\.model: gated\.every=3 .* language\.depth=2: every may be at most 2"),
        ({"gated.first": 2}, r"gated\.first=2 do not fit language\.depth=2"),
        (
            {"gated.gate": "sigmoid"},
            r"config\.model\.gated: gate='sigmoid' is unknown; known here: none, scalar, vector",
        ),
        ({"language.norm": "batch"}, r"config\.model\.language: norm='batch' is unknown; known here: layer, rms"),
        ({"language.placement": "postt"}, r"did you mean 'post'"),
        ({"language.kv_heads": 3}, r"kv_heads=3 does not divide heads=4"),
        ({"language.pattern": (0, 1)}, r"pattern=\(0, 1\) must name layers by index, of which there are 1"),
        ({"language.positions": "learned"}, r"positions='learned' needs max_positions"),
        (
            {"language.layers": ({"rope": {"scaling": "llama3"}},)},
            r"layers\[0\]\.rope: scaling='llama3' needs original",
        ),
        ({"resampler.project": False}, r"resampler\.width=64 is not the vision encoder's 96 channels"),
        ({"vision.kind": "resnet"}, r"config\.model\.vision\.kind='resnet' is unknown.*known here: nfnet, vit"),
        (
            {"vision.depths": (1,)},
            r"widths \(48, 96\), depths \(1,\) and strides \(1, 2\) must have an entry per stage",
        ),
        ({"frozen": ("vison",)}, r"frozen names 'vison'; did you mean 'vision'"),
        ({"remat": "some"}, r"config\.model: remat='some' is unknown.*known here: dots, full, none"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_named(changes, message):
    config = load("base").to_dict()
    for path, value in changes.items():
        *parents, key = path.split(".")
        part = config["model"]
        for name in parents:
            part = part[name]
        part[key] = value
    with pytest.raises(ValueError, match=message):
        configs.build(config)


def test_what_is_frozen_must_come_from_somewhere():
    config = load("base").to_dict()
    config["stages"]["flamingo"]["parts"] = {"language": "language"}
    with pytest.raises(ValueError, match=r"parts lacks vision, which config\.model\.frozen freezes"):
        configs.build(config)
    config["model"]["frozen"] = ("language", "embeddings")
    assert configs.build(config).model.frozen == ("language", "embeddings")
