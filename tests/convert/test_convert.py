"""``python -m flamingo_jax.convert``: folders of ours hold what their sources held."""

import importlib
import json
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

import flamingo_jax
from flamingo_jax.convert import folder as ours
from flamingo_jax.convert import run
from flamingo_jax.convert.__main__ import main
from flamingo_jax.models.int8 import is_int8

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
LLAMA = GOLDEN / "language" / "llama3"
IDEFICS = GOLDEN / "idefics" / "resampler" / "hf"
CASES = ["language/llama3", "language/gptj", "vision/siglip2_naflex", "vision/dinov2_registers", "idefics/resampler/hf"]


def convert(source, target, *options):
    return run.convert(run.open_source(str(source)), str(target), *options)


@pytest.mark.parametrize("layout", ["orbax", "safetensors"])
@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_is_the_model(case, layout, tmp_path):
    convert(GOLDEN / case, tmp_path / "out", layout)
    model, original = flamingo_jax.load(tmp_path / "out"), flamingo_jax.load(GOLDEN / case)
    assert model.config == original.config and model.module == original.module
    assert (model.image_token, model.end_token) == (original.image_token, original.end_token)
    chex.assert_trees_all_equal(model.variables, original.variables)
    assert (tmp_path / "out" / "weights").exists() == (layout == "orbax")


def check_variant(folder, tmp_path):
    """A folder with shards, other types, .bin files or older names converts to what it is."""
    if list(folder.glob("*.bin")):
        pytest.importorskip("torch")
    convert(folder, tmp_path / "out")
    model, original = flamingo_jax.load(tmp_path / "out"), flamingo_jax.load(folder)
    assert model.config == original.config
    chex.assert_trees_all_equal(model.variables, original.variables)


def test_variants_of_language_models(language_copy, tmp_path):
    check_variant(language_copy, tmp_path)


def test_variants_of_vision_encoders(vision_copy, tmp_path):
    check_variant(vision_copy, tmp_path)


def test_variants_of_idefics(idefics_copy, tmp_path):
    check_variant(idefics_copy, tmp_path)


def test_older_spellings_of_configs(language_legacy, tmp_path):
    for file in language_legacy.glob("*"):
        if file.is_file() and file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").symlink_to(language_legacy / "config_legacy.json")
    convert(tmp_path, tmp_path / "out", "safetensors")
    model, original = flamingo_jax.load(tmp_path / "out"), flamingo_jax.load(language_legacy)
    assert model.config == original.config
    chex.assert_trees_all_equal(model.variables, original.variables)


def test_a_converted_model_is_a_source_too(tmp_path):
    """Another type, another layout."""
    convert(LLAMA, tmp_path / "a", "orbax", "bfloat16")
    assert "weights, " in run.render(run.open_source(str(tmp_path / "a")))
    convert(tmp_path / "a", tmp_path / "b", "safetensors")
    convert(tmp_path / "b", tmp_path / "c", "orbax", "float32")
    half, back = flamingo_jax.load(LLAMA, dtype="bfloat16"), flamingo_jax.load(tmp_path / "c")
    chex.assert_trees_all_equal(flamingo_jax.load(tmp_path / "b").variables, half.variables)
    widened = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half.variables)
    chex.assert_trees_all_equal(back.variables, widened)


def test_layers_of_a_folder_of_ours_are_read_one_by_one(tmp_path):
    """They lie in one tensor there."""
    convert(LLAMA, tmp_path / "out", "safetensors")
    whole = flamingo_jax.load(LLAMA).variables["params"]["language"]["blocks"]
    for name in (("mlp", "down", "kernel"), ("attention", "query", "kernel"), ("mlp_norm", "scale")):
        leaf, expected = run.open_source(str(tmp_path / "out")).model.weights["language"]["blocks"], whole
        for part in name:
            leaf, expected = leaf[part], expected[part]
        expected = np.asarray(expected)
        for where in (1, (2,), (0, 3), slice(1, 3), (slice(0, 2), 1), ()):
            np.testing.assert_array_equal(leaf[where], expected[where])
        np.testing.assert_array_equal(leaf.reshape(1, *leaf.shape), expected[None])


