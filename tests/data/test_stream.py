"""Streams: determinism, exact resumption, hosts, epochs, damaged input."""

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from written import write

from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import record
from flamingo_jax.data import stream as stream_
from flamingo_jax.data import tokenizer as tokenizer_
from flamingo_jax.data.document import Document

CONFIG = ExampleConfig(length=10, media=2, size=8, p_next=0.5, leading_space=0.5)
COUNT = 13


def picture(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(buffer, "PNG")
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


def take(stream, count):
    return [next(stream) for _ in range(count)]


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def open_stream(folder, tokenizer, **options):
    return stream_.stream(folder / "pages", tokenizer, CONFIG, **({"batch_size": 4, "seed": 7, "threads": 0} | options))


def test_shapes(folder, tokenizer):
    batch = next(open_stream(folder, tokenizer))
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "tokens": ((4, 10), "int32"),
        "weights": ((4, 10), "float32"),
        "media": ((4, 2, 1, 8, 8, 3), "uint8"),
        "media_index": ((4, 10), "int32"),
        "media_mask": ((4, 2), "bool"),
    }


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_resumes_exactly_whatever_was_made_ahead(folder, tokenizer, threads):
    reference = take(open_stream(folder, tokenizer), 12)
    stream = open_stream(folder, tokenizer, threads=threads, prefetch=3)
    assert same(take(stream, 5), reference[:5])
    state = stream.get_state()
    assert state == 20 and isinstance(state, int)
    assert same(take(stream, 3), reference[5:8])
    stream.set_state(state)  # back, in the same stream
    assert same(take(stream, 2), reference[5:7])
    stream.close()
    fresh = open_stream(folder, tokenizer, threads=threads)
    fresh.set_state(state)
    assert same(take(fresh, 7), reference[5:])
    assert fresh.get_state() == 48
    fresh.close()


def test_resumes_in_a_new_process_with_workers(folder, tokenizer):
    reference = take(open_stream(folder, tokenizer), 6)
    program = f"""
import hashlib
from flamingo_jax.config import ExampleConfig
from flamingo_jax.data import stream, tokenizer
if __name__ == "__main__":
    batches = stream.stream({str(folder / "pages")!r}, tokenizer.load({str(folder / "tokenizer.json")!r}), {CONFIG!r},
                            batch_size=4, seed=7, workers=2)
    batches.set_state(12)
    for _ in range(3):
        batch = next(batches)
        print(hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest())
    batches.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest() for batch in reference[3:]
    ]


def test_hosts_share_the_same_global_batch(folder, tokenizer):
    whole = open_stream(folder, tokenizer)
    whole.set_state(8)
    whole = take(whole, 3)
    halves = []
    for index in range(2):
        stream = open_stream(folder, tokenizer, shard_index=index, shard_count=2)
        stream.set_state(8)  # a state of the single host
        halves.append(take(stream, 3))
        assert stream.get_state() == 20
    for batch, first, second in zip(whole, *halves, strict=True):
        for key, value in batch.items():
            assert np.array_equal(value[0::2], first[key]) and np.array_equal(value[1::2], second[key])


def test_every_epoch_has_all_documents_in_another_order(folder, tokenizer):
    batches = take(open_stream(folder, tokenizer, batch_size=COUNT), 3)
    orders = [batch["media"][:, 0, 0, 0, 0, 0].tolist() for batch in batches]
    documents = [[value // 10 for value in order] for order in orders]
    assert [sorted(order) for order in documents] == [list(range(COUNT))] * 3
    assert documents[0] != documents[1] != documents[2]
    coins = [np.argsort(documents[i]) for i in range(2)]
    assert (batches[0]["tokens"][coins[0]] != batches[1]["tokens"][coins[1]]).any()  # new windows, new coins


def test_seed_decides(folder, tokenizer):
    first, second = (take(open_stream(folder, tokenizer, seed=seed), 2) for seed in (7, 8))
    assert not same(first, second)


def test_bad_media_are_counted_not_raised(tmp_path, tokenizer):
    write(tmp_path / "pages", (page(i, bad=i == 3) for i in range(8)), 1)
    stream = open_stream(tmp_path, tokenizer, batch_size=8)
    batch = next(stream)
    blank = batch["media_mask"].sum(1) == 0
    assert blank.sum() == 1
    assert stream.unreadable_media == (batch["tokens"][blank] == tokenizer.image).sum() > 0
    assert stream.unreadable_documents == 0
    assert (batch["weights"][blank][batch["media_index"][blank] > 0] == 0).all()


def test_damaged_records_become_counted_dummies(tmp_path, tokenizer, monkeypatch):
    write(tmp_path / "pages", (page(i) for i in range(8)), 1)
    read = record.Source.__getitem__

    def damaged(self, index):
        if index == 5:
            raise ValueError("Record 5 is damaged.")
        return read(self, index)

    monkeypatch.setattr(record.Source, "__getitem__", damaged)
    stream = open_stream(tmp_path, tokenizer, batch_size=8, threads=1)
    for epoch in range(1, 3):
        batch = next(stream)
        dummy = (batch["tokens"] == tokenizer.pad).all(1)
        assert dummy.sum() == 1 and batch["weights"][dummy].sum() == 0
        assert (stream.unreadable_documents, stream.unreadable_media) == (epoch, 0)
    stream.close()


def test_a_lost_dataset_is_an_error(tmp_path, tokenizer, monkeypatch):
    write(tmp_path / "pages", (page(i) for i in range(8)), 1)
    stream = open_stream(tmp_path, tokenizer, batch_size=64)

    def gone(self, index):
        raise ValueError("gone")

    monkeypatch.setattr(record.Source, "__getitem__", gone)
    with pytest.raises(ValueError, match="256 documents read from .*pages were unreadable"):
        take(stream, 10)


def test_bad_arguments_are_named(folder, tokenizer):
    for options, message in [
        ({"batch_size": 5, "shard_count": 2}, "batch of 5 .* 2 hosts"),
        ({"batch_size": 0}, "batch of 0"),
        ({"shard_index": 1}, "shard_index is 1"),
        ({"seed": -1}, "seed is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_stream(folder, tokenizer, **options)
    with pytest.raises(ValueError, match="absent"):
        stream_.stream(folder / "absent", tokenizer, CONFIG, batch_size=4, seed=0)
