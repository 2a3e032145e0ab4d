"""One dataset's endless stream of batches, whose whole state is one integer.

Order, windows, coin flips and packing are a pure function of (seed, global index of the document), so a stream that is
set to a state goes on exactly: in another process, with other numbers of hosts, threads or workers, and even with
another batch size.
"""

from __future__ import annotations

import collections
import functools
import multiprocessing
import os
import sys
import threading
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from grain.experimental import index_shuffle

from flamingo_jax.config import ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import example as example_lib
from flamingo_jax.data import medium, packing
from flamingo_jax.data.tokenizer import Tokenizer

# Of batches of one dataset that are being made, or wait, in one process; a larger one is made alone.
_AHEAD_BYTES = 2**29

_LOGGED = 100  # unreadable records of a shard that are logged one by one


class Stream:
    """An iterator over this host's part of every batch: the dict of ``data/example.py`` with a leading axis.

    The parts of all hosts, one after another, are the batch that a single host would get.

    Attributes:
        count: documents of the dataset.
        name: of the dataset, in messages.
    """

    def __init__(self, make: _MakeBatch, name: str, streams: StreamsConfig):
        self._make = make
        self._streams = streams
        self._batches: Any = None
        self._next = 0
        self._unreadable: collections.Counter[str] = collections.Counter()
        self.count = len(make.source)
        self.name = name

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = self._open()
        batch = next(self._batches)
        self._next += self._make.mix.batch_size
        records = batch.pop("damaged")
        for record in records[records >= 0].tolist():
            shard, number = self._make.source.locate(record)
            self._unreadable[shard] += 1
            if self._unreadable[shard] <= _LOGGED:
                logging.warning("%s: record %d of %s, or a medium of it, cannot be read.", self.name, number, shard)
        return batch

    def get_state(self) -> int:
        """The global index of the next batch's first document: the same on every host."""
        return self._next

    def set_state(self, state: int) -> None:
        """Continues after the batches that had been taken when ``get_state`` returned ``state``."""
        self.close()
        self._next = int(state)

    def close(self) -> None:
        """Ends the background threads or processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def unreadable(self) -> str:
        """The shards with the most unreadable records that this host has met, one a line; "" for none."""
        return "\n".join(f"  {shard}: {count}" for shard, count in self._unreadable.most_common(10))

    def records(self, state: int) -> list[tuple[str, int]]:
        """(shard, number in it) of every document of the batch that begins at ``state``, of all hosts."""
        batch = range(state, state + self._make.mix.batch_size)
        return [self._make.source.locate(self._make.record(index)) for index in batch]

    def _open(self) -> grain.DatasetIterator:
        threads, workers = self._streams.threads, self._streams.workers
        room = max(1, _AHEAD_BYTES // self._make.batch_bytes)
        ahead = min(self._streams.prefetch * threads, room)
        read = grain.ReadOptions(num_threads=min(threads, ahead), prefetch_buffer_size=ahead)
        batches = grain.MapDataset.range(sys.maxsize).map(self._make.at(self._next)).to_iter_dataset(read)
        if workers:
            # Grain reads absl's flags in the workers' parent and fails when nobody parsed them (grain issue 1355).
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            ready = max(1, min(self._streams.prefetch, room - ahead))
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(workers, per_worker_buffer_size=ready))
        return iter(batches)


def stream(
    source: Any,
    tokenizer: Tokenizer,
    example: ExampleConfig,
    mix: MixConfig,
    *,
    seed: int,
    name: str | os.PathLike = "the dataset",
    shard_index: int = 0,
    shard_count: int = 1,
    streams: StreamsConfig | None = None,
) -> Stream:
    """Streams a dataset, shuffled anew in every epoch, for ever.

    Args:
        source: random access to documents: ``data.record.Source``, or one of ``data/sources``.
        tokenizer: gives the ids.
        example: the shape of one document's example, and its coin flips.
        mix: batch size over all hosts, and packing.
        seed: in [0, 2**32).
        name: for messages.
        shard_index, shard_count: this host and the number of hosts.
        streams: threads or worker processes. For workers the program must guard its entry with
            ``if __name__ == "__main__"``, as all programs with processes.

    Raises:
        ValueError: the dataset has fewer documents than a batch, the batch does not divide among the hosts, a document
            does not fit into a packed row, or the seed is out of range. Damaged records and media raise nothing: they
            become dummies of no weight, and are counted.
    """
    if len(source) < mix.batch_size or mix.batch_size < 1:
        raise ValueError(
            f"{name} has {len(source)} documents, but a batch is {mix.batch_size}: give a batch_size of at most that."
        )
    if mix.rows % shard_count:
        raise ValueError(
            f"{name}: a batch of {mix.batch_size} documents is {mix.rows} rows and does not divide among {shard_count} "
            f"hosts; take a multiple of {mix.pack * shard_count}."
        )
    if not 0 <= shard_index < shard_count:
        raise ValueError(f"shard_index is {shard_index}, but must be in [0, {shard_count}).")
    if not 0 <= seed < 2**32:
        raise ValueError(f"The stream's seed is {seed}, but must be in [0, 2**32).")
    return Stream(
        _MakeBatch(source, tokenizer, example, mix, seed, shard_index, shard_count),
        str(name),
        streams or StreamsConfig(),
    )


class _MakeBatch:
    """Number of a batch -> this host's part of it. Picklable: worker processes each get a copy.

    Nothing is raised for what cannot be read: an exception that leaves a map loses data in Grain, the element in a
    thread, all that is left in a worker process. Reading happens here, not in a Grain source, to be inside that net.
    """

    def __init__(self, source, tokenizer, example, mix, seed, shard_index, shard_count):
        self.source, self.mix = source, mix
        self._tokenizer, self._example, self._seed = tokenizer, example, seed
        # One number more, for the source; Philox counts in steps of four.
        self._draws = -(-(1 + example_lib.count_draws(example)) // 4) * 4
        self._row = packing.row_shape(example, mix)
        self._rows = mix.rows // shard_count
        self._evened = packing.evened(mix)
        # Rows are evened out in groups; of a group that hosts share, each looks at all of its documents.
        self._above = shard_index * self._rows % self._evened
        self._first = (shard_index * self._rows - self._above) * mix.pack
        self._count = -(-(self._above + self._rows) // self._evened) * self._evened * mix.pack
        self._start = 0
        self._cache = None
        pixels = self._row.media * self._row.frames * self._row.size**2 * 3
        self.batch_bytes = self._rows * (pixels + 16 * self._row.length)

    def at(self, start: int) -> _MakeBatch:
        """The same, where batch 0 begins with document ``start``."""
        other = _MakeBatch.__new__(_MakeBatch)
        other.__dict__ = self.__dict__ | {"_start": start}
        return other

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        _end_with_parent()
        self._cache = self._cache or medium.cached()
        batch = example_lib.new_batch(self._row, self._rows, self._tokenizer.pad)
        batch["damaged"] = np.empty((self._rows, self.mix.pack), np.int64)
        first = self._start + number * self.mix.batch_size + self._first
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=first * self._draws // 4))
        draws = rng.random((self._count, self._draws)).tolist()
        records = [self.record(index) for index in range(first, first + self._count)]
        # All are read before the first picture is decoded: by turns, each would find its memory out of the cache.
        drawn = [self._draw(*one) for one in zip(records, draws, strict=True)]
        group = self._evened * self.mix.pack
        for start in range(0, self._count, group):
            lengths = [len(one.tokens) for one in drawn[start : start + group]]
            packed = packing.pack(lengths, self._evened, self._row.length)
            for r, documents in enumerate(packed, start // self.mix.pack - self._above):
                if not 0 <= r < self._rows:  # another host's
                    continue
                row = {key: value[r] for key, value in batch.items()}
                at = 0
                for place, (document, length) in enumerate(documents):
                    one, record = drawn[start + document], records[start + document]
                    intact = example_lib.write(one, row, self._example, place, at, length, self._cache)
                    row["unreadable"][0] += one is example_lib.NOTHING
                    row["damaged"][place] = -1 if intact and one is not example_lib.NOTHING else record
                    at += length
        return batch

    def record(self, index: int) -> int:
        """The record at a global index: every epoch has all of them, each in an order of its own."""
        epoch, place = divmod(index, len(self.source))
        return index_shuffle(place, max_index=len(self.source) - 1, seed=(self._seed + epoch) % 2**32, rounds=4)

    def _draw(self, record: int, draws: list[float]) -> example_lib.Drawn:
        """The example of a record; nothing, where it cannot be read."""
        try:
            document = self.source.read(record, draws[0])
            return example_lib.draw(document, draws[1:], self._tokenizer, self._example)
        except Exception as error:
            logging.log_first_n(logging.WARNING, "A dummy replaces a document: %s", 10, error)
            return example_lib.NOTHING

    def __getstate__(self):
        return self.__dict__ | {"_cache": None}


@functools.cache  # once per process
def _end_with_parent() -> None:
    """A worker process ends when its parent does: nobody else would end those of one that was killed."""
    if parent := multiprocessing.parent_process():

        def follow():
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