def test_shards_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "SHARD", 3000)
    convert(LLAMA, tmp_path / "out", "safetensors")
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert any(name.startswith("model-00001-of-") for name in files) and "model.safetensors.index.json" in files
    chex.assert_trees_all_equal(flamingo_jax.load(tmp_path / "out").variables, flamingo_jax.load(LLAMA).variables)


def test_a_target_is_written_once(tmp_path):
    assert "bytes" in convert(LLAMA, tmp_path / "out")
    assert "holds this conversion already" in convert(LLAMA, tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    for other in ((LLAMA, "orbax", "bfloat16"), (LLAMA, "safetensors"), (GOLDEN / "language/gptj",)):
        with pytest.raises(ValueError, match="out holds another conversion .of /.*llama3, which"):
            convert(other[0], tmp_path / "out", *other[1:])
    assert sorted(tmp_path.rglob("*")) == before
    copy = shutil.copytree(LLAMA, tmp_path / "copy")
    assert "holds this conversion already" in convert(copy, tmp_path / "out")
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][:] += 1  # another model of the same size
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError, match="holds another conversion"):
        convert(copy, tmp_path / "out")


def test_a_target_that_lost_its_weights_is_said(tmp_path):
    convert(LLAMA, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "weights")
    with pytest.raises(ValueError, match="--target=.*out is there already, but damaged .*out has no weights"):
        convert(LLAMA, tmp_path / "out")


