"""The command as its user types it: a tiny run of everything, typos, other configs, bad folders, kill -9."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

import flamingo_jax
from flamingo_jax import sources, status, train
from flamingo_jax.convert import run as conversion
from flamingo_jax.training import goodput, metrics, outcome

ROOT = pathlib.Path(__file__).parents[1]
BASE = f"--config={ROOT / 'configs' / 'base.py'}:quick"
QUICK_COMPILES = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
# Everything runs, nothing is learnt: two steps a stage on a handful of files.
TINY = {
    "world.images_per_concept": 1,
    "world.pages": 24,
    "world.align": 24,
    "world.ltip": 24,
    "world.clips": 8,
    "world.texts": 400,
    "world.queries": 12,
    "world.supports": 16,
    "world.binding_images": 4,
    "evaluation.queries": 4,
    "evaluation.shots": "(0,2)",
    "evaluation.batch_size": 4,
    "evaluation.tasks": "('caption','binding_2way')",
    "stages.flamingo.mixture.m3w.batch_size": 8,
    "stages.flamingo.mixture.align.batch_size": 16,  # four rows of four
    "stages.flamingo.mixture.ltip.batch_size": 16,
    "stages.flamingo.mixture.vtp.batch_size": 8,
    "stages.contrastive.mixture.align.batch_size": 8,
    "stages.contrastive.mixture.ltip.batch_size": 8,
    "stages.language.mixture.text.batch_size": 8,
    "stages.flamingo.keep_every_steps": 1,
}


def command(workdir, *arguments, steps=2, every=60.0):
    stages = {f"stages.{name}.steps": steps for name in ("language", "contrastive", "flamingo")}
    stages |= {f"stages.{name}.checkpoint_every_seconds": every for name in ("language", "contrastive", "flamingo")}
    flags = [f"--config.{key}={value}" for key, value in (TINY | stages).items()]
    return [sys.executable, "-m", "flamingo_jax.train", BASE, f"--workdir={workdir}", *flags, *arguments]


def run(*args, devices=1, **kwargs):
    env = {**os.environ, **QUICK_COMPILES, "JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.run(command(*args, **kwargs), capture_output=True, text=True, env=env, cwd=ROOT)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    result = run(workdir)
    assert result.returncode == 0, result.stderr[-3000:]
    return workdir


def test_a_run_leaves_what_it_promises(finished):
    results = json.loads((finished / "evaluation" / "results.json").read_text())
    assert {row["task"] for row in results["results"]} == {"caption", "binding_2way"}
    for name in ("results.md", "score.png", "training.png", "gates.png", "goodput.png"):
        assert (finished / "evaluation" / name).stat().st_size > 0
    for stage in ("language", "contrastive", "flamingo"):
        assert json.loads((finished / stage / "result.json").read_text())["steps"] == 2
        assert (finished / stage / "metrics.jsonl").read_text()
        (speed,) = metrics.read(finished / stage, metrics.SPEED)  # of the second update
        assert speed["step"] == 2 and speed["tflops_per_device"] > 0 and "mfu" not in speed
        assert list((finished / stage).glob("events.out.tfevents*"))
        assert [path.name for path in (finished / stage).glob("checkpoints/*/*")] == ["1"] * (stage == "flamingo")


def test_a_run_tells_where_its_time_went(finished):
    found = goodput.summary(finished / goodput.FILE)
    for name in ("train", "start", "compile", "save", "evaluation"):
        assert found[name] > 0, name
    assert found["lost"] == found["down"] == 0
    text = status.status(finished)
    assert "no process is at work in it" in text and text.count(" complete, 2 steps: loss ") == 3
    assert "evaluation   complete\n" in text and text.endswith(goodput.sentence(found))


def test_stored_weights_are_those_that_were_trained(finished):
    """Their name is their content's hash: what a later stage froze is bit for bit what an earlier one ended with."""
    for stage in ("language", "contrastive", "flamingo"):
        path = json.loads((finished / stage / "result.json").read_text())["weights"]
        assert path == f"weights/{stage}-{outcome.content_hash(outcome.load_weights(finished, path))[:16]}"


