"""Compiled programs that are kept: a later process takes them from the folder."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from flamingo_jax.training import compilation

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import collections, pathlib, sys
import jax, jax.numpy as jnp
from flamingo_jax.training import compilation

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: counts.update([name.rpartition("/")[2]]))
jnp.ones(3) + 1  # before the folder is known
compilation.keep("{workdir}/kept", pathlib.Path(sys.argv[1]))
jax.block_until_ready(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8))))
print(counts["cache_hits"], counts["cache_misses"])
"""


def test_a_second_process_compiles_nothing_anew(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}

    def counted():
        command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
        assert not result.stderr
        return tuple(map(int, result.stdout.split()))

    hits, misses = counted()
    assert hits == 0 and misses >= 1
    assert counted() == (misses, 0)
    assert any(path.name.startswith("jit") for path in (tmp_path / "kept").iterdir())


@pytest.fixture
def updates(monkeypatch):
    """What is set in jax.config, where the tests' own folder is not."""
    before, found = jax.config.jax_compilation_cache_dir, {}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.setattr(compilation.compilation_cache, "reset_cache", lambda: None)
    yield found
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    "folder, backend, expected",
    [
        ("auto", "cpu", None),
        ("auto", "tpu", "/runs/a/compilation_cache"),
        ("", "tpu", None),
        ("gs://bucket/programs", "cpu", "gs://bucket/programs"),
    ],
)
def test_where_they_are_kept(updates, monkeypatch, folder, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    compilation.keep(folder, pathlib.Path("/runs/a"))
    assert updates.get("jax_compilation_cache_dir") == expected
