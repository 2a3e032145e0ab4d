"""launch/worker.sh: what happens on a host, with programs in the place of systemd's and uv."""

import getpass
import pathlib
import shlex
import shutil
import subprocess

import pytest

OPTIONS = ["--project=p", "--zone=z", "--bucket=gs://b/x"]


@pytest.fixture
def host(launch, stub, tmp_path, commit):
    """A host with the code in its place; host(command) runs what ssh would; the folder of the code is ``host.code``."""
    stub("sudo", 'exec "$@"')
    stub(
        "systemctl",
        'if [[ $1 == is-active ]]; then exit "${INACTIVE:-3}"; fi; echo "argv[]=/bin/bash $CODE/command.sh ;"',
    )
    stub("sleep")
    stub("gcsfuse", 'echo "  --enable-streaming-writes   Enables streaming uploads"')
    code = tmp_path / "flamingo" / commit
    shutil.copytree(pathlib.Path(__file__).parents[2] / "launch", code / "launch")
    (tmp_path / "units").mkdir()

    def run(command: str, **variables: str) -> subprocess.CompletedProcess:
        path = f"{tmp_path / 'bin'}:/usr/local/bin:/usr/bin:/bin"
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True,
            env={"HOME": str(tmp_path), "PATH": path, "UNITS": str(tmp_path / "units"), "CODE": str(code),
                 "GCS_FOLDER": str(tmp_path / "gcs"), **variables},
        )  # fmt: skip

    run.code = code
    return run


def remote(launch, *arguments: str) -> str:
    """What tpu_vm.sh has ssh do."""
    printed = launch("tpu_vm.sh", arguments[0], "flam", *OPTIONS, *arguments[1:], "--dry-run").stdout
    return shlex.split(printed.splitlines()[-1])[-1].removeprefix("--command=")


def test_setup_installs_once_and_tries_again(host, stub, calls, tmp_path):
    stub("python3")
    fails_once = f"[[ $1 != pip || -e {tmp_path}/tried ]] || {{ touch {tmp_path}/tried; exit 1; }}"
    stub("uv", fails_once, folder=tmp_path / ".local" / "bin")
    venv = host.code / ".venv"
    install = f"uv pip install --quiet --python={venv}/bin/python --editable={host.code}[tpu]"
    command = f"bash {host.code}/launch/worker.sh setup"
    venv.mkdir()
    result = host(command)
    assert result.returncode == 0, result.stderr
    assert "attempt 1 of 5 failed" in result.stderr
    assert [shlex.join(shlex.split(call)) for call in calls()] == [
        "gcsfuse --help",
        f"sudo install --directory --owner={getpass.getuser()} {tmp_path}/gcs",
        "python3 -m pip install --quiet --user uv",
        f"uv venv --quiet --clear --python=3.12 {venv}",
        shlex.join(shlex.split(install)),
        "sleep 5",
        shlex.join(shlex.split(install)),
    ]
    assert (tmp_path / "gcs").is_dir()
    assert host(command).returncode == 0 and len(calls()) == 7


@pytest.mark.parametrize("found", ["exit 127", "echo '  --stat-cache-ttl duration'"], ids=["missing", "too old"])
def test_setup_installs_gcsfuse(host, stub, calls, tmp_path, found):
    stub("gcsfuse", found)
    stub("python3")
    stub("uv", folder=tmp_path / ".local" / "bin")
    fails_once = f"[[ -e {tmp_path}/tried ]] || {{ touch {tmp_path}/tried; exit 100; }}"
    stub("install_gcsfuse.sh", fails_once, folder=host.code / "launch")
    (host.code / ".venv").mkdir()
    assert host(f"bash {host.code}/launch/worker.sh setup").returncode == 0
    once = [f"sudo {host.code}/launch/install_gcsfuse.sh", "install_gcsfuse.sh ''"]
    assert calls()[:6] == ["gcsfuse --help", *once, "sleep 5", *once]
    assert (host.code / ".venv" / "complete").exists()


