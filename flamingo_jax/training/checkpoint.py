"""A stage's training checkpoints: small, whole or absent, written beside the loop, and checked when they are read.

    DIR/ATTEMPT/STEP    one checkpoint (Orbax): weights, optimizer state, step; where streams stand; checksums
    DIR/ATTEMPT/from    the step that this attempt at the stage went on from

Every start of a stage is an attempt with a folder of its own. What a process of an older attempt still writes, when its
machine comes back or was only thought to be gone, is therefore never among what a newer one has written.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from flamingo_jax.data.file import write_whole
from flamingo_jax.training import barrier, fingerprint, hosts, sharding
from flamingo_jax.training.attempts import FROM, Found, find, numbered

_SHOWN = 5  # arrays that a message names


class Checkpoints:
    """The checkpoints of one attempt at a stage; those of the attempts before are read, and go when it has its own."""

    def __init__(
        self,
        directory: pathlib.Path,
        say: Callable[[str], None] = print,
        *,
        latest: int = 2,
        every: int = 0,
        best: Callable[[], set[int]] = set,
        patience: float = 600.0,
    ):
        """To be called by all processes.

        Args:
            directory: of the stage's checkpoints.
            say: takes lines for the run's owner.
            latest: so many of the newest are kept.
            every: those of steps that it divides are kept for ever; 0 for none.
            best: tells which steps are kept as long as it names them.
            patience: seconds for which saves may fail before ``failure`` tells.
        """
        self._directory, self._say, self._latest, self._every, self._best = directory, say, latest, every, best
        self._patience, self._failing_since, self._failure = patience, 0.0, ""
        self._snapshot: Callable | None = None
        self.damage = ""  # what was found to be wrong with the state; it is saved no more
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None
        older = [(str(found.path.relative_to(directory)), found.step) for found in find(directory)]
        # What is there, though nothing of it is to be gone on from: "" for nothing.
        left = (path for folder in numbered(directory) for path in [*numbered(folder), *folder.glob(FROM)])
        self._stray = hosts.agree(str(next(left, "")))
        self._older = [Found(directory / path, step) for path, step in hosts.agree(older)]  # a network's disk may lag
        attempt = 0
        if hosts.is_first():
            attempt = 1 + max((int(path.name) for path in numbered(directory)), default=0)
            with writing(directory):
                (directory / str(attempt)).mkdir(parents=True)
            for folder in numbered(directory):  # of processes that were killed
                _delete_drafts(folder)
        self.folder = directory / str(hosts.agree(attempt))
        self._own: list[Found] = []

    def restore(self, abstract: dict) -> tuple[dict, dict] | None:
        """The newest state that is whole, onto ``abstract``'s shardings, and the notes beside it; None where nothing
        was ever saved. Damaged ones are passed over, which is said.

        Raises ValueError when a checkpoint is of another model, with a list, or all are damaged or gone.
        """
        wrong = f"the step that one had gone on from is gone, and {self._stray} is beyond it"
        for found in self._older:
            state, notes, wrong = _load(found, abstract)
            if wrong:
                hosts.call(f"damaged {found.name}")
            hosts.wait(f"{found.name} read")
            if not (wrong or hosts.called(f"damaged {found.name}")):
                if hosts.is_first():
                    write_whole(self.folder / FROM, str(found.step))
                return state, notes
            wrong = wrong or "another process could not read it"
            self._warn(f"the checkpoint of step {found.step} is damaged and passed over ({wrong})")
        if self._older or self._stray:
            raise ValueError(
                f"None of the checkpoints in {self._directory} can be read ({wrong}). Mend what keeps them from being "
                "read; or delete that folder, to start the stage anew."
            )
        return None

    def save(
        self, step: int, state: dict, notes: Mapping[str, object], before: Callable[[], None] = lambda: None
    ) -> None:
        """Saves a copy of the state, beside whatever comes next, and notes (as JSON has them), as one atomic unit;
        ``before`` is called first, in the writer's thread, and where it raises nothing is saved. Waits for the save
        before it, if that is not through. Nothing is raised for what fails; a state whose copies on several devices
        differ is not saved, and ``damage`` says so."""
        self.wait()
        self.prepare(state)
        copy, sums = sharding.settled(self._snapshot(state))
        places = jax.tree.map(lambda leaf: leaf.sharding, copy)
        notes = json.loads(json.dumps(notes))  # whoever they are of goes on counting meanwhile
        self._pending = self._writer.submit(self._write, step, copy, sums, places, notes, before)

    def prepare(self, state: dict) -> None:
        """Compiles what copies the state, so that the first save does not wait for that."""
        if self._snapshot is None:
            self._snapshot = _make_snapshot(state)

    def examine(self, step: int, state: dict) -> str:
        """``damage``, after a look at a state that is not saved."""
        self.wait()
        self.prepare(state)
        _, sums = sharding.settled(self._snapshot(state))
        self._compare(step, sums, jax.tree.map(lambda leaf: leaf.sharding, state))
        return self.damage

    def _compare(self, step: int, sums: jax.Array, places: dict) -> dict[str, int]:
        """The checksums by array, of all devices together."""
        found, wrong = fingerprint.read(jax.device_get(sums), places)
        if wrong:
            more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
            self.damage = f"step {step}: " + "; ".join(wrong[:_SHOWN]) + more
        return found

    def wait(self) -> bool:
        """Returns when nothing is being written; whether the last save succeeded."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        return not self._failure

    @property
    def busy(self) -> bool:
        """Whether something is being written."""
        return self._pending is not None and not self._pending.done()

    @property
    def failure(self) -> str:
        """Why saves have failed, and for longer than ``patience``; "" otherwise. It depends on a process's clock."""
        late = self._failure and time.monotonic() - self._failing_since > self._patience
        return f"No checkpoint could be written for {self._patience:,.0f} s. {self._failure}" if late else ""

    def close(self) -> None:
        """Returns when nothing is being written any more."""
        self.wait()
        self._writer.shutdown()

    def _write(
        self, step: int, state: dict, sums: jax.Array, places: dict, notes: dict, before: Callable[[], None]
    ) -> None:
        """In the writer's thread."""
        found = Found(self.folder / str(step), step)
        try:
            sums = self._compare(step, sums, places)
            if self.damage:
                return
            about = {"notes": notes, "notes_sum": _sum(notes), "sums": sums}
            with writing(self.folder), barrier.breakable(f"save {found.name}"):
                before()
                if hosts.is_first() and found.path.exists():  # of a save that failed when all but a word was there
                    shutil.rmtree(found.path)
                ocp.save(found.path, state, custom_metadata=about)
        except Exception as error:  # the step goes on; ``failure`` says when it may not any longer
            self._failing_since = self._failing_since if self._failure else time.monotonic()
            self._failure = str(error)
            self._warn(f"step {step} could not be saved, and training goes on: {error}")
            if hosts.is_first():  # what there is of it must not fill the disk further
                _delete_drafts(self.folder)
            return
        self._failure = ""
        self._own.append(found)
        if hosts.is_first():
            try:
                self._prune()
            except OSError as error:
                self._say(f"old checkpoints could not be deleted, and training goes on: {error}")

    def _warn(self, line: str) -> None:
        """What every process says for itself: others' logs refer to its own."""
        if hosts.is_first():
            self._say(line)
        else:
            print(f"process {jax.process_index()}: {line}", file=sys.stderr, flush=True)

    def _prune(self) -> None:
        if any(int(folder.name) > int(self.folder.name) for folder in numbered(self._directory)):
            return  # of a newer attempt, which took this one for gone, and goes on from what is there
        everything = [*reversed(self._own), *self._older]
        kept = everything[: self._latest] + _kept(everything, self._every, self._best())
        _delete(found for found in everything if found not in kept)
        self._own = [found for found in self._own if found in kept]
        self._older = [found for found in self._older if found in kept]


