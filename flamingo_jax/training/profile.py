"""A profile of chosen updates, in the form that TensorBoard's and XProf's trace viewers read."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable

import jax


class Profile:
    """Traces updates ``first`` to ``last`` of a stage, and nothing but these: the devices are waited for at both ends.

    A trace is ``directory/plugins/profile/UPDATES/HOST.xplane.pb``; every host writes its own.
    """

    def __init__(self, directory: os.PathLike, updates: tuple[int, ...], compiled: int, say: Callable[[str], None]):
        """Args:

        updates: (first, last), from 1, or () for no profile.
        compiled: the last update that this process compiles something for: what of ``updates`` comes by then is left
            out, as when a run goes on in the middle of them.
        say: takes the line that tells where the trace is.
        """
        self._directory, self._say = pathlib.Path(directory), say
        first, last = updates or (0, 0)
        self._first, self._last = max(first, compiled + 1), last
        self._open = False

    def before(self, update: int, state: dict) -> None:
        """To be called before an update is given to the devices."""
        if update != self._first or self._first > self._last:
            return
        jax.block_until_ready(state)
        options = jax.profiler.ProfileOptions()
        options.session_id = f"updates_{self._first}_to_{self._last}"  # else the time, which differs from host to host
        jax.profiler.start_trace(self._directory, profiler_options=options)
        self._open = True

    def after(self, update: int, state: dict) -> None:
        """To be called after an update was given to the devices. Raises OSError when the trace cannot be written."""
        if not self._open or update != self._last:
            return
        jax.block_until_ready(state)
        self._open = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            raise OSError(f"Cannot write the profile to {self._directory}: {error}.") from error
        self._say(f"profile of updates {self._first} to {self._last}: {self._directory}")

    def close(self) -> None:
        """Ends a trace that was not ended, when something went wrong within it; what there is of it is kept."""
        if self._open:
            with contextlib.suppress(Exception):  # what went wrong is the error to be told
                jax.profiler.stop_trace()
