"""The checks of the pre-commit hooks, so that one command tests all."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff(arguments):
    result = subprocess.run([sys.executable, "-m", "ruff", *arguments, str(ROOT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_no_file_grows_beyond_400_lines():
    long = {path: n for path in ROOT.glob("flamingo_jax/**/*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert not long
