"""Public checkpoints on disk, read lazily: names and shapes from headers, one tensor at a time from the files."""

from __future__ import annotations

import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable

import ml_dtypes  # noqa: F401  (teaches numpy bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

_NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Checkpoint:
    """The tensors of a folder in Hugging Face layout, or of one file.

    shapes: {name: shape}. get(name) reads one tensor as numpy. Raises ValueError when there are no weights, an index
    names a file that is missing, or a file is not whole.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._get: dict[str, Callable[[], np.ndarray]] = {}
        for file in self._files():
            _OPENERS[file.suffix](file, self.shapes, self._get)

    def get(self, name: str) -> np.ndarray:
        return self._get[name]()

    def _files(self) -> list[pathlib.Path]:
        if self.path.is_file():
            return [self.path]
        for name in _NAMES:
            index = self.path / f"{name}.index.json"
            if index.exists():
                try:
                    files = sorted({self.path / file for file in json.loads(index.read_text())["weight_map"].values()})
                except (json.JSONDecodeError, KeyError) as error:
                    raise ValueError(f"{index} is no index of weights: {error}.") from None
                if missing := [file.name for file in files if not file.exists()]:
                    raise ValueError(f"{index} names files that are not there: {', '.join(missing)}.")
                return files
            if (self.path / name).exists():
                return [self.path / name]
        raise ValueError(
            f"{self.path} has no weights, neither model.safetensors nor pytorch_model.bin, whole or with an index."
        )


def _open_safetensors(file: pathlib.Path, shapes: dict, get: dict) -> None:
    try:
        handle = safe_open(file, framework="np")
    except SafetensorError as error:  # cut short, or a pointer of git-lfs
        raise ValueError(f"{file} is no whole .safetensors file: {error}.") from None
    for name in handle.keys():  # noqa: SIM118  (the handle is no mapping)
        shapes[name] = tuple(handle.get_slice(name).get_shape())
        get[name] = lambda name=name: handle.get_tensor(name)


def _open_torch(file: pathlib.Path, shapes: dict, get: dict) -> None:
    try:
        import torch
    except ImportError:
        raise ValueError(f"{file} is a PyTorch file; install torch to read it, or use the .safetensors file.") from None
    # Files of before torch 1.6 are no zip archives and cannot be mapped.
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{file} is no whole PyTorch file: {str(error).splitlines()[0]}") from None
    for key in ("model_state_dict", "state_dict"):
        tensors = tensors.get(key, tensors)

    def read(tensor):
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:  # numpy has no such type of its own
            return tensor.view(torch.uint16).numpy().view("bfloat16")
        return tensor.numpy()

    for name, tensor in tensors.items():
        shapes[name] = tuple(tensor.shape)
        get[name] = lambda tensor=tensor: read(tensor)


_OPENERS = {".safetensors": _open_safetensors, ".bin": _open_torch, ".pt": _open_torch}
