"""One dataset's endless stream of batches, whose whole state is one integer.

Order, windows and coin flips are a pure function of (seed, global index of the example), so a stream that is set to a
state goes on exactly, in another process, with another number of hosts or another number of threads.
"""

from __future__ import annotations

import os
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import record
from flamingo_jax.data.example import count_dummies, empty_example, make_example
from flamingo_jax.data.tokenizer import Tokenizer

# So many unreadable documents in a row mean that the dataset is gone, not that one record is damaged.
_UNREADABLE_IN_A_ROW = 256


class Stream:
    """An iterator over batches: the dict of ``data/example.py`` with a leading axis [B / shard_count, ...].

    Attributes:
        unreadable_documents, unreadable_media: how many dummies were handed out in place of damaged input so far.
    """

    def __init__(self, batches: Any, directory: str | os.PathLike, tokenizer: Tokenizer):
        """``batches``: a Grain ElasticIterator over examples of ``directory``."""
        self._batches = batches
        self._directory = directory
        self._tokenizer = tokenizer
        self._in_a_row = 0
        self.unreadable_documents = 0
        self.unreadable_media = 0

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Raises ValueError, naming the dataset, when hundreds of documents in a row cannot be read."""
        batch = next(self._batches)
        documents, media = count_dummies(batch, self._tokenizer)
        self.unreadable_documents += documents
        self.unreadable_media += media
        self._in_a_row = self._in_a_row + documents if documents == len(batch["tokens"]) else 0
        if self._in_a_row >= _UNREADABLE_IN_A_ROW:
            raise ValueError(
                f"The last {self._in_a_row} documents read from {self._directory} were unreadable; "
                "prepare the dataset anew."
            )
        return batch

    def get_state(self) -> int:
        """The global index of the next batch's first example: the same on every host."""
        return int(self._batches.get_state()["global_next_index"])

    def set_state(self, state: int) -> None:
        """Continues after the batches that had been taken when ``get_state`` returned ``state``."""
        self._batches.set_state({"global_next_index": int(state)})

    def close(self) -> None:
        """Ends the background threads or processes."""
        self._batches.close()


def stream(
    directory: str | os.PathLike,
    tokenizer: Tokenizer,
    example: ExampleConfig,
    *,
    batch_size: int,
    seed: int,
    shard_index: int = 0,
    shard_count: int = 1,
    threads: int = 1,
    workers: int = 0,
    prefetch: int = 2,
) -> Stream:
    """Streams a prepared dataset, shuffled anew in every epoch, for ever.

    Args:
        directory: what ``prepare`` wrote.
        tokenizer: gives the ids.
        example: the examples' shape and coin flips.
        batch_size: B, over all hosts.
        seed: in [0, 2**32).
        shard_index, shard_count: this host and the number of hosts; host h gets the examples h, h + shard_count, ...
        threads: that make batches ahead, beside the training step. 0 makes them when asked for.
        workers: processes instead (they cost seconds to start, and pay where decoding outgrows one process). The
            program must guard its entry with ``if __name__ == "__main__"``, as all programs with processes.
        prefetch: batches kept ready at most, per worker.

    Raises:
        ValueError: the dataset is missing, damaged or empty, B is not divisible by ``shard_count``, or the seed is out
            of range. Damaged records and media raise nothing: they become dummies of no weight, and are counted.
    """
    source = record.Source(directory)
    if not len(source):
        raise ValueError(f"The dataset {directory} is empty; prepare it anew.")
    if batch_size < 1 or batch_size % shard_count:
        raise ValueError(f"A batch of {batch_size} from {directory} does not divide among {shard_count} hosts.")
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index is {shard_index}, but must be in [0, {shard_count}).")
    if not 0 <= seed < 2**32:
        raise ValueError(f"The stream's seed is {seed}, but must be in [0, 2**32).")
    options = None
    if workers:
        # Grain reads absl's flags in the workers' parent and fails when nobody parsed them (grain issue 1355).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=max(1, prefetch))
        threads = 0
    examples = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(_MakeExample(source, tokenizer, example))
    )
    batches = grain.experimental.ElasticIterator(
        examples,
        batch_size,
        grain.sharding.ShardOptions(shard_index=shard_index, shard_count=shard_count),
        read_options=grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0),
        multiprocessing_options=options,
    )
    return Stream(batches, directory, tokenizer)


class _MakeExample(grain.transforms.RandomMap):
    """Reads the document at an index and makes its example; whatever goes wrong gives a dummy.

    An exception that leaves a map loses data in Grain: the element in a thread, all that is left in a worker process.
    Reading happens here, and not in a Grain source, to be inside the same net.
    """

    def __init__(self, source: record.Source, tokenizer: Tokenizer, config: ExampleConfig):
        self._source = source
        self._tokenizer = tokenizer
        self._config = config

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        try:
            return make_example(self._source[element], rng, self._tokenizer, self._config)
        except Exception as error:
            logging.log_first_n(logging.WARNING, "A dummy replaces a document: %s", 10, error)
            return empty_example(self._config, self._tokenizer.pad)
