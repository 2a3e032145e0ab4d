"""A config that is wrong says where."""

import dataclasses
import importlib.util
import pathlib

import pytest

from flamingo_jax import config as configs
from flamingo_jax.config.assignments import parse_options

BASE = pathlib.Path(__file__).parents[1] / "configs" / "base.py"


def load(variant=""):
    spec = importlib.util.spec_from_file_location("base_config", BASE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.mark.parametrize("variant", ["", "quick"])
def test_base_becomes_dataclasses(variant):
    config = configs.build(load(variant))
    assert config.order == ("language", "contrastive", "flamingo")
    assert isinstance(config.datasets["m3w"].example.fill, tuple)
    assert config.stages["flamingo"].mixture["m3w"].weight == 1.0
    assert dataclasses.is_dataclass(config.model.vision)


def test_unknown_key_names_itself_and_its_neighbours():
    config = load()
    config.model.resampler.latent = 4
    with pytest.raises(ValueError, match=r"config\.model\.resampler\.latent is unknown; did you mean 'latents'"):
        configs.build(config)


def test_missing_key_is_named():
    config = load()
    del config.model.gated.heads
    with pytest.raises(ValueError, match=r"config\.model\.gated lacks heads"):
        configs.build(config)


@pytest.mark.parametrize("value", ["many", 2.5, True, None])
def test_wrong_type_is_named(value):
    config = load().to_dict()
    config["stages"]["flamingo"]["steps"] = value
    with pytest.raises(ValueError, match=r"config\.stages\.flamingo\.steps must be int, but is"):
        configs.build(config)


def test_json_is_stable():
    assert configs.to_json(configs.build(load())) == configs.to_json(configs.build(load()))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("stages.flamingo.steps", 0, r"config\.stages\.flamingo\.steps must be at least 1, but is 0"),
        ("stages.language.log_every", 0, r"log_every must be at least 1"),
        ("model.gated.every", 0, r"config\.model\.gated\.every must be at least 1"),
        ("model.language.heads", 5, r"config\.model\.language: width 64 does not divide into 5 heads"),
        ("evaluation.batch_size", 0, r"config\.evaluation\.batch_size must be at least 1"),
        ("evaluation.shots", (), r"config\.evaluation\.shots must hold"),
        ("stages.flamingo.mixture.m3w.microbatches", 0, r"mixture\.m3w\.microbatches must be at least 1, but is 0"),
        (
            "stages.contrastive.mixture.ltip.microbatches",
            2,
            r"config\.stages\.contrastive: A contrastive stage compares all pairs .* the microbatches \{'ltip': 2\}",
        ),
        ("datasets.align.example.media", 0, r"stages\.contrastive shows media .*datasets\.align\.example\.media=0"),
        (
            "datasets.align.example.fill",
            (0, 300, 0),
            r"align\.example: fill=\(0, 300, 0\) must be numbers from 0 to 255",
        ),
        ("stages.flamingo.optimizer.learning_rate", float("inf"), r"learning_rate must be a finite number, but is inf"),
        (
            "tokenizer.vocab_size",
            2048,
            r"tokenizer\.vocab_size=2048 is more than config\.model\.language",
        ),
        ("order", ("language", "contrastiv", "flamingo"), r"order names 'contrastiv', .* did you mean 'contrastive'"),
        ("order", ("language", "contrastive", "contrastive"), r"config\.order names 'contrastive' twice"),
        ("stages.flamingo.optimizer.rates", {"language": 0.1}, r"rates names 'language', which config\.model\.frozen"),
        ("stages.language.mixing", "merged", r"config\.stages\.language: mixing='merged' needs several datasets"),
        ("stages.flamingo.mixing", "rounds", r"config\.stages\.flamingo: mixing='rounds' is unknown"),
        ("stages.flamingo.profile", (1, 4), r"stages\.flamingo: profile=\(1, 4\) must be .* from 2 .* to steps=1250"),
        ("stages.flamingo.profile", (5, 4), r"stages\.flamingo: profile=\(5, 4\) must be"),
        ("stages.flamingo.profile", (5,), r"stages\.flamingo: profile=\(5,\) must be"),
        ("stages.flamingo.profile", (5, 2000), r"stages\.flamingo: profile=\(5, 2000\) must be"),
        ("datasets.vtp.fps", 0.0, r"config\.datasets\.vtp\.fps must be at least"),
        ("datasets.vtp.quality", 500, r"config\.datasets\.vtp: quality=500 is more than a JPEG's 100"),
        ("datasets.m3w.text", {"min_words": 10, "max_words": 5}, r"m3w\.text: min_words=10 is more than max_words=5"),
        ("datasets.m3w.duplicates", {"distance": 64}, r"m3w\.duplicates: distance=64"),
        ("datasets.m3w.min_similarity", 3.0, r"m3w: min_similarity=3.0 is no cosine"),
        ("datasets.m3w.text", {"max_top_ngram": {"2": 1.5}}, r"m3w\.text: max_top_ngram\.2 must be a share"),
        ("datasets.m3w.text", {"language_score": 1.5}, r"m3w\.text\.language_score must be a share"),
    ],
)
def test_senseless_sizes_are_named(path, value, message):
    config = load()
    *parents, key = path.split(".")
    part = config
    for name in parents:
        part = part[name]
    with part.ignore_type():
        part[key] = value
    with pytest.raises(ValueError, match=message):
        configs.build(config)


def test_images_that_cannot_be_one_batch_are_named():
    config = load()
    config.stages.contrastive.mixing = "merged"
    configs.build(config)
    config.datasets.ltip.example.size = 32
    with pytest.raises(ValueError, match=r"stages\.contrastive\.mixing='merged' .* \{'align': 48, 'ltip': 32\}"):
        configs.build(config)


def test_names_of_stages_and_datasets_are_those_of_the_config():
    configs.check_path("config.datasets.vtp.size", load())
    configs.check_path("config.stages.flamingo.mixture.ltip.weight", load())
    with pytest.raises(ValueError, match=r"config\.datasets\.vpt is unknown; did you mean 'vtp'"):
        configs.check_path("config.datasets.vpt.size", load())
    with pytest.raises(ValueError, match=r"mixture\.ltop is unknown; did you mean 'ltip'"):
        configs.check_path("config.stages.flamingo.mixture.ltop.weight", load())


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["size"], "--set=size sets nothing"),
        (["text=5", "text.min_words=6"], "text has been set to 5, which has no min_words"),
        (["format=html"], "--set=format=html: say --format=html"),
    ],
)
def test_assignments_that_are_none(assignments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(assignments)
