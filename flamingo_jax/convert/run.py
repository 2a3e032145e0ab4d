"""One conversion: from what ``--source`` names to a folder of ours."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util as traverse
import jax
import numpy as np

from flamingo_jax.convert import card, folder
from flamingo_jax.convert.export import EXPORTS
from flamingo_jax.convert.hub import fetch
from flamingo_jax.convert.load import find
from flamingo_jax.convert.pretrained import Pretrained
from flamingo_jax.convert.stored import Stored

_CHECKPOINTS = (".pt", ".bin", ".safetensors")
VERSION = 1  # of the rules: another one when the same files become other weights


@dataclasses.dataclass(frozen=True)
class Source:
    """What ``--source`` names: the model, its folder, the hub's commit."""

    name: str
    path: pathlib.Path
    commit: str | None
    model: Pretrained


def open_source(
    source: str, revision: str | None = None, parts: Mapping[str, Any] | None = None, find: Callable = find
) -> Source:
    """Finds the model that a folder, a hub id, or OpenFlamingo's checkpoint is, without reading weights.

    parts: of a checkpoint of OpenFlamingo: "language" and "vision", folders or hub ids, and "every", "eoc" as flags.
    find: (folder, config or None) -> model.
    Raises ValueError naming what is missing or does not fit.
    """
    given = {name: value for name, value in (parts or {}).items() if value is not None}
    if given and "/" in source and pathlib.Path(source).suffix in _CHECKPOINTS and not pathlib.Path(source).exists():
        raise ValueError(f"There is no file {source}.")
    path, commit = fetch(source, revision)
    if path.is_dir() and not given:
        return Source(source, path, commit, find(path))
    if path.is_dir() and (path / "config.json").exists():
        raise ValueError(f"{source} holds a model of its own; --language and the like belong to a checkpoint alone.")
    if path.is_file() and path.suffix not in _CHECKPOINTS:
        raise ValueError(f"{source} is a file; give the folder that holds it.")
    if missing := {"language", "vision"} - given.keys():
        raise ValueError(
            f"{source} is no folder of a model: give the folder that holds it or, of a checkpoint of OpenFlamingo, "
            f"where the rest is: --{' and --'.join(sorted(missing))} too."
        )
    folders = {name: str(fetch(given[name])[0].absolute()) for name in ("language", "vision")}
    config = {
        "lm": folders["language"],
        "vision": folders["vision"],
        "cross_attn_every_n_layers": given.get("every"),
        "eoc_token_id": given.get("eoc"),
        "media_token_id": given["eoc"] + 1 if "eoc" in given else None,
    }
    if path.is_file():
        config["checkpoint"], path = path.name, path.parent
    return Source(source, path, commit, find(path, config))


def render(source: Source, layout: str = "orbax", dtype: str | None = None) -> str:
    """The plan as text: our weights, the shapes and types that they get, and the tensors that they come from.

    Raises ValueError where ``convert`` would, but for the target.
    """
    _check(source, layout, dtype)
    text, without = _text(source)
    rows, total = [], 0
    for place, model in {"": source.model, f"{folder.TEXT}/": text}.items():
        for path, leaf in traverse.flatten_dict(model.weights).items() if model else ():
            kind = model.stored_as(path, leaf, dtype)
            total += leaf.size * jax.numpy.dtype(kind).itemsize
            rows.append((place + "/".join(path), "x".join(map(str, leaf.shape)) or "1", kind, _origin(leaf)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "\n".join([*lines, f"{len(rows)} weights, {total:,} bytes{without}; nothing was read or written."])


def _check(source: Source, layout: str, dtype: str | None):
    """What ``layout`` writes of the source: see ``EXPORTS``. Raises ValueError when it does not fit."""
    if dtype == "int8" and layout != "orbax":
        raise ValueError(f"int8 is a type of our own folders in Orbax; --export={layout} needs float32 or bfloat16.")
    return EXPORTS[layout][0](source.model)


def _text(source: Source) -> tuple[Pretrained | None, str]:
    """(what a CLIP has beside its vision encoder, which is converted along; why it is not, to be said)."""
    try:
        text = source.model.text()
        if text is not None:
            text.tokenizer()
        return text, ""
    except ValueError as error:
        return None, f", without its text tower ({error})"


def _origin(leaf: Any) -> str:
    if not isinstance(leaf, Stored):
        return "the same, in Orbax"
    names = [name for _, name in leaf.tensors.flat]
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]} ({len(names)})"


