"""What the readers of public configs share: the file, names of activations, errors for what is not implemented."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flamingo_jax.config import suggest

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
}


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """A folder's ``config.json``. Raises ValueError when it is missing or no JSON."""
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds it.")
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}; download a public model into a folder first.")
    file = next((path / name for name in ("config.json", "open_clip_config.json") if (path / name).exists()), None)
    if file is None:
        raise ValueError(f"{path} has no config.json, which says what model it holds.")
    return read_json(file)


def read_json(file: pathlib.Path) -> dict[str, Any]:
    """The object of a JSON file. Raises ValueError when it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON: {error}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold an object, not {type(content).__name__}.")
    return content


def activation(name: str) -> str:
    """Our name of an activation. Raises ValueError for one that is not implemented."""
    if name not in ACTIVATIONS:
        raise ValueError(f"The activation {name!r} is not implemented; {suggest(name, ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def refuse(config: Mapping[str, Any], **usual) -> None:
    """Raises ValueError when an option has another value than the one that is implemented."""
    for key, value in usual.items():
        if config.get(key, value) not in (value, None):
            raise ValueError(f"{config['model_type']}: {key}={config[key]!r} is not implemented, only {value!r}.")


@contextlib.contextmanager
def needing(what: str):
    """Turns the absence of a key that ``what`` cannot do without, or a value of a wrong type, into a ValueError."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{what}: the config has no {error}, which the model cannot do without.") from None
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{what}: a value of the config is of a wrong type or zero: {error}.") from None