def test_a_finished_run_is_a_model(finished, tmp_path):
    """As it is, and converted: the same weights, the tokenizer, a card with data and scores."""
    model = flamingo_jax.load(finished)
    conversion.convert(conversion.open_source(str(finished), find=sources.find), str(tmp_path / "out"))
    converted = flamingo_jax.load(tmp_path / "out")
    assert converted.config == model.config and converted.module == model.module
    chex.assert_trees_all_equal(converted.variables, model.variables)
    vocabulary = converted.tokenizer
    assert (vocabulary.image, vocabulary.eoc) == (model.image_token, *model.module.new_tokens)
    tokens = [[vocabulary.image, *vocabulary.encode("Output:")]]
    images = np.zeros((1, 1, 48, 48, 3), np.uint8)
    answers = [one.greedy(tokens, images=images, steps=3) for one in (model, converted)]
    chex.assert_trees_all_equal(*answers)
    assert isinstance(vocabulary.decode(answers[0][0]), str)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| m3w | html | 24 | " in card and "captions" in card and "| all | " in card
    config = json.loads((finished / "config.json").read_text())
    for words, layout in (("its vision encoder is a NFNetConfig", "idefics"), ("NFNetConfig", "open_flamingo")):
        with pytest.raises(ValueError, match=words):
            conversion.convert(conversion.open_source(str(finished), find=sources.find), str(tmp_path / "no"), layout)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is a run of which no stage is finished"):
        flamingo_jax.load(tmp_path)


def test_a_finished_stage_is_a_model(finished, monkeypatch):
    """By a path of its own, also a relative one; what was converted of other weights is not taken for it."""
    monkeypatch.chdir(finished.parent)
    last, same = flamingo_jax.load(finished.name), flamingo_jax.load(f"{finished.name}/flamingo")
    chex.assert_trees_all_equal(last.variables, same.variables)
    source = conversion.open_source(f"{finished.name}/language", find=sources.find)
    before = conversion.fingerprint(source)
    assert before == conversion.fingerprint(conversion.open_source(str(finished / "language"), find=sources.find))
    source.model.weights["embedding"]["table"] += 1.0
    assert before != conversion.fingerprint(source)


def test_a_checkpoint_that_was_kept_is_a_model(finished, tmp_path):
    """Of the update before the last one: other trained weights, the same frozen ones."""
    path = finished / "flamingo" / "checkpoints" / "1" / "1"
    model, last = flamingo_jax.load(path), flamingo_jax.load(finished)
    assert model.config == last.config and model.module == last.module
    chex.assert_trees_all_equal(model.variables["frozen"], last.variables["frozen"])
    chex.assert_trees_all_equal_shapes_and_dtypes(model.variables["params"], last.variables["params"])
    pairs = zip(jax.tree.leaves(model.variables["params"]), jax.tree.leaves(last.variables["params"]), strict=True)
    moved = [float(np.abs(one - two).max()) for one, two in pairs]
    assert 0 < max(moved) < 0.1
    conversion.convert(conversion.open_source(str(path), find=sources.find), str(tmp_path / "out"))
    chex.assert_trees_all_equal(flamingo_jax.load(tmp_path / "out").variables, model.variables)
    about = json.loads((tmp_path / "out" / "config.json").read_text())["training"]
    assert about["weights"] == "flamingo/checkpoints/1/1" and about["steps"] == 1 and not about["evaluation"]
    with pytest.raises(ValueError, match=r"checkpoints is no model, but holds some; give one of them: 1/1\."):
        flamingo_jax.load(path.parents[1])


def test_a_finished_run_does_nothing(finished):
    def times():
        starts = {finished / "config.json", finished / ".lock"}  # every start writes them
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path not in {finished, *starts}}

    before = times()
    result = run(finished)
    assert result.returncode == 0 and "flamingo: complete" in result.stdout
    assert before == times()


@pytest.mark.slow
def test_what_a_kill_at_the_end_of_a_stage_leaves_is_finished(finished, tmp_path):
    """Weights are stored but the stage is not marked as complete, answers are written but not the results."""
    workdir = tmp_path / "cut"
    shutil.copytree(finished, workdir)
    (workdir / "flamingo" / "result.json").unlink()
    (workdir / "evaluation" / "results.json").unlink()
    result = run(workdir)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("flamingo/result.json", "evaluation/results.json", "evaluation/predictions.jsonl"):
        assert (workdir / name).read_bytes() == (finished / name).read_bytes(), name
    assert len(list((workdir / "weights").iterdir())) == 3