def convert(source: Source, target: str, layout: str = "orbax", dtype: str | None = None) -> str:
    """Writes the model to ``target``: whole, or nothing. Returns what was done, in a sentence.

    Raises ValueError when ``target`` holds something else.
    """
    written = _check(source, layout, dtype)
    text, without = _text(source)
    path, address = pathlib.Path(target).resolve(), fingerprint(source, layout, dtype)
    if _source_of(path).get("address") == address:
        try:
            find(path)
        except ValueError as error:
            raise ValueError(f"--target={target} is there already, but damaged ({error}); delete it.") from None
        return f"{target} holds this conversion already."
    if (other := _source_of(path).get("name")) is not None:
        raise ValueError(
            f"--target={target} holds another conversion (of {other}, which has changed since, or with other options); "
            "delete it, or name another folder."
        )
    written[0]["config.json"] |= {"source": {"name": source.name, "commit": source.commit, "address": address}}
    with folder.whole(path) as draft:
        _write(draft, source.model, layout, dtype, *written)
        if text is not None:
            _write(draft / folder.TEXT, text, layout, dtype, *EXPORTS[layout][0](text))
        if jax.process_index() == 0:
            (draft / "README.md").write_text(card.render(source.model, path.name, layout, text is not None))
    return f"{target}: {_size(path):,} bytes{without}"


def _write(
    draft: pathlib.Path,
    model: Pretrained,
    layout: str,
    dtype: str | None,
    files: Mapping[str, Any],
    tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
    """Writes a model, but for its card. files, tensors: what ``EXPORTS`` has for ``layout``."""
    if jax.process_index() == 0:
        draft.mkdir(exist_ok=True)
    if layout == "orbax":
        folder.write_orbax(draft, model, dtype)
    elif jax.process_index() == 0:
        cast = ((name, tensor.astype(dtype or tensor.dtype, copy=False)) for name, tensor in tensors)
        folder.write_safetensors(draft, cast, EXPORTS[layout][1])
    if jax.process_index() == 0:
        for name, content in files.items():
            (draft / name).write_text(json.dumps(content, indent=2))
        if (vocabulary := model.tokenizer()) is not None:
            vocabulary.save(draft / "tokenizer.json")


def _size(path: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _source_of(path: pathlib.Path) -> dict:
    """What a folder of ours says of its source."""
    try:
        return dict(json.loads((path / "config.json").read_text())["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def fingerprint(source: Source, layout: str = "orbax", dtype: str | None = None) -> str:
    """A hash of the source, the rules' version and what is asked for.

    A hub's commit says which files they are; files on disk are known by their names, sizes and times of change, the
    stages of a run by their weights.
    """
    digest = hashlib.sha256()
    for model in filter(None, (source.model, _text(source)[0])):
        described = [VERSION, layout, dtype, source.commit, folder.describe(model)]
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        if (vocabulary := model.tokenizer()) is not None:
            digest.update(vocabulary.text().encode())
        leaves = [leaf for leaf in jax.tree.leaves(model.weights) if isinstance(leaf, Stored)]
        files = {file for leaf in leaves for one, _ in leaf.tensors.flat for file in one.files}
        for leaf in jax.tree.leaves(model.weights):
            if isinstance(leaf, np.ndarray | jax.Array):  # read already, as a run's are
                digest.update(np.ascontiguousarray(leaf).tobytes())
        if model.orbax:
            files |= {file for file in model.orbax.rglob("*") if file.is_file()}
        for file in sorted(files) if source.commit is None else ():
            status = file.stat()
            digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns} ".encode())
    return digest.hexdigest()[:32]
