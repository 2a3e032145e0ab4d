"""Metrics at Weights & Biases, beside the files that have them anyway (``pip install -e '.[wandb]'``)."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import pathlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping

from flamingo_jax.data.file import write_whole

Send = Callable[[str, int, Mapping[str, float]], None]


def send_nothing(stage: str, step: int, values: Mapping[str, float]) -> None:
    """Where nobody asked for it."""


def check(project: str) -> None:
    """Raises ImportError where metrics are to be sent, but the library is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise ImportError(f"config.wandb={project!r} needs a library: pip install -e '.[wandb]', or leave it empty.")


@contextlib.contextmanager
def opened(
    project: str, workdir: pathlib.Path, config: dict, stages: Iterable[str], say: Callable[[str], None] = print
) -> Iterator[Send]:
    """send(stage, step, values), to a run of ``project`` that is the workdir's, whenever it is started again; "" sends
    nothing. For the process that writes.

    Every stage has its own axis, ``STAGE/step``, on which what is trained again after a restart lies over what was.
    Where it is sent, or kept to be sent later, the library's own variables say (``WANDB_API_KEY``, ``WANDB_MODE``).
    While nothing is there that could be sent to it is kept too, which is said: a run does not wait for that.

    Raises ValueError when it cannot begin, such as without a key.
    """
    if not project:
        yield send_nothing
        return
    import wandb

    folder = workdir / "wandb"
    folder.mkdir(exist_ok=True)
    known = folder / "id.txt"
    if not known.exists():
        write_whole(known, secrets.token_hex(4))
    begin = functools.partial(
        wandb.init, project=project, id=known.read_text(), name=workdir.name, dir=str(workdir), config=config
    )
    try:
        try:
            run = begin(resume="allow")
        except wandb.errors.CommError as error:
            if isinstance(error, wandb.errors.AuthenticationError):
                raise
            reason = str(error).partition("\n")[0]
            say(f"Weights & Biases cannot be reached, and metrics are kept in {folder} for `wandb sync`: {reason}")
            wandb.teardown()  # its service still has the run's name
            run = begin(mode="offline")
    except wandb.Error as error:
        raise ValueError(
            f"config.wandb={project!r}: Weights & Biases cannot begin: {error} WANDB_MODE=offline keeps metrics in "
            f"{folder}, to be sent later."
        ) from error
    for stage in stages:
        run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def send(stage: str, step: int, values: Mapping[str, float]) -> None:
        run.log({f"{stage}/{name}": value for name, value in values.items()} | {f"{stage}/step": step})

    try:
        yield send
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
