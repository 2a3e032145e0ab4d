"""The driver of many machines: the work on shards as a pipeline of Apache Beam, on any of its runners.

All have this package installed, and share the raw files and the dataset's folder (a network disk, or ``gs://``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from flamingo_jax.data.prepare.local import Work


def run(
    work: Work, target: str, indices: Sequence[int], report: Callable[[int], None], arguments: Sequence[str]
) -> None:
    """Does the work of all ``indices``, as ``local.run`` does.

    arguments: Beam's own, the runner's among them: ["--runner=DataflowRunner", "--project=..."]. Progress is the
    runner's to tell; ``report`` is not called.

    Raises ValueError when Beam is not installed or the work fails.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ValueError("--runner needs Apache Beam: pip install 'flamingo_jax[beam]'.") from None
    if not indices:
        return
    try:
        with apache_beam.Pipeline(options=PipelineOptions(list(arguments))) as pipeline:
            items = pipeline | "Shards" >> apache_beam.Create(list(indices)) | apache_beam.Reshuffle()
            _ = items | "Work" >> apache_beam.Map(functools.partial(_work, work, target))
    except (RuntimeError, KeyboardInterrupt) as error:  # what a worker's error becomes: its whole traceback as text
        if "KeyboardInterrupt" in repr(error):  # Ctrl-C reaches local workers as well
            raise KeyboardInterrupt from None
        said = "\n".join(line for line in str(error).splitlines() if line and not line.startswith(("Trace", "  File")))
        raise ValueError(f"The pipeline failed: {said[-1000:]}") from error


def _work(work: Work, target: str, index: int) -> None:
    work(target, index, lambda size: None)
