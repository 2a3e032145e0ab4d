"""The configs of full size: the paper's counts by shapes alone, and configs whose parts do not fit."""

import functools
import pathlib
import runpy

import pytest

from flamingo_jax import config as configs
from flamingo_jax import plan

FOLDER = pathlib.Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("flamingo_*.py"))
VIT = {"kind": "vit", "width": 24, "depth": 1, "heads": 4, "patch_size": 4, "grid": (2, 2)}


def load(name, *variant):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["get_config"](*variant)


@functools.cache
def table(name, *variant):
    return plan.count(configs.build(load(name, *variant)).model)


def totals(name):
    """Billions of weights by part, with the language model's blocks and embeddings as one."""
    sums = {part: sum(row.values()) / 1e9 for part, row in table(name).items()}
    sums["all"] = sum(sums.values())
    sums["language"] += sums.pop("embeddings")
    return sums


@pytest.mark.parametrize(
    "name, language, cross_attention, within, total",
    [
        ("flamingo_3b", 1.374, 1.2, 0.01, 3.2),
        ("flamingo_9b", 7.1, 1.6, 0.01, 9.3),
        ("flamingo_80b", 70.0, 10.0, 0.04, 80.0),
    ],
)
def test_the_papers_counts(name, language, cross_attention, within, total):
    """Table 5; its 1.4B is 24 layers of 2048, which are 1.374B."""
    found = totals(name)
    assert found["vision"] == pytest.approx(0.435, rel=0.01)
    assert found["resampler"] == pytest.approx(0.194, rel=0.01)
    assert found["language"] == pytest.approx(language, rel=0.002)
    assert found["cross_attention"] == pytest.approx(cross_attention, rel=within)
    assert found["all"] == pytest.approx(total, rel=0.01)


def test_the_smallest_language_model_is_the_one_that_the_paper_rounds_to():
    assert round(totals("flamingo_3b")["language"], 1) == 1.4


@pytest.mark.parametrize(
    "name, low, high, language",
    [("flamingo_public_3b", 2.8, 3.3, 1.7206), ("flamingo_public_9b", 9.0, 11.0, 8.1907)],
)
def test_public_parts_have_their_published_sizes(name, low, high, language):
    """Qwen3-1.7B and 8B; the encoder of SigLIP 2 so400m without its pooling head."""
    found = totals(name)
    assert low < found["all"] < high
    assert found["language"] == pytest.approx(language, rel=1e-4)
    assert found["vision"] == pytest.approx(0.413, rel=0.001)


