"""Streams: determinism, exact resumption, hosts, workers, packing, epochs, damaged input."""

import contextlib
import hashlib
import io
import pathlib
import subprocess
import sys
import time

import grain
import numpy as np
import pytest
from PIL import Image
from written import write

from flamingo_jax.config import ColourConfig, ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import record
from flamingo_jax.data import stream as stream_
from flamingo_jax.data import tokenizer as tokenizer_
from flamingo_jax.data.document import Document

CONFIG = ExampleConfig(
    length=10, media=2, size=8, p_next=0.5, leading_space=0.5, flip=0.5, colour=ColourConfig(brightness=0.2)
)
COUNT = 13
PACKED = MixConfig(12, pack=3, row_length=24)  # 4 rows, evened out among all of them


def picture(value):
    buffer = io.BytesIO()
    pixels = np.full((8, 8, 3), value, np.uint8)
    pixels[:, :4] += 40
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def page(i, bad=False):
    media = tuple((b"bad" if bad else picture(10 * i + j),) for j in range(3))
    return Document(f"page {i}", f"see {i} one {i} two {i} three {i}", (6, 12, 18), media, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream")
    write(path / "pages", (page(i) for i in range(COUNT)), 2)
    tokenizer_.train([page(i).text for i in range(COUNT)] * 5, 300).save(path / "tokenizer.json")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizer_.load(folder / "tokenizer.json")


def open_stream(directory, tokenizer, mix=4, example=CONFIG, threads=0, workers=0, seed=7, **options):
    mix = mix if isinstance(mix, MixConfig) else MixConfig(mix)
    streams = StreamsConfig(threads=threads, workers=workers)
    return stream_.stream(record.Source(directory), tokenizer, example, mix, seed=seed, streams=streams, **options)


def take(stream, count):
    return [next(stream) for _ in range(count)]


def digest(batches):
    """A hash per batch."""
    return [hashlib.sha256(b"".join(b[key].tobytes() for key in sorted(b))).hexdigest() for b in batches]


def test_shapes(folder, tokenizer):
    def shapes(mix):
        batch = next(open_stream(folder / "pages", tokenizer, mix))
        return {key: (value.shape, value.dtype.name) for key, value in batch.items()}

    assert shapes(4) == {
        "tokens": ((4, 10), "int32"),
        "weights": ((4, 10), "float32"),
        "segments": ((4, 10), "int32"),
        "media": ((4, 2, 1, 8, 8, 3), "uint8"),
        "media_index": ((4, 10), "int32"),
        "media_mask": ((4, 2), "bool"),
        "unreadable": ((4, 2), "int32"),
    }
    packed = shapes(PACKED)
    assert packed["tokens"][0] == (4, 24) and packed["media"][0] == (4, 6, 1, 8, 8, 3)


@pytest.mark.parametrize("mix", [4, PACKED], ids=["plain", "packed"])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_resumes_exactly_at_any_step_whatever_was_made_ahead(folder, tokenizer, threads, mix):
    reference = digest(take(open_stream(folder / "pages", tokenizer, mix), 9))
    stream = open_stream(folder / "pages", tokenizer, mix, threads=threads)
    size = PACKED.batch_size if mix is PACKED else mix
    for stop in range(8):
        assert stream.get_state() == stop * size and isinstance(stream.get_state(), int)
        fresh = open_stream(folder / "pages", tokenizer, mix, threads=threads)
        fresh.set_state(stream.get_state())
        assert digest(take(fresh, 2)) == reference[stop : stop + 2]
        fresh.close()
        assert digest([next(stream)]) == [reference[stop]]
    stream.set_state(3 * size)  # back, in the same stream
    assert digest(take(stream, 2)) == reference[3:5]
    stream.close()


class Limited(grain.IterDataset):
    """The first batches of a stream, as a dataset of Grain's."""

    def __init__(self, make, end):
        super().__init__()
        self._make, self._end = make, end

    def __iter__(self):
        return LimitedIterator(self._make(), self._end)


class LimitedIterator(grain.DatasetIterator):
    def __init__(self, stream, end):
        super().__init__()
        self._stream, self._end = stream, end

    def __next__(self):
        if self._stream.get_state() >= self._end:
            raise StopIteration
        return next(self._stream)

    def get_state(self):
        return self._stream.get_state()

    def set_state(self, state):
        self._stream.set_state(state)


@pytest.mark.parametrize("mix", [MixConfig(4), PACKED], ids=["plain", "packed"])
def test_equal_output_after_checkpoint(folder, tokenizer, mix):
    dataset = Limited(lambda: open_stream(folder / "pages", tokenizer, mix, threads=1), 6 * mix.batch_size)
    grain.experimental.assert_equal_output_after_checkpoint(dataset)


@pytest.mark.parametrize("workers", [1, 3])
def test_resumes_in_a_new_process_with_workers(folder, tokenizer, workers):
    reference = digest(take(open_stream(folder / "pages", tokenizer, PACKED), 6))
    program = f"""
import hashlib
from flamingo_jax.config import ColourConfig, ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import record, stream, tokenizer
if __name__ == "__main__":
    batches = stream.stream(
        record.Source({str(folder / "pages")!r}), tokenizer.load({str(folder / "tokenizer.json")!r}), {CONFIG!r},
        {PACKED!r}, seed=7, streams=StreamsConfig(threads={workers - 1}, workers={workers}),
    )
    batches.set_state(12)
    for _ in range(5):
        batch = next(batches)
        print(hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest())
    batches.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == reference[1:]


def test_workers_end_with_a_parent_that_is_killed(folder, tokenizer):
    program = f"""
import multiprocessing, time
from flamingo_jax.config import ExampleConfig, MixConfig, StreamsConfig
from flamingo_jax.data import record, stream, tokenizer
if __name__ == "__main__":
    batches = stream.stream(
        record.Source({str(folder / "pages")!r}), tokenizer.load({str(folder / "tokenizer.json")!r}),
        ExampleConfig(length=8, size=16), MixConfig(4), seed=7, streams=StreamsConfig(workers=2),
    )
    for _ in range(4):
        next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while running := [pid for pid in workers if _alive(pid)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


def _alive(pid):
    """Not waiting for whoever started it to take notice of its end."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
@pytest.mark.parametrize("mix", [MixConfig(8), MixConfig(24, pack=3, row_length=20)], ids=["plain", "packed"])
def test_hosts_share_the_same_global_batch(tmp_path, tokenizer, hosts, mix):
    write(tmp_path / "pages", (page(i % COUNT) for i in range(100)), 3)

    def open_at(state, **options):
        stream = open_stream(tmp_path / "pages", tokenizer, mix, **options)
        stream.set_state(state)
        return stream

    state = 5 * mix.batch_size  # of a run on another number of hosts
    whole = take(open_at(state), 2)
    parts = [open_at(state, shard_index=host, shard_count=hosts) for host in range(hosts)]
    for batch in whole:
        pieces = [next(part) for part in parts]
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([piece[key] for piece in pieces])), key
    assert {part.get_state() for part in parts} == {7 * mix.batch_size}


def test_another_batch_size_goes_on_with_the_next_document(folder, tokenizer):
    small = take(open_stream(folder / "pages", tokenizer, 3), 4)
    stream = open_stream(folder / "pages", tokenizer, 6)
    stream.set_state(3)
    large = next(stream)
    assert all(np.array_equal(large[key], np.concatenate([b[key] for b in small[1:3]])) for key in large)


def test_every_epoch_has_all_documents_in_another_order(folder, tokenizer):
    batches = take(open_stream(folder / "pages", tokenizer, COUNT, ExampleConfig(length=10, media=2, size=8)), 3)
    orders = [batch["media"][:, 0, 0, 0, 7, 0].tolist() for batch in batches]
    documents = [[value // 10 for value in order] for order in orders]
    assert [sorted(order) for order in documents] == [list(range(COUNT))] * 3
    assert documents[0] != documents[1] != documents[2]
    coins = [np.argsort(documents[i]) for i in range(2)]
    assert (batches[0]["tokens"][coins[0]] != batches[1]["tokens"][coins[1]]).any()  # new windows, new coins


def test_packing_changes_nothing_but_the_place(folder, tokenizer):
    """Each document of a packed row is, token for token and pixel for pixel, the one that has a row of its own."""
    example = ExampleConfig(length=8, media=2, size=8, p_next=0.5, flip=0.5)
    plain = next(open_stream(folder / "pages", tokenizer, 12, example))
    packed = next(open_stream(folder / "pages", tokenizer, PACKED, example))

    def documents(batch, per_row):
        found = []
        for r in range(len(batch["tokens"])):
            for number in range(per_row):
                here = batch["segments"][r] == number + 1
                own = slice(2 * number, 2 * number + 2)
                index = np.maximum(batch["media_index"][r][here] - 2 * number, 0)
                media = batch["media"][r][own].tobytes(), batch["media_mask"][r][own].tobytes()
                found.append((batch["tokens"][r][here].tobytes(), batch["weights"][r][here].tobytes(), *media, *index))
        return sorted(found)

    assert documents(plain, 1) == documents(packed, 3)
    assert ((packed["segments"] > 0) == (packed["tokens"] != tokenizer.pad)).all()


def test_seed_decides(folder, tokenizer):
    first, second = (digest(take(open_stream(folder / "pages", tokenizer, seed=seed), 2)) for seed in (7, 8))
    assert first[0] != second[0] and first[1] != second[1]


@pytest.mark.parametrize("mix", [8, MixConfig(8, pack=2, row_length=20)], ids=["plain", "packed"])
def test_bad_media_are_counted_not_raised(tmp_path, tokenizer, mix):
    write(tmp_path / "pages", (page(i, bad=i == 3) for i in range(8)), 2)
    stream = open_stream(tmp_path / "pages", tokenizer, mix)
    batch = next(stream)
    missing = (batch["tokens"] == tokenizer.image).sum() - batch["media_mask"].sum()
    assert batch["unreadable"].sum(0).tolist() == [0, missing] and missing > 0
    blank = ~batch["media_mask"] & (np.arange(batch["media_mask"].shape[1]) < batch["media_index"].max(1)[:, None])
    for row, slot in np.argwhere(blank):
        assert batch["weights"][row][batch["media_index"][row] == slot + 1].sum() == 0
        assert (batch["media"][row, slot] == CONFIG.fill).all()
    assert stream.unreadable() == f"  {tmp_path}/pages/00000-of-00002.array_record: 1" or (
        stream.unreadable() == f"  {tmp_path}/pages/00001-of-00002.array_record: 1"
    )


@pytest.mark.parametrize("mix", [8, MixConfig(8, pack=2, row_length=20)], ids=["plain", "packed"])
def test_damaged_records_become_counted_dummies(tmp_path, tokenizer, monkeypatch, caplog, mix):
    write(tmp_path / "pages", (page(i) for i in range(8)), 2)
    read = record.Source.read

    def damaged(self, index, choice):
        if index == 5:
            raise ValueError("Record 5 is damaged.")
        return read(self, index, choice)

    monkeypatch.setattr(record.Source, "read", damaged)
    stream = open_stream(tmp_path / "pages", tokenizer, mix, threads=1, name="pages")
    shard, number = record.Source(tmp_path / "pages").locate(5)
    for epoch in range(1, 3):
        batch = next(stream)
        assert batch["unreadable"].sum(0).tolist() == [1, 0]
        if mix == 8:
            dummy = batch["unreadable"][:, 0] == 1
            assert (batch["tokens"][dummy] == tokenizer.pad).all() and batch["weights"][dummy].sum() == 0
        assert stream.unreadable() == f"  {shard}: {epoch}"
    assert f"pages: record {number} of {shard}" in caplog.text
    stream.close()


def test_bad_arguments_are_named(folder, tokenizer):
    for mix, options, message in [
        (5, {"shard_count": 2}, "batch of 5 documents is 5 rows and .* 2 hosts; take a multiple of 2"),
        (PACKED, {"shard_count": 3}, "batch of 12 documents is 4 rows and .* 3 hosts; take a multiple of 9"),
        (COUNT + 1, {}, f"pages has {COUNT} documents, but a batch is {COUNT + 1}"),
        (MixConfig(4, pack=2, row_length=9), {}, "row_length=9 is less than the 10 tokens"),
        (4, {"shard_index": 1}, "shard_index is 1"),
        (4, {"seed": -1}, "seed is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_stream(folder / "pages", tokenizer, mix, name="pages", **options)