def test_setup_that_fails_five_times_fails(host, stub):
    stub("python3", "exit 1")
    result = host(f"bash {host.code}/launch/worker.sh setup")
    assert result.returncode != 0 and "attempt 5 of 5 failed" in result.stderr
    assert not (host.code / ".venv" / "complete").exists()


def test_run_starts_a_service_that_calls_the_trainer_as_it_was_asked(launch, host, stub, calls, tmp_path):
    values = ["--config.a=(1, 'it''s')", '--config.b={"k": "$HOME `ls` \\\\"}', "--config.c="]
    command = remote(launch, "run", "--config=configs/my base.py:quick", "--env=FLAGS=--a --b='$c'", *values)
    result = host(command)
    assert result.returncode == 0, result.stderr
    unit = (tmp_path / "units" / "flamingo.service").read_text()
    for line in (
        f"ExecStart=/bin/bash {host.code}/command.sh",
        f"ExecStopPost=-+/bin/bash {host.code}/launch/worker.sh keep_log gs://b/x/logs/flam",
        "Restart=on-failure",
        "RestartPreventExitStatus=65",
        "KillMode=mixed",
        "TimeoutStopSec=600",
    ):
        assert line in unit.splitlines()
    systemd = [call for call in calls() if call.startswith("systemctl")]
    assert systemd == [
        "systemctl is-active --quiet flamingo",
        "systemctl daemon-reload",
        "systemctl reset-failed flamingo",
        "systemctl enable --quiet flamingo",
        "systemctl restart --no-block flamingo",
    ]
    stub("mountpoint")
    stub("python", 'pwd; echo "$JAX_PLATFORMS $FLAGS"; printf "%s\\n" "$@"', folder=host.code / ".venv" / "bin")
    assert host(f"/bin/bash {host.code}/command.sh").stdout.splitlines() == [
        str(host.code),
        "tpu,cpu --a --b='$c'",
        "-m",
        "flamingo_jax.train",
        "--config=configs/my base.py:quick",
        *values,
        "--workdir=/gcs/b/x/runs/flam",
    ]
    assert calls()[-2] == f"mountpoint -q {tmp_path}/gcs/b"


def test_the_unit_is_one_that_systemd_takes(launch, host, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    host(remote(launch, "run", "--config=c.py"))
    result = subprocess.run(
        [analyze, "verify", tmp_path / "units" / "flamingo.service"], capture_output=True, text=True
    )
    assert result.returncode == 0 and not result.stderr


def test_run_leaves_the_same_command_at_work_and_refuses_another(launch, host, calls):
    assert host(remote(launch, "run", "--config=c.py")).returncode == 0
    before = len(calls())
    assert host(remote(launch, "run", "--config=c.py"), INACTIVE="0").returncode == 0
    assert [call for call in calls()[before:] if "restart" in call] == []
    other = host(remote(launch, "run", "--config=d.py"), INACTIVE="0")
    assert other.returncode == 1 and "Another command is at work" in other.stderr and "stop it first" in other.stderr


def test_the_log_is_kept_in_the_bucket(host, stub, calls):
    stub("journalctl", "echo last words")
    stub("gcloud", "cat > $CODE/kept")
    assert host(f"bash {host.code}/launch/worker.sh keep_log gs://b/logs/flam").returncode == 0
    assert (host.code / "kept").read_text() == "last words\n"
    assert any(call.startswith("gcloud storage cp - gs://b/logs/flam/") and call.endswith(".log") for call in calls())


def test_dry_run(host, calls):
    for command in ("setup", "run gs://b/l b A=b -- --config=c.py", "keep_log gs://b/l"):
        result = host(f"bash {host.code}/launch/worker.sh --dry-run {command}")
        assert result.returncode == 0 and result.stdout
    assert calls() == ["gcsfuse --help"] and not (host.code / "command.sh").exists()
    assert host(f"bash {host.code}/launch/worker.sh what").returncode == 2