@pytest.mark.parametrize("name", [*NAMES, "base", "base:quick"])
def test_the_table_has_a_line_per_part_and_sums(name):
    """What is frozen is what the config says, and each line adds up."""
    found = table(*name.split(":"))
    header, *lines = plan.render(found).splitlines()
    assert header.split() == ["part", "trainable", "frozen", "total"]
    rows = {line.rsplit(maxsplit=3)[0]: [int(cell.replace(",", "")) for cell in line.split()[-3:]] for line in lines}
    for part, row in found.items():
        expected = [row["params"], row["frozen"], row["params"] + row["frozen"]]
        assert rows.get(configs.PARTS[part], [0, 0, 0]) == expected
        assert not expected[0 if part in configs.PRETRAINED else 1]
    assert rows["all"] == [
        sum(row[i] for text, row in rows.items() if text in configs.PARTS.values()) for i in range(3)
    ]
    assert len(lines) == sum(sum(row.values()) > 0 for row in found.values()) + 2
    assert len({len(line) for line in [header, *lines]}) == 1


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("gated.every", 3, r"config\.model: gated\.every=3 .* language\.depth=2: every may be at most 2"),
        ("gated.first", 2, r"config\.model: .*gated\.first=2 do not fit language\.depth=2: .*first at most 1"),
        ("gated.first", -1, r"config\.model\.gated\.first must be at least 0, but is -1"),
        ("gated.graft", -1, r"config\.model\.gated\.graft must be at least 0, but is -1"),
        ("language.layers", ({"rope": {"fraction": 2.0}},), r"layers\[0\]\.rope: fraction=2\.0 must be above 0"),
        ("language.layers", ({"window": -1},), r"layers\[0\]\.window must be at least 0, but is -1"),
        ("gated.gate", "sigmoid", r"config\.model\.gated: gate='sigmoid' is unknown; known here: none, scalar, vector"),
        ("gated.visible", "next", r"config\.model\.gated: visible='next' is unknown; known here: own, previous"),
        ("language.norm", "batch", r"config\.model\.language: norm='batch' is unknown; known here: layer, rms"),
        ("language.placement", "postt", r"model\.language: placement='postt' .* 'post'\? known here: branch, pa"),
        ("language.heads", 5, r"config\.model\.language: width 64 does not divide into 5 heads"),
        ("language.kv_heads", 3, r"config\.model\.language: kv_heads=3 does not divide heads=4"),
        ("language.pattern", (0, 1), r"model\.language: pattern=\(0, 1\) must name layers .* of which there are 1"),
        ("language.pattern", (), r"model\.language: pattern=\(\) must name layers"),
        ("language.positions", "learned", r"model\.language: positions='learned' needs max_positions"),
        ("language.vocab_rows", 10, r"model\.language: vocab_rows=10 is less than vocab_size=1024"),
        ("language.layers", ({"rope": {"scaling": "llama3"}},),
         r"config\.model\.language\.layers\[0\]\.rope: scaling='llama3' needs original_length"),
        ("language.layers", ({"rope": {"scaling": "ntk"}},),
         r"layers\[0\]\.rope: scaling='ntk' is unknown; known here: linear, llama3, longrope, none, yarn"),
        ("language.layers", ({"rope": {"fraction": 0.05}},), r"head_size=16 times rope\.fraction=0\.05 must lea"),
        ("language.layers", ({"rope": {"theta": 1.0}},), r"layers\[0\]\.rope: theta=1\.0 must be above 1"),
        ("language.layers", ({"rope": {"factor": 4.0}},), r"layers\[0\]\.rope: factor=4\.0 must be above 0"),
        ("language.layers", ({"rope": {"low_frequency": 4.0}},), r"low_frequency=4\.0 must be above 0 and below high_"),
        ("language.layers", ({"rope": {"scaling": "longrope", "original_length": 8}},), r"for each of 8 pairs"),
        ("resampler.project", False, r"config\.model: resampler\.width=64 is not the vision encoder's 96 channels"),
        ("resampler.kind", "qformer", r"config\.model\.resampler: kind='qformer' .* mlp, perceiver, transformer"),
        ("text_tower.heads", 5, r"config\.model\.text_tower: width 64 does not divide into 5 heads"),
        ("vision.kind", "resnet", r"config\.model\.vision\.kind='resnet' is unknown.*known here: nfnet, vit"),
        ("vision.depths", (1,), r"model\.vision: widths \(48, 96\), depths \(1,\) and strides \(1, 2\) must have"),
        ("vision.strides", (1, 2, 2), r"model\.vision: .* strides \(1, 2, 2\) must have an entry per stage"),
        ("vision.widths", (48, 300), r"model\.vision: half of width 300 does not divide into groups of group_size=128"),
        ("vision.widths", (48, 0), r"config\.model\.vision\.widths must be at least 1, but is \(48, 0\)"),
        ("vision.stochastic_depth", 1.5, r"config\.model\.vision\.stochastic_depth must be a share, .* is 1\.5"),
        ("vision", VIT | {"heads": 5}, r"config\.model\.vision: width 24 does not divide into 5 heads"),
        ("vision", VIT | {"positions": "rope"}, r"model\.vision: positions='rope' .* width / heads = 6 must divide"),
        ("vision", VIT | {"pool": "class"}, r"model\.vision: pool='class' and .* need class_token=True"),
        ("vision", VIT | {"grid": (2,)}, r"config\.model\.vision\.grid must be a tuple of 2, but is \(2,\)"),
        ("language.logit_scale", 0.0, r"config\.model\.language\.logit_scale must be at least 1e-09, but is 0\.0"),
        ("language.softcap", -1.0, r"config\.model\.language\.softcap must be at least 0, but is -1\.0"),
        ("vision.std", (0.2, 0.0, 0.2), r"config\.model\.vision\.std must be at least 1e-09, but is \(0\.2, 0\.0"),
        ("frozen", ("vison",), r"config\.model: frozen names 'vison'; did you mean 'vision'\? .* embeddings, language"),
        ("remat", "some", r"config\.model: remat='some' is unknown.*known here: dots, full, layers, none, offload"),
        ("dtype", "float16", r"config\.model: dtype='float16' is unknown.*known here: bfloat16, float32"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_parts_that_do_not_fit_are_named(path, value, message):
    """The path, the values, and what is allowed."""
    config = load("base").to_dict()
    assert configs.build(config)
    *parents, key = path.split(".")
    part = functools.reduce(dict.get, parents, config["model"])
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


@pytest.mark.parametrize(
    "objective, path, value, message",
    [
        ("language", ("model", "language", "max_positions"), 50, r"datasets\.m3w\.example\.length=112 is more .*=50"),
        ("flamingo", ("model", "media"), 3, r"datasets\.m3w\.example\.media=9 is more than .*\.media=3"),
        ("flamingo", ("model", "resampler", "frames"), 2, r"datasets\.vtp\.example\.frames=4 is more .*frames=2"),
        ("flamingo", ("stages", "flamingo", "optimizer", "rates"), {"vision": 0.1}, r"rates names .vision., which"),
        ("flamingo", ("stages", "flamingo", "optimizer", "rates"), {"resampler": -1.0}, r"rates must be at least 0"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_examples_and_rates_that_do_not_fit_the_model(objective, path, value, message):
    config = load("base").to_dict()
    *parents, key = path
    functools.reduce(dict.get, parents, config)[key] = value
    with pytest.raises(ValueError, match=message):
        configs.build(config)


def test_zero_where_it_means_none_or_the_usual_size():
    config = load("base").to_dict()
    config["model"]["resampler"]["frames"] = 0
    config["model"]["language"]["head_size"] = 0
    model = configs.build(config).model
    assert model.resampler.frames == 0 and model.language.head_size == model.language.width // model.language.heads
