"""Runs the launchers, with programs of the cloud's tools' names on PATH that write down how they were called."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


@pytest.fixture
def launch(tmp_path):
    """launch("tpu_vm.sh", "create", ..., ZONE="z"): the finished process. Programs in ``tmp_path/bin`` come first."""
    (tmp_path / "bin").mkdir(exist_ok=True)

    def run(script: str, *arguments: str, timeout: float = 60, **variables: str) -> subprocess.CompletedProcess:
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [LAUNCH / script, *arguments],
            env={"HOME": os.environ["HOME"], "PATH": path, **variables},
            capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        )  # fmt: skip

    return run


@pytest.fixture
def stub(tmp_path):
    """stub("gcloud", "echo hello"): puts a program on PATH; it writes its arguments to ``calls`` and does as told."""

    def write(name: str, body: str = "", folder: pathlib.Path = tmp_path / "bin") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        call = f'echo "{name}$(printf " %q" "$@")" >> {tmp_path}/calls'  # one write, as several may call at once
        (folder / name).write_text(f"#!/usr/bin/env bash\n{call}\n{body}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def calls(tmp_path):
    """calls(): what the programs of ``stub`` were called with, a line each."""
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


@pytest.fixture(scope="session")
def commit() -> str:
    return subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip()


@pytest.fixture(scope="session")
def gcloud_accepts(tmp_path_factory):
    """Asks the real gcloud, where it is installed, whether it knows a command and its options. Nothing is run."""
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    folder = tmp_path_factory.mktemp("gcloud")
    quiet = {"CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1", "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1"}

    def accepts(commands: list[str]) -> list[str]:
        """What is wrong with them."""
        file = folder / "commands.json"
        file.write_text(json.dumps([{"command_string": line, "id": n} for n, line in enumerate(commands)]))
        result = subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
            capture_output=True, text=True, env={**os.environ, **quiet, "CLOUDSDK_CONFIG": str(folder)},
        )  # fmt: skip
        if result.returncode:
            pytest.skip(f"this gcloud cannot check commands: {result.stderr[-300:]}")
        return [f"{r['command_string']}: {r['error_message']}" for r in json.loads(result.stdout) if not r["success"]]

    return accepts
