"""The barriers at which processes meet while the checkpoint library (Orbax) saves or restores: they break for all when
one process fails. The library's own hold the others for twenty minutes."""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence

import jax
from jax._src import distributed  # the library counts processes as their connection does
from orbax.checkpoint._src.futures import signaling_client, synchronization
from orbax.checkpoint.experimental.v1._src.saving import execution

from flamingo_jax.training import hosts

_LOOK = 1.0  # seconds between two looks for those who failed
_COUNT = 0.05  # seconds between two looks for those who came; the first process alone does that
_REMEMBERED = 1000  # barriers whose opening the first process keeps for those who have not seen it yet

_operations = itertools.count(1)
_current = ""  # what is done now, in whichever thread: never two at once
_opened: collections.deque[str] = collections.deque()


class BrokenError(Exception):
    """Another process has failed in what all do together."""


@contextlib.contextmanager
def breakable(name: str) -> Iterator[None]:
    """Inside, all processes save or restore together; where it fails in one, it fails in all, within seconds.

    To be entered by all in the same order. ``name`` is the same in all of them, and used once.
    """
    global _current
    # The library numbers what it does and puts the number into its barriers' names: after a failure that came before or
    # after it counted, they would never meet again.
    synchronization.OperationIdGenerator._operation_id_counter = itertools.count(1000 * next(_operations))
    _current = name
    try:
        yield
    except BrokenError:
        raise
    except Exception:
        hosts.call(f"failed {name}")
        raise
    finally:
        _current = ""


def _check() -> None:
    if _current and (failed := hosts.called(f"failed {_current}")):
        raise BrokenError(f"process {failed[0]} could not; its log says why")


def _get(self, key: str, timeout_secs: int) -> str:
    """In place of the library's wait for a word of another process."""
    end = time.monotonic() + timeout_secs
    while True:
        try:
            return str(self._client.blocking_key_value_get(key, int(1000 * _LOOK)))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error) or time.monotonic() > end:
                raise
        _check()


def _wait(self, key: str, *, timeout_secs: int, process_ids: Sequence[int] | None = None) -> None:
    """In place of the library's barrier: everyone says that he is there, the first counts them and opens."""
    all_of_them = sorted(process_ids or range(jax.process_count()))
    here, opened, me = f"flamingo/here/{key}", f"flamingo/opened/{key}", distributed.global_state.process_id
    if me != all_of_them[0]:
        self._client.key_value_set(f"{here}/{me}", "")
        _get(self, opened, timeout_secs)
        return
    end, look = time.monotonic() + timeout_secs, time.monotonic() + _LOOK
    while len(came := self._client.key_value_dir_get(f"{here}/")) < len(all_of_them) - 1:
        if time.monotonic() > end:
            missing = set(all_of_them) - {me} - {int(name.rsplit("/", 1)[1]) for name, _ in came}
            raise TimeoutError(
                f"Process {me} has waited {timeout_secs} s at {key!r}, but these processes have not come: "
                f"{', '.join(map(str, sorted(missing)))}. Their logs say where they are."
            )
        if time.monotonic() > look:
            _check()
            look = time.monotonic() + _LOOK
        time.sleep(_COUNT)
    self._client.key_value_set(opened, "")
    self._client.key_value_delete(f"{here}/")
    _opened.append(opened)
    if len(_opened) > _REMEMBERED:
        self._client.key_value_delete(_opened.popleft())


signaling_client.JaxDistributedSignalingClient.wait_at_barrier = _wait
signaling_client.JaxDistributedSignalingClient.blocking_key_value_get = _get
# Before it saves the library compares the folder's name among processes by a collective of devices. Beside the loop it
# would meet the loop's own in another order on every host, and all would hang. Ours is agreed on (``hosts.agree``).
assert callable(execution._check_directory_consistency)
execution._check_directory_consistency = lambda directory: None
