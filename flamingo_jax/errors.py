"""How every command ends when something is wrong: with one sentence for the person who typed it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from absl import flags

TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")
HINT = "\n(--traceback shows where this arose)"


@contextlib.contextmanager
def as_sentences(program: str, interrupted: str = "") -> Iterator[None]:
    """Ends the program with status 1 on ValueError, OSError and ImportError (of an optional package), and with 130 on
    Ctrl-C, which prints ``interrupted``.

    With --traceback the errors pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"\nInterrupted. {interrupted}".rstrip(), file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        if TRACEBACK.value:
            raise
        # An OSError that has a number puts it before its text.
        said = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else error
        sys.exit(f"{program}: {said}{HINT}")