def discard(directory: pathlib.Path, every: int = 0, best: Collection[int] = ()) -> None:
    """Frees what a finished stage needs no more: all but what is kept for ever and the best steps."""
    everything = find(directory)
    kept = _kept(everything, every, best)
    for attempt in numbered(directory):
        if attempt not in {found.path.parent for found in kept}:
            shutil.rmtree(attempt, ignore_errors=True)
    _delete(found for found in everything if found not in kept)
    with contextlib.suppress(OSError):  # it is not empty then, or not there
        directory.rmdir()


def _kept(everything: list[Found], every: int, best: Collection[int]) -> list[Found]:
    return [found for found in everything if (every and found.step % every == 0) or found.step in best]


def _delete(checkpoints: Iterable[Found]) -> None:
    for found in checkpoints:
        shutil.rmtree(found.path, ignore_errors=True)


def _delete_drafts(folder: pathlib.Path) -> None:
    for left in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(left, ignore_errors=True)


def _make_snapshot(state: dict) -> Callable:
    """state -> (a copy of it, its checksums), both on the devices: the next update overwrites the state."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    sums = fingerprint.make(places)

    def copy(state):
        return jax.tree.map(jnp.copy, state), sums(state)

    everywhere = sharding.replicated(jax.tree.leaves(places)[0].mesh)
    return jax.jit(copy, out_shardings=(places, everywhere)).lower(state).compile()


def _load(found: Found, abstract: dict) -> tuple[dict, dict, str]:
    """(the state, the notes beside it, what is wrong with them or ""); all processes get to the checksums, or none.

    Raises ValueError when it is whole, but of another model.
    """
    try:
        with barrier.breakable(f"restore {found.name}"):
            metadata = ocp.metadata(found.path)
            _check_same(found, metadata.metadata, abstract)
            notes, sums = metadata.custom_metadata["notes"], metadata.custom_metadata["sums"]
            if _sum(notes) != metadata.custom_metadata["notes_sum"]:
                raise ValueError("the checksum of its notes differs")
            state = ocp.load(found.path, abstract)
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        everywhere = sharding.replicated(jax.tree.leaves(places)[0].mesh)
        parts = jax.jit(fingerprint.make(places), out_shardings=everywhere)(state)
        read, _ = fingerprint.read(jax.device_get(parts), places)
    except OtherModelError:
        raise
    except Exception as error:  # the library raises many kinds, with the whole tree in the message
        return {}, {}, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
    wrong = [name for name, value in read.items() if value != sums.get(name)]
    return state, notes, f"checksums differ: {', '.join(wrong)}"[:300] if wrong else ""


def _sum(notes: Mapping[str, object]) -> int:
    """A checksum of what JSON makes of it."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


