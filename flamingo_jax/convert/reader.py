"""Public checkpoints on disk, read lazily: names, shapes and types from headers, one tensor at a time from the files.

Files come from strangers: nothing in them is run, and what they say about themselves is checked before it is believed.
"""

from __future__ import annotations

import json
import math
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

_NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")

# Types in headers -> numpy's.
_TYPES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool", "I8": "int8",
    "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


class Checkpoint:
    """The tensors of a folder in Hugging Face layout, or of one file.

    shapes, types: {name: shape}, {name: numpy dtype}. files: what it consists of. get(name, rows, columns) reads one
    tensor, or a part of a matrix, as numpy. Raises ValueError, with the file and the tensor, when there are no weights,
    an index names a file that is missing or outside of the folder, two files hold the same tensor, or a file is not
    whole.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, np.dtype] = {}
        self._get: dict[str, Callable[..., np.ndarray]] = {}
        holder: dict[str, pathlib.Path] = {}
        self.files = self._files()
        for file in self.files:
            if file.suffix not in _OPENERS:
                raise ValueError(f"{file} is no file of weights; known here: {', '.join(sorted(_OPENERS))}.")
            for name, shape, kind, get in _OPENERS[file.suffix](file):
                if name in holder:
                    raise ValueError(f"{file} and {holder[name]} both hold the tensor {name}.")
                self.shapes[name], self.types[name], self._get[name], holder[name] = shape, kind, get, file

    def get(self, name: str, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """The tensor, or these rows and columns of its first two axes."""
        return self._get[name](*(rows, columns)[: len(self.shapes[name])])

    def _files(self) -> list[pathlib.Path]:
        if self.path.is_file():
            return [self.path]
        for name in _NAMES:
            index = self.path / f"{name}.index.json"
            if index.exists():
                return _indexed(index)
            if (self.path / name).exists():
                return [self.path / name]
        raise ValueError(
            f"{self.path} has no weights, neither model.safetensors nor pytorch_model.bin, whole or with an index."
        )


def _indexed(index: pathlib.Path) -> list[pathlib.Path]:
    """The files that an index names."""

    def once(pairs):
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []:
            raise ValueError(f"{index} names tensors twice: {', '.join(twice)}.")
        return dict(pairs)

    try:
        places = json.loads(index.read_text(), object_pairs_hook=once)["weight_map"]
        files = sorted(set(places.values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of weights: {error}.") from None
    for file in files:
        if not isinstance(file, str) or pathlib.PurePath(file).name != file:
            named = [name for name, place in places.items() if place == file]
            tensors = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
            raise ValueError(f"{index} names the file {file!r} for {tensors}, which is not in its own folder.")
    if missing := [file for file in files if not (index.parent / file).exists()]:
        raise ValueError(f"{index} names files that are not there: {', '.join(missing)}.")
    return [index.parent / file for file in files]


def _open_safetensors(file: pathlib.Path):
    for name, (kind, shape, start) in _header(file).items():
        yield name, shape, kind, lambda *block, at=(kind, shape, start): _read(file, *at, block)


def _read(file: pathlib.Path, kind: np.dtype, shape: tuple[int, ...], start: int, block: tuple[slice, ...]):
    """A block of a tensor in its file; whole rows are read. Not mapped: that counts as memory, and is slower."""
    if not block:
        return np.fromfile(file, kind, math.prod(shape), offset=start).reshape(shape)
    first, last, _ = block[0].indices(shape[0])
    row = math.prod(shape[1:])
    rows = np.fromfile(file, kind, (last - first) * row, offset=start + first * row * kind.itemsize)
    return rows.reshape(last - first, *shape[1:])[(slice(None), *block[1:])]


def _header(file: pathlib.Path) -> dict[str, tuple[np.dtype, tuple[int, ...], int]]:
    """{name: (type, shape, first byte)} of a .safetensors file. ValueError naming the tensor that does not fit."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= size - 8:
            hint = "; it is a pointer of git-lfs, download the file itself" if start == b"version " else ""
            raise ValueError(f"{file} is no whole .safetensors file: no header fits into its {size} bytes{hint}.")
        text = handle.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is no whole .safetensors file: its header is no JSON ({error}).") from None
    out = {}
    for name, entry in entries.items():
        try:
            kind, shape, (begin, stop) = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
            fits = stop - begin == kind.itemsize * math.prod(shape) and all(n >= 0 for n in shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: the header's entry of {name} is damaged: {error!r}.") from None
        if not fits or not 0 <= begin <= stop:
            raise ValueError(
                f"{file}: {name} is said to be {entry['dtype']} {list(shape)}, but its bytes go from {begin} to {stop}."
            )
        if 8 + length + stop > size:
            raise ValueError(f"{file} is no whole .safetensors file: it ends before {name} does.")
        out[name] = kind, shape, 8 + length + begin
    try:
        with safe_open(file, framework="np"):  # the library's own checks: no gaps, no overlaps
            return out
    except SafetensorError as error:
        raise ValueError(f"{file} is no whole .safetensors file: {error}.") from None


def _open_torch(file: pathlib.Path):
    try:
        import torch
    except ImportError:
        raise ValueError(f"{file} is a PyTorch file; install torch to read it, or use the .safetensors file.") from None
    # Files of before torch 1.6 are no zip archives and cannot be mapped.
    try:
        with warnings.catch_warnings(action="ignore"):
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # whatever a damaged pickle makes of its reader
        # Whether it is damaged or hostile, torch may advise to read it by running it; that advice is not passed on.
        if "unsupported global" in str(error).lower() or "unsupported class" in str(error).lower():
            raise ValueError(f"{file} holds more than tensors, which might run code; it is not read.") from None
        lines = [line for line in str(error).splitlines() if "weights_only" not in line]
        reason = next(iter(lines), type(error).__name__)
        raise ValueError(f"{file} is no whole PyTorch file: {reason}") from None
    for key in ("model_state_dict", "state_dict"):
        tensors = tensors.get(key, tensors) if isinstance(tensors, Mapping) else {key: tensors}

    def read(tensor, block):
        tensor = tensor.detach()[block] if block else tensor.detach()
        if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
            return tensor.contiguous().view(torch.uint16).numpy().view("bfloat16")
        return tensor.numpy()

    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{file}: {name} is no tensor but a {type(tensor).__name__}.")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"{file}: {name} is a {tensor.layout} tensor of {tensor.dtype}, which is not read.")
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        yield name, tuple(tensor.shape), kind, lambda *block, tensor=tensor: read(tensor, block)


_OPENERS = {".safetensors": _open_safetensors, ".bin": _open_torch, ".pt": _open_torch}
