import itertools

import numpy as np
import pytest

from flamingo_jax.config import AlignConfig
from flamingo_jax.data.document import Document
from flamingo_jax.data.filters import align as align_
from flamingo_jax.data.filters.align import align, assign
from flamingo_jax.data.filters.sentences import sentences

ALL = AlignConfig(source="")


def page(text, positions, frames=1):
    """Every medium is told by its bytes: its number."""
    media = tuple(tuple(b"%d-%d" % (number, frame) for frame in range(frames)) for number in range(len(positions)))
    return Document("key", text, tuple(positions), media, "source")


def numbers(document):
    return [int(frames[0].split(b"-")[0]) for frames in document.media]


def test_media_come_in_the_order_of_their_sentences():
    """OpenFlamingo's loader keeps the images' order, and so shows each of these with the other's sentence."""
    document = page("First. Second. Third.", (0, 0))
    found = align(document, [[0.1, 0.2, 0.9], [0.8, 0.3, 0.7]], ALL)
    assert found.document == Document("key", document.text, (0, 15), document.media[::-1], "source")
    assert found.similarities == (0.8, 0.9) and found.moved == 1 and not found.dropped and not found.untouched


def test_the_best_sum_counts_not_the_first_choice():
    found = align(page("First. Second.", (0, 7)), [[0.9, 0.8], [0.7, 0.1]], ALL)
    assert numbers(found.document) == [1, 0] and found.moved == 2


def test_surplus_images_go_to_the_sentence_that_they_are_most_alike():
    found = align(page("First. Second.", (0,) * 4), [[0.1, 0.3], [0.9, 0.1], [0.1, 0.8], [0.5, 0.2]], ALL)
    assert numbers(found.document) == [1, 3, 0, 2] and found.document.positions == (0, 0, 7, 7)


def test_one_sentence_has_all_images_in_their_order():
    found = align(page("  Only this.", (0, 5, 12)), [[0.1], [0.9], [0.5]], ALL)
    assert numbers(found.document) == [0, 1, 2] and found.document.positions == (2, 2, 2)
    assert found.moved == 2  # the first one stood before this sentence already


def test_clips_keep_their_frames():
    found = align(page("First. Second.", (0, 0), frames=3), [[0.1, 0.9], [0.8, 0.3]], ALL)
    assert found.document.media == ((b"1-0", b"1-1", b"1-2"), (b"0-0", b"0-1", b"0-2"))