class OtherModelError(ValueError):
    """A checkpoint's arrays are not those of the model."""


def _check_same(found: Found, stored: object, abstract: dict) -> None:
    """Raises OtherModelError, which lists what is in one alone or has another shape."""
    have, want = _shapes(stored), _shapes(abstract)
    wrong = [
        f"{name}: the model has {want.get(name, 'nothing')}, the checkpoint {have.get(name, 'nothing')}"
        for name in sorted(have.keys() | want.keys())
        if have.get(name) != want.get(name)
    ]
    if wrong:
        raise OtherModelError(
            f"The checkpoint {found.path} is of another model; delete that folder to start the stage anew:\n  "
            + "\n  ".join(wrong)
        )


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    """{path: shape}, whether a node is a tuple with names or, as it is read back, a dict of them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {"/".join(re.findall(r"\w+", jax.tree_util.keystr(path))): tuple(leaf.shape) for path, leaf in leaves}


@contextlib.contextmanager
def writing(path: os.PathLike) -> Iterator[None]:
    """Turns whatever the checkpoint library raises while it writes into an OSError that names the path."""
    try:
        yield
    except Exception as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else next(iter(str(error).splitlines()), type(error).__name__)[:300]
        raise OSError(f"Cannot write {path}: {reason}.") from error