@pytest.mark.slow
def test_what_builds_on_weights_that_changed_starts_anew(finished, tmp_path):
    workdir = tmp_path / "anew"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "contrastive")
    result = run(workdir, "--config.stages.contrastive.optimizer.learning_rate=0.01", "--accept_changed_config")
    assert result.returncode == 0, result.stderr[-3000:]
    assert "language: complete" in result.stdout and "flamingo: the stages that it builds on" in result.stdout
    weights = [json.loads((w / "flamingo" / "result.json").read_text())["weights"] for w in (finished, workdir)]
    assert weights[0] != weights[1]
    assert json.loads((workdir / "evaluation" / "results.json").read_text())["weights"] == weights[1]


def test_another_config_is_shown_as_a_difference(finished):
    result = run(finished, "--config.seed=7")
    assert result.returncode == 1
    assert '-  "seed": 0,' in result.stderr and '+  "seed": 7,' in result.stderr
    assert "--accept_changed_config" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.model.language.widht=3", "config.model.language.widht is unknown; did you mean 'width'"),
        ("--config.modle.dtype=float32", "config.modle is unknown; did you mean 'model'"),
        ("--config.stages.flamingo.steps=many", "config.stages.flamingo.steps=many"),
        ("--config.stages.flamigno.steps=5", "config.stages.flamigno is unknown; did you mean 'flamingo'"),
        ("--config.mesh.fsdp=3", "config.mesh (data=-1, fsdp=3, tensor=1) does not fit 1 devices"),
        ("--config.order=('langauge',)", "did you mean 'language'"),
        ("--config.order=('flamingo',)", "parts.language names the stage 'language', which config.order=('flamingo',)"),
        (
            "--config.stages.flamingo.optimizer.rates.resampler=0.1",
            "give it whole: --config.stages.flamingo.optimizer.rates=\"{'resampler': ...}\"",
        ),
        ("--config.evaluation.tasks=('captoin',)", "'captoin'"),
        ("--config.stages.flamingo.keep_latest=0", "config.stages.flamingo: keep_latest=0 must be at least 1"),
        ("--config.model.vision.activation=gleu", "did you mean 'gelu'"),
        (
            "--config.datasets.vtp.example.frames=9",
            "frames=9 is more than config.model.resampler.frames=4",
        ),
    ],
)
def test_typos_stop_at_once(tmp_path, argument, message):
    result = run(tmp_path / "never", argument)
    assert result.returncode == 1
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "never").exists()  # and the corrected command finds nothing of this one


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument, message",
    [
        (f"--config={BASE[9:].replace(':quick', ':qick')}", "has the variants '' and 'quick', not 'qick'"),
        ("--config=configs/bose.py", "There is no file 'configs/bose.py'"),
        ("--wrokdir=runs/x", "wrokdir"),
        ("config.seed=1", "'config.seed=1' is no option"),
        ("--config=README.md", "README.md is not a config file"),
        ("--config=benchmarks/seeds.py", "benchmarks/seeds.py defines no function get_config"),
        ("--config.stages.flamingo=3", "config.stages.flamingo"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(tmp_path, argument, message):
    result = run(tmp_path / "never", argument)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_a_workdir_that_is_a_file_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    result = run(path)
    assert result.returncode == 1 and f"{path} is a file" in result.stderr and "Traceback" not in result.stderr


def test_a_workdir_at_an_address_is_refused():
    result = run("gs://bucket/run")
    assert result.returncode == 1 and "--workdir=gs://bucket/run: a run cannot be kept at an address" in result.stderr


def test_a_missing_source_is_named(tmp_path):
    result = run(tmp_path / "w", "--config.datasets.align.source=/nowhere/*.tar")
    assert result.returncode == 1 and "/nowhere/*.tar" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "w" / "data" / "align").exists()


@pytest.mark.slow
def test_what_was_compiled_is_not_compiled_again(finished, tmp_path):
    """Every program that is compiled becomes a file; when all stages are trained anew, none is added."""

    def start():
        result = run(tmp_path, "--config.compilation_cache={workdir}/programs")
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stderr, {path.name for path in (tmp_path / "programs").iterdir()}

    _, programs = start()
    assert sum(name.startswith("jit_step-") for name in programs) == 3
    for name in ("language", "contrastive", "flamingo", "weights", "evaluation"):
        shutil.rmtree(tmp_path / name)
    said, again = start()
    assert again == programs and "features" not in said
    for name in ("language", "contrastive", "flamingo"):
        results = [json.loads((w / name / "result.json").read_text()) for w in (finished, tmp_path)]
        assert results[0]["weights"] == results[1]["weights"]


@pytest.mark.slow
def test_eight_devices_run_the_same_command(finished, tmp_path):
    result = run(tmp_path, "--config.mesh.fsdp=2", "--config.mesh.tensor=2", devices=8)
    assert result.returncode == 0, result.stderr[-3000:]
    losses = [json.loads((w / "flamingo" / "result.json").read_text())["metrics"] for w in (finished, tmp_path)]
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        assert value == pytest.approx(losses[1][name], rel=2e-3), name
    # What eight devices trained, one evaluates.
    results = tmp_path / "evaluation" / "results.json"
    on_eight = results.read_text()
    results.unlink()
    result = run(tmp_path, "--accept_changed_config", devices=1)
    assert result.returncode == 0, result.stderr[-3000:]
    assert results.read_text() == on_eight


@pytest.mark.slow
def test_two_processes_run_the_same_command(finished, tmp_path):
    """As ``launch/local.sh`` starts them. Started again, they go on; what they trained, one process evaluates alike."""
    local = [str(ROOT / "launch" / "local.sh"), f"{ROOT / 'configs' / 'base.py'}:quick", str(tmp_path / "run")]
    options = command(tmp_path / "run", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", steps=2)[5:]
    env = {**os.environ, **QUICK_COMPILES, "DEVICES": "8", "PROCESSES": "2"}
    env["PATH"] = f"{pathlib.Path(sys.executable).parent}:{env['PATH']}"
    result = subprocess.run([*local, *options], capture_output=True, text=True, env=env, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-3000:]
    assert "[0] flamingo: waited" in result.stdout and "[1] flamingo" not in result.stdout
    losses = [json.loads((w / "flamingo" / "result.json").read_text())["metrics"] for w in (finished, tmp_path / "run")]
    for name, value in losses[0].items():
        assert value == pytest.approx(losses[1][name], rel=2e-3), name
    results = tmp_path / "run" / "evaluation" / "results.json"
    before = results.read_text()
    results.unlink()
    again = subprocess.run([*local, *options], capture_output=True, text=True, env=env, cwd=ROOT)
    assert again.returncode == 0, again.stdout[-5000:]
    assert "[0] flamingo: complete" in again.stdout and results.read_text() == before


@pytest.mark.slow
def test_kill_9_anywhere_ends_with_the_same_bits(tmp_path):
    """One run undisturbed, one killed every few seconds, a little later each time, until it is through."""
    steps = dict(steps=12, every=0.3)
    undisturbed = run(tmp_path / "whole", **steps)
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    env = {**os.environ, **QUICK_COMPILES}
    kills, patience = 0, 8.0
    while True:
        process = subprocess.Popen(
            command(tmp_path / "cut", **steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, cwd=ROOT
        )
        try:
            assert process.wait(patience) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills, patience = kills + 1, patience + 1.7
            time.sleep(0.2)
    assert kills >= 5
    for stage in ("language", "contrastive", "flamingo"):
        whole, cut = ((tmp_path / w / stage / "result.json").read_text() for w in ("whole", "cut"))
        assert whole == cut  # the weights' content hash and the last losses
        logs = [(tmp_path / w / stage / "metrics.jsonl").read_text() for w in ("whole", "cut")]
        assert logs[0] == logs[1]


def test_collectives_of_fake_devices_are_ordered(monkeypatch):
    """Whoever has set the option, or has one device, is left alone."""
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler"
    for devices, given, expected in (
        ("1", "--a=b", "--a=b"),
        ("8", "", f"{flag}=false"),
        ("8", "--a=b", f"--a=b {flag}=false"),
        ("8", f"{flag}=true", f"{flag}=true"),
    ):
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", devices)
        monkeypatch.setenv("XLA_FLAGS", given)
        train.order_collectives()
        assert os.environ["XLA_FLAGS"] == expected