def test_what_cannot_be_looked_at_stays_as_it_is(monkeypatch):
    document = page("First. Second.", (3, 14))
    good = np.full((2, 2), 0.5)
    for matrix, reason in (
        (good[:1], "similarities of a wrong shape"),
        (good[:, :1], "similarities of a wrong shape"),
        (good.ravel(), "similarities of a wrong shape"),
        (np.empty((2, 0)), "similarities of a wrong shape"),
        (good * [[1, np.nan], [1, 1]], "similarities not finite"),
        (good * [[1, np.inf], [1, 1]], "similarities not finite"),
        (good * [[1, 1], [-np.inf, 1]], "similarities not finite"),
    ):
        found = align(document, matrix, ALL)
        assert found.document is document and found.untouched == reason and not found.moved and not found.dropped
    for other, reason in (
        (page("", (0,)), "document without sentences"),
        (page("12\n--", (0, 1)), "document without sentences"),
        (page("Words.", ()), "document without images"),
    ):
        assert align(other, np.zeros((len(other.media), 0)), ALL) == align_.Aligned(other, untouched=reason)
    for limit, value in (("MAX_CELLS", 3), ("MAX_SENTENCES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(align_, limit, value)
            assert align(document, good, ALL).untouched == "document too long"


def test_images_below_a_floor_are_left_out():
    document = page("First. Second.", (0, 0, 0))
    matrix = [[0.3, 0.2], [0.14, 0.1], [0.29, 0.1]]
    found = align(document, matrix, AlignConfig(source="", min_best=0.15))  # MMC4's: before the assignment
    assert numbers(found.document) == [2, 0] and found.similarities == (0.29, 0.2)
    assert [(d.reason, d.place, d.bad) for d in found.dropped] == [
        ("image unlike all sentences", "key, medium 1: 0.140", False)
    ]
    found = align(document, matrix, AlignConfig(source="", min_similarity=0.24))  # OpenFlamingo's: after it
    assert numbers(found.document) == [2]
    assert [d.reason for d in found.dropped] == ["image unlike its sentence"] * 2
    assert numbers(align(document, np.array(matrix) - 0.5, ALL).document) == [1, 2, 0]  # without one, all are kept
    found = align(document, matrix, AlignConfig(source="", min_best=0.5))
    assert found.document is None and [d.reason for d in found.dropped[3:]] == ["page left without images"]


@pytest.mark.parametrize("options", [{"min_best": -0.1}, {"min_similarity": 1.0}, {"batch": 0}])
def test_senseless_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AlignConfig(source="", **options)


def best_sum(matrix):
    """By trying all ways to give different sentences to as many images as possible."""
    images, count = matrix.shape
    if images <= count:
        ways = itertools.permutations(range(count), images)
        return max(sum(matrix[i, s] for i, s in enumerate(way)) for way in ways)
    return best_sum(matrix.T)


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for images, count in itertools.product(range(1, 6), range(1, 6)):
        matrix = rng.normal(size=(images, count))
        found = assign(matrix)
        chosen = matrix[np.arange(images), found]
        if images <= count:
            assert len(set(found)) == images and np.isclose(chosen.sum(), best_sum(matrix))
            continue
        # Each sentence has its image of the best assignment, the others their favourite.
        favourites = matrix.max(1)
        assert set(found) == set(range(count))
        assert (chosen != favourites).sum() <= count
        others = max(
            best_sum(matrix[list(kept)]) + favourites[[i for i in range(images) if i not in kept]].sum()
            for kept in itertools.combinations(range(images), count)
        )
        assert chosen.sum() <= others + 1e-9


def test_properties_of_any_document():
    rng = np.random.default_rng(1)
    pieces = ["One. ", "Two two! ", "three", "\n", " ", "4. ", "Fünf? ", "六。", "\n\nSeven", "… "]
    for _ in range(400):
        text = "".join(rng.choice(pieces, rng.integers(0, 9)))
        count = int(rng.integers(0, 6))
        document = page(text, np.sort(rng.integers(0, len(text) + 1, count)).tolist(), int(rng.integers(1, 3)))
        starts = [start for start, _ in sentences(text)]
        matrix = rng.uniform(-0.2, 0.6, (count, len(starts)))
        options = AlignConfig(source="", min_best=rng.choice([0, 0.3]), min_similarity=rng.choice([0, 0.2]))
        found = align(document, matrix, options)
        if not (count and starts):
            assert found.document is document and found.untouched
            continue
        images = [d for d in found.dropped if d.reason.startswith("image")]
        if found.document is None:
            assert len(images) == count and found.dropped[-1].reason == "page left without images"
            continue
        new = found.document
        kept = numbers(new)
        assert (new.key, new.text, new.source) == (document.key, document.text, document.source)
        assert len(set(kept)) == len(kept) == count - len(images) == len(found.similarities)
        assert [document.media[number] for number in kept] == list(new.media)
        assert list(new.positions) == sorted(new.positions) and set(new.positions) <= set(starts)
        places = [starts.index(position) for position in new.positions]
        assert found.similarities == tuple(matrix[kept, places])
        assert all(a < b for a, b in itertools.pairwise(zip(places, kept, strict=True)))
        assert not options.min_best or (matrix[kept].max(1) >= options.min_best).all()
        assert not options.min_similarity or min(found.similarities) >= options.min_similarity
        if count <= len(starts):
            assert len(set(places)) == len(places)
        assert found.moved <= len(kept)
        again = align(new, matrix[kept], options)  # each has its sentence already
        if not found.dropped and count <= len(starts):
            assert (again.document, again.moved) == (new, 0)
