"""A dataset's folder while it is made: begun, continued, finished. What is to be done is in it until it is done."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from flamingo_jax.data import record
from flamingo_jax.data.file import write_whole

PLAN = "plan.json"


def is_prepared(target: str | os.PathLike) -> bool:
    """Whether there is a whole dataset at ``target``."""
    return (epath.Path(target) / record.MANIFEST).exists()


def begin(target: str, plan: str, fingerprint: Callable[[str], str], source: str) -> bool:
    """Writes the plan down. Returns whether the dataset that it makes is there already.

    Args:
        plan: what is to be done, as text.
        fingerprint: of such a text; equal for those that make the same.
        source: what the plan starts from and may have changed, in words, for the message.

    Raises:
        ValueError: something else is at ``target``, or was begun there.
        OSError: it cannot be written.
    """
    folder = epath.Path(target)
    begun = folder / PLAN
    try:
        if is_prepared(target):
            there = record.read_manifest(target)["plan"]
        elif begun.exists() and any(path.name != PLAN for path in folder.iterdir()):  # else nothing is done yet
            there = _fingerprint(begun.read_text(), fingerprint)
        elif folder.exists() and not folder.is_dir():
            raise ValueError(f"{target} is a file; name another place for the dataset, which is a folder.")
        elif folder.exists() and any(path.name != PLAN for path in folder.iterdir()):
            raise ValueError(f"{target} holds something else; delete it, or name another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            there = None
    except OSError as error:
        raise OSError(f"Cannot write the dataset {target}: {error.strerror or error}.") from None
    if there not in (None, fingerprint(plan)):
        raise ValueError(
            f"{target} was {'prepared' if is_prepared(target) else 'begun'} with other options, or from {source} that "
            "have changed since; delete it, or name another folder."
        )
    if is_prepared(target):
        return True
    write_whole(f"{target}/{PLAN}", plan)  # anew, for what makes no difference to the result may be another one
    return False


def _fingerprint(text: str, fingerprint: Callable[[str], str]) -> str:
    """Of a plan that may be of another kind, which no plan is equal to then."""
    try:
        return fingerprint(text)
    except (ValueError, LookupError, TypeError):
        return ""


@contextlib.contextmanager
def own(target: str) -> Iterator[None]:
    """Keeps other preparations out of the folder, but for one at an address such as ``gs://``.

    Raises ValueError when one is at work there.
    """
    if "://" in target:
        yield
        return
    folder = os.open(target, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            raise ValueError(f"Another process prepares {target}; wait for it, or name another folder.") from None
        yield
    finally:
        os.close(folder)


def todo(target: str, names: Sequence[str], suffix: str) -> list[int]:
    """The indices of those files of which there is none with this suffix yet."""
    there = {path.name for path in epath.Path(target).iterdir()}
    return [index for index, name in enumerate(names) if name + suffix not in there]


def gather(target: str, names: Sequence[str], report: dict, add: Callable[[dict, dict], None]) -> dict[str, dict]:
    """Adds up in ``report`` what the shards say of themselves. Returns the files of those with documents."""
    files = {}
    for name in names:
        part = json.loads(epath.Path(f"{target}/{name}.json").read_text())
        if part["entry"]["records"]:
            files[f"{name}.array_record"] = part["entry"]
        add(report, part["report"])
    return files


def finish(target: str, names: Sequence[str], files: dict[str, dict], report: dict, fingerprint: str) -> None:
    """Writes the manifest and removes what led to it. Raises ValueError, and removes all, when there is no document."""
    if not report["documents"]:
        drops = ", ".join(
            f"{count} x {reason} (first: {report['first_drops'][reason]})" for reason, count in report["drops"].items()
        )
        epath.Path(target).rmtree()
        raise ValueError(f"No document came out of {report['source']!r}: {drops or 'its files are empty'}.")
    record.write_manifest(target, files, report, fingerprint)
    kept = {*files, *(f"{name}.bad.jsonl" for name in names), record.MANIFEST}
    for path in epath.Path(target).iterdir():
        if path.name not in kept:
            path.unlink()


class Progress:
    """Adds up what is done. It may be told from several processes' messages, and for work that was done before."""

    def __init__(self, tell: Callable[[int, int], None] | None, total: int):
        self._tell, self._total, self._done = tell, total, 0

    def __call__(self, size: int) -> None:
        self._done += size
        if self._tell is not None and size:
            self._tell(min(self._done, self._total), self._total)
