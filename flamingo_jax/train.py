"""``python -m flamingo_jax.train --config=configs/base.py --workdir=DIR``: all stages of a run, one after another.

A stage that is complete in DIR is skipped, one that was interrupted is resumed. Started once on each of several hosts,
with a DIR that they share, it is one run (``training/hosts.py``).

    DIR/config.json          the configuration of the last start
    DIR/world/               raw files (only when the config has a world)
    DIR/data/NAME/           prepared records of each dataset
    DIR/tokenizer.json
    DIR/STAGE/               metrics.jsonl, speed.jsonl, validation.jsonl, TensorBoard events, profile/ if one is asked
                             for, checkpoints while it trains, result.json when complete; inputs.json: the weights it
                             builds on (when they change, it and the evaluation start anew)
    DIR/weights/             finished weights, addressed by content
    DIR/compilation_cache/   compiled programs; not on CPUs
    DIR/evaluation/          results.json, results.md, plots
    DIR/goodput.jsonl        where the time of all starts went

``python -m flamingo_jax.train --status=DIR`` tells where it stands, also while it is at work.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import pathlib
import sys
import warnings

from absl import app, flags, logging

from flamingo_jax import command, errors
from flamingo_jax import config as configs
from flamingo_jax.command import CONFIG, EXAMPLE, make_parser
from flamingo_jax.config import RunConfig
from flamingo_jax.data.file import write_whole
from flamingo_jax.status import LOCK, status
from flamingo_jax.training import goodput
from flamingo_jax.training.clock import process_start

flags.adopt_module_key_flags(command)
flags.adopt_module_key_flags(errors)
_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Folder of this run.")
_ACCEPT = flags.DEFINE_bool("accept_changed_config", False, "Continue a workdir that another config made.")
_STATUS = flags.DEFINE_string("status", None, "Only tell where the run in this folder stands; --config is not needed.")
_PACKAGE = pathlib.Path(__file__).parent


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
    made = any(
        child.name not in (path.name, LOCK, goodput.FILE) for child in workdir.iterdir()
    )  # else there is nothing to protect
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
    with (workdir / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"Another process is at work in {workdir}; wait for it, or use another --workdir."
            ) from None
        yield


def use_huge_pages() -> None:
    """Starts the program anew with huge pages for its arrays, which the C library takes from the environment alone.

    Every step allocates its arrays anew, and in pages of 4 KiB the kernel takes a fifth of a CPU's training time to
    hand them out (``benchmarks/huge_pages.py``). Whoever has set the variable is left alone.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def order_collectives() -> None:
    """Devices that JAX_NUM_CPU_DEVICES makes of one CPU do one thing after another, all in the same order.

    Otherwise independent collectives of a step start at once, and with few cores their waiting occupies every thread,
    so that the one that they wait for never starts: the run aborts after a minute. Called before JAX is imported.
    """
    flag, given = "--xla_cpu_enable_concurrency_optimized_scheduler", os.environ.get("XLA_FLAGS", "")
    if os.environ.get("JAX_NUM_CPU_DEVICES", "1") != "1" and flag not in given:
        os.environ["XLA_FLAGS"] = f"{given} {flag}=false".strip()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"flamingo_jax.train: {argv[1]!r} is no option; options look like --config.seed=1.")
    if _STATUS.value is not None:
        with errors.as_sentences("flamingo_jax.train"):
            print(status(pathlib.Path(_STATUS.value)))
        return
    if CONFIG.value is None:
        sys.exit(f"flamingo_jax.train: Give a config: {EXAMPLE}.")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        if not errors.TRACEBACK.value:  # the checkpoint library tells an error five times over, with tracebacks
            logging.get_absl_handler().addFilter(lambda record: pathlib.Path(record.pathname).is_relative_to(_PACKAGE))
    warnings.filterwarnings("ignore", "coroutine '.*' was never awaited")  # the same library's, when it may not write
    again = f"The same command continues from the newest checkpoint in {_WORKDIR.value}."
    with errors.as_sentences("flamingo_jax.train", again):
        if not _WORKDIR.value:
            raise ValueError("--workdir is empty; give a folder.")
        if "://" in _WORKDIR.value:
            raise ValueError(
                f"--workdir={_WORKDIR.value}: a run cannot be kept at an address yet; give a folder, such as one where "
                "the bucket is mounted (Cloud Storage FUSE)."
            )
        config = configs.build(CONFIG.value)
        workdir = pathlib.Path(_WORKDIR.value).absolute()
        order_collectives()
        # Imported here: worker processes import this module anew, and need neither JAX nor the two seconds it takes.
        from flamingo_jax import pipeline
        from flamingo_jax.training import ending, hosts

        hosts.start()
        pipeline.check(config)
        with contextlib.ExitStack() as stack:
            if hosts.is_first():
                make_folder(workdir)
                stack.enter_context(lock(workdir))
                check_workdir(config, workdir, _ACCEPT.value)
            try:
                pipeline.run(config, workdir, begun=process_start())
            except ending.Ended as end:
                print(f"flamingo_jax.train: {end.sentence}", file=sys.stderr)
                raise


if __name__ == "__main__":
    use_huge_pages()
    app.run(main, flags_parser=make_parser("flamingo_jax.train"))
