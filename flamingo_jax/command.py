"""What the commands that take a run's configuration share: the flag, its overrides, and what is wrong with them."""

from __future__ import annotations

import functools
import inspect
import pathlib
import re
import runpy
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags

from flamingo_jax import config as configs
from flamingo_jax.errors import HINT

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The run's configuration; override keys with --config.key=value.",
    lock_config=False,
    accept_new_attributes=True,  # a key that the file leaves at its default; ``check_path`` refuses what is unknown
)
EXAMPLE = "--config=configs/base.py, or --config=configs/base.py:quick for a first look"


def _load(path: str, *variant: str) -> object:
    """What a config file gives, to know its names: the flag library reads the file itself, together with overrides."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path!r} in {pathlib.Path.cwd()}, which --config asks for.")
    try:
        names = runpy.run_path(path)
    except SyntaxError as error:
        where = f"line {error.lineno} is" if error.lineno else "it is"
        raise ValueError(f"--config={path} is not a config file: {where} no Python.") from None
    if "get_config" not in names:
        raise ValueError(f"{path} defines no function get_config, which returns the configuration.")
    if variant and not inspect.signature(names["get_config"]).parameters:
        raise ValueError(f"{path} has no variants; leave out {':' + variant[0]!r}.")
    return names["get_config"](*variant)


def make_parser(program: str) -> Callable[[list[str]], list[str]]:
    """A parser of command lines; what is wrong with one ends the program with one sentence that names ``program``."""
    return functools.partial(_parse, program)


def _parse(program: str, argv: list[str]) -> list[str]:
    try:
        loaded = None
        if given := re.findall(r"(?:^|\0)--?config[=\0]([^\0]*)", "\0".join(argv[1:])):
            loaded = _load(*given[-1].split(":", 1))
        for argument in argv[1:]:
            if match := re.match(r"--?(config(\.\w+)+)(=|$)", argument):
                configs.check_path(match[1], loaded)
        return flags.FLAGS(argv)
    except Exception as error:  # the config file is a program, so anything can happen in it
        if "--traceback" in argv:
            raise
        # When a config file fails, the flag library puts the traceback into the message, above the error itself.
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, (ValueError, OSError, flags.Error)) else f"{type(error).__name__}: "
        sys.exit(f"{program}: {kind}{lines[-1]}{HINT if kind or len(lines) > 1 else ''}")