def test_two_at_once_do_not_mix(tmp_path):
    with ours.whole(tmp_path / "out") as draft:
        (draft / "file").write_text("first")
        with pytest.raises(ValueError, match="--target=.*out is being written by another conversion"):
            convert(LLAMA, tmp_path / "out")
    assert (tmp_path / "out" / "file").read_text() == "first" and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    (tmp_path / ".out.partial" / "weights").mkdir(parents=True)
    (tmp_path / ".out.partial" / "weights" / "half").touch()
    convert(LLAMA, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not (tmp_path / "out/weights/half").exists()


def test_targets_that_hold_something_else_are_left(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="--target=.* is there already; delete it, or name another folder"):
        convert(LLAMA, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    convert(LLAMA, tmp_path / "link")
    assert (tmp_path / "real" / "config.json").exists() and flamingo_jax.load(tmp_path / "link")


def test_a_damaged_tokenizer_is_found_before_anything_is_written(tmp_path, monkeypatch):
    source = shutil.copytree(LLAMA, tmp_path / "source")
    (source / "tokenizer.json").write_text("{")
    monkeypatch.setattr(ours, "write_orbax", None)
    with pytest.raises(ValueError, match="tokenizer.json is no whole file of a tokenizer"):
        convert(source, tmp_path / "out")


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(ours, "write_orbax", full)
    (tmp_path / "empty").mkdir()
    for target in ("new", "empty", "not/yet/there"):
        with pytest.raises(OSError, match="No space left"):
            convert(LLAMA, tmp_path / target)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("file", ["config.json", "state/_METADATA", ".zarray", "0.*"])
def test_a_damaged_folder_of_ours_is_named(tmp_path, file):
    convert(LLAMA, tmp_path / "out")
    for damaged in (tmp_path / "out").rglob(file):
        if damaged.is_file():
            damaged.write_bytes(b"{")
    with pytest.raises(ValueError, match=str(tmp_path / "out")):
        flamingo_jax.load(tmp_path / "out")


def test_a_config_of_ours_that_does_not_fit_is_named(tmp_path):
    convert(LLAMA, tmp_path / "out")
    file = tmp_path / "out" / "config.json"
    config = json.loads(file.read_text())
    for changes, words in (
        ({"kind": "languge"}, "kind='languge' is unknown; did you mean 'language'"),
        ({"config": {**config["config"], "widht": 3}}, "config.widht is unknown; did you mean 'width'"),
        (
            {"config": {**config["config"], "mlp_width": 8}},
            r"mlp/down/kernel: \(3, 40, 32\) there, \(3, 8, 32\) in the",
        ),
    ):
        file.write_text(json.dumps({**config, **changes}))
        with pytest.raises(ValueError, match=words):
            flamingo_jax.load(tmp_path / "out")


def test_a_hub_id_without_a_network(monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    with pytest.raises(ValueError, match=r"ConnectionError: no route.*download config.json.*huggingface.co/some/model"):
        flamingo_jax.load("some/model")
    with pytest.raises(ValueError, match="There is no folder /nowhere/at/all, and it is no hub id"):
        flamingo_jax.load("/nowhere/at/all")


def test_a_hub_id_is_taken_at_one_commit(monkeypatch):
    """What the newest commit is, is asked once; no code and no pickles are downloaded."""
    import types

    import huggingface_hub

    asked = {}
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: types.SimpleNamespace(sha="abc123"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.update(options) or LLAMA)
    source = run.open_source("some/model")
    assert (source.commit, source.path) == ("abc123", LLAMA) and asked["revision"] == "abc123"
    assert not any("py" in pattern or "bin" in pattern for pattern in asked["allow_patterns"])


def command(*options):
    arguments = [sys.executable, "-m", "flamingo_jax.convert", *options]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


def test_all_commands_fit_into_one_process():
    """Their options must not collide, whichever of them a program imports."""
    for name in ("convert.__main__", "plan", "train"):
        importlib.import_module(f"flamingo_jax.{name}")


def test_the_command(tmp_path):
    plan = command(f"--source={LLAMA}", "--dry_run")
    assert plan.returncode == 0 and "self_attn.q_proj.weight .. model.layers.2" in plan.stdout
    assert "11 weights, " in plan.stdout and "nothing was read or written" in plan.stdout
    done = command(f"--source={LLAMA}", f"--target={tmp_path}/out", "--dtype=bfloat16")
    assert done.returncode == 0 and f"{tmp_path}/out: " in done.stdout
    wrong = command(f"--source={LLAMA}", f"--target={tmp_path}/out")
    assert wrong.returncode == 1 and "holds another conversion" in wrong.stderr and "Traceback" not in wrong.stderr
    assert "Give --source" in command().stderr and "Give --target" in command(f"--source={LLAMA}").stderr


def test_the_plan_is_what_is_done(tmp_path):
    """Types and bytes of 8-bit weights, and the refusals of the real run."""
    source = run.open_source(str(IDEFICS))
    lines = run.render(source, "orbax", "int8").splitlines()
    planned = {line.split()[0]: line.split()[2] for line in lines[:-1]}
    convert(IDEFICS, tmp_path / "out", "orbax", "int8")
    leaves = jax.tree_util.tree_leaves_with_path(flamingo_jax.load(tmp_path / "out").variables, is_leaf=is_int8)
    assert planned == {"/".join(part.key for part in path): str(leaf.dtype) for path, leaf in leaves}
    for layout, dtype, words in (("open_flamingo", None, "no OpenFlamingo"), ("idefics", "int8", "int8 is a type of")):
        with pytest.raises(ValueError, match=words):
            run.render(source, layout, dtype)


def test_what_is_no_source_is_said(tmp_path):
    for source, parts, words in (
        (LLAMA, {"language": str(LLAMA)}, "llama3 holds a model of its own; --language and the like belong to"),
        (LLAMA / "config.json", None, "config.json is a file; give the folder that holds it"),
        (LLAMA / "model.safetensors", None, "give the folder that holds it or, of a checkpoint of OpenFlamingo"),
        (tmp_path / "no.pt", {"language": "x", "vision": "y"}, "There is no file .*no.pt"),
    ):
        with pytest.raises(ValueError, match=words):
            run.open_source(str(source), parts=parts)


def test_targets_that_cannot_be_are_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--target=.*file/out cannot be written: Not a directory"):
        convert(LLAMA, tmp_path / "file" / "out")


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ours, "write_orbax", interrupted)
    flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(source=str(LLAMA), target=str(tmp_path / "out")), pytest.raises(SystemExit) as end:
        main([""])
    assert end.value.code == 130 and not list(tmp_path.iterdir())
