"""The streams that a run's stages read, and their rows as a page to look at."""

from __future__ import annotations

import dataclasses
import glob
import json
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

from flamingo_jax import config as configs
from flamingo_jax import sources
from flamingo_jax.config import DatasetConfig, ExampleConfig, MixConfig, RunConfig, StreamsConfig
from flamingo_jax.data import record, stream, tokenizer
from flamingo_jax.data import sources as data_sources
from flamingo_jax.data.show import examples

_AT_ONCE = StreamsConfig(threads=0)


def resolve(dataset: DatasetConfig, workdir: pathlib.Path) -> DatasetConfig:
    """A dataset with this run's folder in the paths of its raw files."""
    escaped = glob.escape(str(workdir))
    paths = {key: getattr(dataset, key).replace("{workdir}", escaped) for key in ("source", "images")}
    return dataclasses.replace(dataset, **paths)


def open_source(config: RunConfig, name: str, workdir: pathlib.Path) -> data_sources.Source:
    """Where the documents of a run's dataset are read from."""
    return data_sources.open_source(resolve(config.datasets[name], workdir), workdir / "data" / name)


def open_stream(
    config: RunConfig,
    stage: str,
    dataset: str,
    workdir: pathlib.Path,
    vocabulary: tokenizer.Tokenizer,
    mix: MixConfig | None = None,
    **options: Any,
) -> stream.Stream:
    """What stage ``stage`` reads of a dataset, to train on or to be validated by, from its beginning: a function of
    these names and the run's seed.

    mix: another than the stage's. options: of ``data.stream.stream``. Raises ValueError as that and the source.
    """
    field = "mixture" if dataset in config.stages[stage].mixture else "validation"
    try:
        return stream.stream(
            open_source(config, dataset, workdir),
            vocabulary,
            config.datasets[dataset].example,
            mix or getattr(config.stages[stage], field)[dataset],
            seed=zlib.crc32(f"{config.seed}/{stage}/{dataset}".encode()),
            name=dataset,
            **options,
        )
    except ValueError as error:
        raise ValueError(f"config.stages.{stage}.{field}.{dataset}: {error}") from None


def show_run(workdir: str, dataset: str, count: int) -> str:
    """The first ``count`` rows that the last stage of a run to read the dataset reads of it, as an HTML page.

    Raises ValueError when the run reads no such dataset, or has no tokenizer yet.
    """
    folder = pathlib.Path(workdir)
    try:
        config = configs.build(json.loads((folder / "config.json").read_text()), path=f"{folder}/config.json: config")
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"--run={workdir} is no folder of a run: cannot read its config.json ({error}).") from None
    name = pathlib.Path(dataset).name
    stage = next((stage for stage in reversed(config.order) if name in config.stages[stage].mixture), None)
    if stage is None:
        known = sorted({name for stage in config.order for name in config.stages[stage].mixture})
        raise ValueError(f"--target={dataset}: no stage of {workdir} reads a dataset of that name; {', '.join(known)}.")
    own = folder / "data" / name
    if pathlib.Path(dataset).resolve() != own.resolve():
        raise ValueError(f"--target={dataset} is no dataset of --run={workdir}, whose are in {own.parent}.")
    mix, vocabulary = config.stages[stage].mixture[name], sources.run_tokenizer(config, folder)
    if mix.pack == 1:
        mix = dataclasses.replace(mix, batch_size=min(count, mix.batch_size))
    batch = next(open_stream(config, stage, name, folder, vocabulary, mix, streams=_AT_ONCE))
    return _page(f"{dataset}: the first rows of {stage}", batch, count, vocabulary)


def show_dataset(directory: str, tokenizer_path: str, options: Mapping[str, Any], count: int) -> str:
    """``count`` examples of a prepared dataset as an HTML page. options: keys of ``ExampleConfig``."""
    vocabulary = sources.open_tokenizer(pathlib.Path(tokenizer_path), "--tokenizer")
    example = configs.build({"length": 256} | dict(options), ExampleConfig, "--set")
    source = record.Source(directory)
    mix = MixConfig(min(count, len(source)))
    batch = next(stream.stream(source, vocabulary, example, mix, seed=0, name=directory, streams=_AT_ONCE))
    return _page(f"{directory}: examples", batch, count, vocabulary)


def _page(title: str, batch: Mapping[str, Any], count: int, vocabulary: tokenizer.Tokenizer) -> str:
    return examples.render(title, {key: value[:count] for key, value in batch.items()}, vocabulary)
