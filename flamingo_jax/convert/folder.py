"""A model's folder of our own: what ``convert`` writes and ``flamingo_jax.load`` reads.

DIR/config.json          "model_type": "flamingo_jax"; what the model is, where it came from
DIR/weights/             Orbax; or model.safetensors, in shards with an index when it is large
DIR/tokenizer.json       where the source has one
DIR/text/                of a CLIP, whose vision encoder DIR is: the same of its text tower and its projections
DIR/README.md            the model card of an export
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util as traverse
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import save_file

from flamingo_jax import config as configs
from flamingo_jax.config import ClipTextConfig, LanguageConfig, ModelConfig, NFNetConfig, ViTConfig, suggest
from flamingo_jax.convert.pretrained import Pretrained, from_plain, to_plain
from flamingo_jax.convert.public import read_config
from flamingo_jax.convert.reader import Checkpoint
from flamingo_jax.convert.rules import Rule
from flamingo_jax.convert.shapes import clip_text_shapes, decoder_shapes, encoder_shapes
from flamingo_jax.convert.stored import Stored, plan
from flamingo_jax.convert.tokenizer import load_tokenizer
from flamingo_jax.models.flamingo import Flamingo

MODEL_TYPE = "flamingo_jax"
KINDS = {
    "flamingo": ModelConfig,
    "language": LanguageConfig,
    "vit": ViTConfig,
    "nfnet": NFNetConfig,
    "clip_text": ClipTextConfig,
}
WEIGHTS = "weights"
TEXT = "text"
SHARD = 2 * 2**30  # bytes of a .safetensors file


def read_folder(path: pathlib.Path, config: Mapping[str, Any]) -> Pretrained:
    """The model of a folder of ours. Raises ValueError when its config and its weights do not fit each other."""
    kind = config.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{path}/config.json: kind={kind!r} is unknown; {suggest(str(kind), KINDS)}.")
    ours = configs.build(config.get("config", {}), KINDS[kind], f"{path}/config.json: config")
    new = tuple(config.get("new_tokens") or ())
    shapes, orbax = _shapes(ours, new), path / WEIGHTS
    found = Pretrained(
        ours,
        {},
        new,
        image_token=config.get("image_token"),
        end_token=config.get("end_token"),
        tokenizer=lambda: load_tokenizer(path),
        public=config.get("public") or {},
        training=config.get("training") or {},
        text=lambda: read_folder(path / TEXT, read_config(path / TEXT)) if (path / TEXT).exists() else None,
    )
    if not orbax.exists():
        weights = plan([(Checkpoint(path), str)], [Rule(name, name) for name in shapes], shapes)
        return dataclasses.replace(found, weights=traverse.unflatten_dict(weights, sep="/"))
    tree = from_plain(_metadata(orbax))
    stored = traverse.flatten_dict(tree, sep="/")
    there = {name: tuple(leaf.shape) for name, leaf in stored.items()}
    wrong = [
        f"{name}: {there.get(name, 'nothing')} there, {shapes.get(name, 'nothing')} in the model"
        for name in sorted(there.keys() | shapes.keys())
        if there.get(name) != shapes.get(name)
    ]
    if wrong:
        raise ValueError(f"{orbax} does not fit the model that config.json describes:\n  " + "\n  ".join(wrong))
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    return dataclasses.replace(found, weights=abstract, orbax=orbax)


def _metadata(orbax: pathlib.Path) -> dict:
    try:
        found = ocp.metadata(orbax).metadata
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{orbax} is no whole Orbax checkpoint: {str(error).splitlines()[0][:300]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{orbax} is no whole Orbax checkpoint.")
    return found


def _shapes(config, new_tokens: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """{path: shape} of the weights as they stand in a folder."""
    if isinstance(config, LanguageConfig):
        return decoder_shapes(config)
    if isinstance(config, ClipTextConfig):
        return clip_text_shapes(config)
    if not isinstance(config, ModelConfig):
        return encoder_shapes(config, pool=True)
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    media = jax.ShapeDtypeStruct((1, 1, 1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(Flamingo(config, new_tokens).init, jax.random.key(0), tokens, media, tokens)
    weights = {name: variables[name] for name in ("params", "frozen") if name in variables}
    flat = traverse.flatten_dict(nn.meta.unbox(weights), sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


def describe(model: Pretrained) -> dict[str, Any]:
    """The ``config.json`` of a model."""
    kind = next(name for name, cls in KINDS.items() if isinstance(model.config, cls))
    return {
        "model_type": MODEL_TYPE,
        "kind": kind,
        "config": dataclasses.asdict(model.config),
        "new_tokens": list(model.new_tokens),
        "image_token": model.image_token,
        "end_token": model.end_token,
        "public": dict(model.public),
        "training": dict(model.training),
    }


@contextlib.contextmanager
def whole(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write into, which becomes ``target`` when all is written; else nothing is left of it.

    All processes of a run may write; the first one moves it. Raises ValueError when ``target`` holds something, cannot
    be written, or is being written by another conversion.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"--target={target} is there already; delete it, or name another folder.")
    if target.is_mount():
        raise ValueError(f"--target={target} is a mounted disk, which cannot be moved to; name a folder on it.")
    draft = target.parent / f".{target.name}.partial"
    made = [parent for parent in target.parents if not parent.exists()]
    with _own(draft, target) if jax.process_index() == 0 else contextlib.nullcontext():
        _meet("draft")
        try:
            yield draft
            _meet("written")
            if jax.process_index() == 0:
                draft.replace(target)
            _meet("moved")
        finally:
            if jax.process_index() == 0:
                shutil.rmtree(draft, ignore_errors=True)
                with contextlib.suppress(OSError):  # of folders that were made for it, those that are empty now
                    for parent in made:
                        parent.rmdir()


@contextlib.contextmanager
def _own(draft: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """Makes the folder ``draft`` and locks it; what a killed process has left in it is removed."""
    try:
        draft.mkdir(parents=True, exist_ok=True)
        file = os.open(draft, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"--target={target} cannot be written: {error.strerror}.") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        for child in draft.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        yield
    except BlockingIOError:
        raise ValueError(f"--target={target} is being written by another conversion.") from None
    finally:
        os.close(file)


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"convert {name}")


def write_orbax(draft: pathlib.Path, model: Pretrained, dtype: str | None) -> None:
    """Writes ``weights/``, from all devices of all processes."""
    places = spread(model.weights, jax.devices())
    context = ocp.Context()
    context.array.saving.use_compression = False  # weights are noise: it takes five times as long and gains a fifth
    context.array.saving.use_ocdbt = False  # a file per array and device, written twice as fast
    context.array.saving.use_zarr3 = False  # of which the library warns, without ocdbt, that it finds no data
    with context:
        ocp.save(draft / WEIGHTS, to_plain(model.place(places, dtype)))


def spread(weights: Any, devices: list) -> Any:
    """Shardings of a tree of weights that split every one over all devices, as well as it can be."""
    mesh = jax.make_mesh((len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices)
    return jax.tree.map(lambda leaf: NamedSharding(mesh, _split(leaf, len(devices))), weights)


def _split(leaf: Any, ways: int) -> PartitionSpec:
    """Along the rows of its tensors where they divide, else its largest axis that does, other than the stacked ones."""
    lead = leaf.tensors.ndim if isinstance(leaf, Stored) else 0
    axes = [axis for axis in range(lead, len(leaf.shape)) if leaf.shape[axis] % ways == 0]
    if not axes:
        return PartitionSpec()
    sides = leaf.sides((0,) * lead) if isinstance(leaf, Stored) else ()
    rows = lead + sides[0][0] if sides and sides[0][0] is not None else None
    best = rows if rows in axes else max(axes, key=lambda axis: leaf.shape[axis])
    return PartitionSpec(*(("all" if axis == best else None) for axis in range(len(leaf.shape))))


def write_safetensors(draft: pathlib.Path, tensors: Iterator[tuple[str, np.ndarray]], name: str) -> None:
    """Writes (name, array) one after another: one file, or shards of at most ``SHARD`` bytes with an index."""
    shards: list[list[str]] = []
    open_shard: dict[str, np.ndarray] = {}

    def close():
        save_file(open_shard, draft / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(open_shard))
        open_shard.clear()

    total = 0
    for key, tensor in tensors:
        if open_shard and sum(t.nbytes for t in open_shard.values()) + tensor.nbytes > SHARD:
            close()
        open_shard[key], total = tensor, total + tensor.nbytes
    close()
    stem = name.removesuffix(".safetensors")
    files = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [name] if len(shards) == 1 else files
    for i, file in enumerate(files):
        (draft / f"{i}.part").rename(draft / file)
    if len(shards) > 1:
        places = {key: file for keys, file in zip(shards, files, strict=True) for key in keys}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (draft / f"{name}.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))


def to_ours(model: Pretrained) -> tuple[dict[str, dict], Iterator[tuple[str, np.ndarray]]]:
    """({file: its object}, tensors under our own names, one after another on the host)."""

    def tensors():
        for name, leaf in traverse.flatten_dict(model.here().weights, sep="/").items():
            yield name, np.asarray(leaf)

    return {"config.json": describe(model)}, tensors()
