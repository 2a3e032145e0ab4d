"""``python -m flamingo_jax.train --config=configs/base.py --workdir=DIR``: all stages of a run, one after another.

A stage that is complete in DIR is skipped, one that was interrupted is resumed:

    DIR/config.json          the configuration of the last start
    DIR/world/               raw files (only when the config has a world)
    DIR/data/NAME/           prepared records of each dataset
    DIR/tokenizer.json
    DIR/STAGE/               metrics.jsonl, TensorBoard events, checkpoints while it trains, result.json when complete;
                             inputs.json: the weights it builds on (when they change, it and the evaluation start anew)
    DIR/weights/             finished weights, addressed by content
    DIR/evaluation/          results.json, results.md, plots
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import pathlib
import re
import runpy
import sys
import warnings

from absl import app, flags, logging
from ml_collections import config_flags

from flamingo_jax import config as configs
from flamingo_jax.config import RunConfig
from flamingo_jax.data.file import write_whole

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The run's configuration; override keys with --config.key=value.",
    lock_config=False,
    accept_new_attributes=True,  # a key that the file leaves at its default; ``check_path`` refuses what is unknown
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of this run.")
_ACCEPT = flags.DEFINE_bool("accept_changed_config", False, "Continue a workdir that another config made.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
_LOCK = ".lock"
_EXAMPLE = "--config=configs/base.py, or --config=configs/base.py:quick for a first look"
_HINT = "\n(--traceback shows where this arose)"


def make_folder(workdir: pathlib.Path) -> None:
    """Makes the workdir. Raises ValueError when a file is in its place, OSError when it may not be made."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--workdir={workdir} is a file; give a folder.") from None
    except OSError as error:
        raise OSError(f"Cannot make the folder --workdir={workdir}: {error.strerror}.") from None


def check_workdir(config: RunConfig, workdir: pathlib.Path, accept_changed: bool) -> None:
    """Records the config in a new workdir; in an old one raises ValueError when it was made by another config."""
    path, text = workdir / "config.json", configs.to_json(config)
    made = any(child.name not in (path.name, _LOCK) for child in workdir.iterdir())  # else there is nothing to protect
    if made and path.exists() and not accept_changed:
        old, new = path.read_text().splitlines(), text.splitlines()
        change = "\n".join(difflib.unified_diff(old, new, "the workdir's config", "this config", n=2, lineterm=""))
        if change:
            raise ValueError(
                f"{workdir} was made by another config:\n{change}\n"
                "Use another --workdir, or --accept_changed_config to continue with this one's unfinished stages."
            )
    write_whole(path, text)


@contextlib.contextmanager
def lock(workdir: pathlib.Path):
    """Keeps other processes out of the workdir. Raises ValueError when one is at work in it."""
    with (workdir / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Another process is at work in {workdir}; wait for it, or use another --workdir."
            ) from None
        yield


def _load(path: str, *variant: str) -> object:
    """What a config file gives, to know its names: the flag library reads the file itself, together with overrides."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"There is no file {path!r} in {pathlib.Path.cwd()}, which --config asks for.")
    names = runpy.run_path(path)
    if "get_config" not in names:
        raise ValueError(f"{path} defines no function get_config, which returns the configuration.")
    return names["get_config"](*variant)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it ends the program with one sentence."""
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
        sys.exit(f"flamingo_jax.train: {kind}{lines[-1]}{_HINT if kind or len(lines) > 1 else ''}")


def use_huge_pages() -> None:
    """Starts the program anew with huge pages for its arrays, which the C library takes from the environment alone.

    Every step allocates its arrays anew, and in pages of 4 KiB the kernel takes a fifth of a CPU's training time to
    hand them out (``benchmarks/huge_pages.py``). Whoever has set the variable is left alone.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.train: {argv[1]!r} is no option; options look like --config.seed=1.")
    if _CONFIG.value is None:
        sys.exit(f"flamingo_jax.train: Give a config: {_EXAMPLE}.")
    if not flags.FLAGS["verbosity"].present:
        # The checkpoint library tells every detail at the default level, and an error five times over with tracebacks.
        logging.set_verbosity(logging.WARNING if _TRACEBACK.value else logging.FATAL)
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited")  # the same library's, when it may not write
    try:
        config = configs.build(_CONFIG.value)
        workdir = pathlib.Path(_WORKDIR.value).absolute()
        # Imported here: worker processes import this module anew, and need neither JAX nor the two seconds it takes.
        from flamingo_jax import pipeline

        pipeline.check(config)
        make_folder(workdir)
        with lock(workdir):
            check_workdir(config, workdir, _ACCEPT.value)
            pipeline.run(config, workdir)
    except KeyboardInterrupt:
        print(f"\nInterrupted. The same command continues from the newest checkpoint in {_WORKDIR.value}.")
        sys.exit(130)
    except (ValueError, OSError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"flamingo_jax.train: {error}{_HINT}")


if __name__ == "__main__":
    use_huge_pages()
    app.run(main, flags_parser=parse_flags)
