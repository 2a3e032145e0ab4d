"""``python -m flamingo_jax.train --config=configs/base.py --workdir=DIR``: all stages of a run, one after another.

A stage that is complete in DIR is skipped, one that was interrupted is resumed:

    DIR/config.json          what this folder was made with
    DIR/world/               raw files (only when the config has a world)
    DIR/data/NAME/           prepared records of each dataset
    DIR/tokenizer.json
    DIR/STAGE/               metrics.jsonl, TensorBoard events, checkpoints while it trains, result.json when complete
    DIR/weights/             finished weights, addressed by content
    DIR/evaluation/          results.json, results.md, plots
"""

from __future__ import annotations

import difflib
import functools
import pathlib
import sys
import time

import jax
from absl import app, flags
from ml_collections import config_flags

from flamingo_jax import config as configs
from flamingo_jax.config import RunConfig
from flamingo_jax.data import prepare, record, stream, tokenizer
from flamingo_jax.data.world import write as world
from flamingo_jax.evaluation import evaluate
from flamingo_jax.models.flamingo import Flamingo, assemble
from flamingo_jax.training import checkpoint, loop, sharding
from flamingo_jax.training.objective import OBJECTIVES

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's configuration; override keys with --config.key=value.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of this run.")
_ACCEPT = flags.DEFINE_bool("accept_changed_config", False, "Continue a workdir that another config made.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def run(config: RunConfig, workdir: pathlib.Path, say=print) -> dict:
    """Runs, resumes or skips every stage of ``config`` in ``workdir``. Returns the evaluation's results."""
    _prepare(config, workdir, say)
    words = _tokenizer(config, workdir, say)
    mesh = sharding.make_mesh(config.mesh)
    for name in config.stages:
        _train_stage(name, config, workdir, words, mesh, say)
    return _evaluate(config, workdir, words, say)


def _prepare(config: RunConfig, workdir: pathlib.Path, say) -> None:
    if config.world and not (workdir / "world").exists():
        with _timed("world", say):
            world.write(workdir / "world", config.world)
    for name, dataset in config.datasets.items():
        if not (target := workdir / "data" / name).exists():
            with _timed(f"prepare {name}", say):
                prepare.prepare(dataset, dataset.source.format(workdir=workdir), target)


def _tokenizer(config: RunConfig, workdir: pathlib.Path, say) -> tokenizer.Tokenizer:
    path = workdir / "tokenizer.json"
    if config.tokenizer.path:
        return tokenizer.load(config.tokenizer.path)
    if not path.exists():
        with _timed("tokenizer", say):
            sources = [record.Source(workdir / "data" / name) for name in config.tokenizer.datasets]
            texts = (source[i].text for source in sources for i in range(len(source)))
            tokenizer.train(texts, config.tokenizer.vocab_size).save(path)
    return tokenizer.load(path)
