"""What a stage has read: counts, the share that ends a run, restarts with another mixture."""

import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import MixConfig
from flamingo_jax.training.seen import Seen, count


class Stream:
    def __init__(self, size, position=0):
        self.count, self.position = size, position

    def get_state(self):
        return self.position

    def set_state(self, state):
        self.position = state

    def unreadable(self):
        return "  some.array_record: 7"


def step(tokens=10, media=4, documents=0, blanks=0):
    return {"loss/a": jnp.float32(1.5), "seen/a": jnp.array([tokens, media, documents, blanks])}


def make(most=0.01, **mixture):
    mixture = mixture or {"a": MixConfig(8)}
    return Seen({name: Stream(32) for name in mixture}, mixture, most)


def test_count_of_a_batch():
    batch = {
        "weights": jnp.array([[0, 1.0, 0.5], [0, 0, 1]]),
        "media_mask": jnp.array([[True, False], [True, True]]),
        "unreadable": jnp.array([[1, 0], [0, 2]]),
    }
    assert count(batch).tolist() == [3, 3, 1, 2] and count(batch).dtype == jnp.int32


def test_counts_are_of_the_whole_stage():
    seen = make()
    seen.add(step())
    assert seen.add(step(documents=1)) == {
        "loss/a": 1.5,
        "seen/a/documents": 16,
        "seen/a/epoch": 0.5,
        "seen/a/tokens": 20,
        "seen/a/media": 8,
        "seen/a/unreadable_documents": 1,
        "seen/a/unreadable_media": 0,
    }
    assert seen.report() == [
        "a: 16 documents (0.50 epochs), 20 tokens, 8 media; 1 documents and 0 media could not be read and counted for "
        "nothing"
    ]


def test_counts_do_not_overflow():
    seen = make()
    for _ in range(3):
        values = seen.add(step(tokens=2**31 - 1))
    assert values["seen/a/tokens"] == 3 * (2**31 - 1)


def test_a_share_of_unreadable_input_ends_the_run():
    seen = make(0.1)
    with pytest.raises(
        ValueError, match=r"(?s)136 of the last 1,037 .*of a .*max_unreadable=0.1.*some\.array_record: 7"
    ):
        for _ in range(1000):
            seen.add(step(media=46, documents=1, blanks=7))
    fine = make(0.2)
    for _ in range(100):
        fine.add(step(media=46, documents=1, blanks=7))


def test_a_shard_that_goes_bad_late_ends_the_run(monkeypatch):
    seen = make(0.1)
    for _ in range(5000):
        seen.add(step(media=46))
    with pytest.raises(ValueError, match="of the last"):
        for _ in range(300):  # not a hundredth of all that was read
            seen.add(step(media=6, documents=1, blanks=40))


def test_a_restart_with_another_mixture_is_said_and_exact_for_the_others():
    before = make(a=MixConfig(8, 1.0), b=MixConfig(8, 0.2), gone=MixConfig(8))
    for stream, position in zip(before._streams.values(), (80, 48, 24), strict=True):
        stream.set_state(position)
    before.add({"seen/a": np.array([7, 5, 0, 0])})
    after, said = make(a=MixConfig(8, 1.0), b=MixConfig(16, 0.3, 2, 40), new=MixConfig(8)), []
    after._streams["b"].count = 40
    after.restore(before.state(), said.append)
    assert [stream.position for stream in after._streams.values()] == [80, 48, 0]
    assert after.state()["a"] == before.state()["a"]
    assert said == [
        "b has 40 documents, and had 32: its order is another one from here on, in which some may come again early or "
        "late",
        "b: batch_size is 16 from here on, and was 8",
        "b: weight is 0.3 from here on, and was 0.2",
        "b: pack is 2 from here on, and was 1",
        "b: row_length is 40 from here on, and was 0",
        "new is new: it is read from its beginning",
        "gone is read no more; it had come to document 24",
    ]
