import math

import pytest

from flamingo_jax.evaluation import metrics

SHAPES = ("circle", "star", "cross", "ring")


def test_exact():
    assert metrics.exact(" red\n", "red")
    assert not metrics.exact("red.", "red") and not metrics.exact("Red", "red") and not metrics.exact("", "red")


def test_named_counts_whole_words_and_plurals():
    assert metrics.named("two large crosses and a star.", SHAPES) == {"cross", "star"}
    assert metrics.named("a string of circlets", SHAPES) == set()


def test_hedging_is_wrong():
    assert metrics.names_only("two red stars.", "star", SHAPES)
    assert not metrics.names_only("stars or rings", "star", SHAPES)
    assert not metrics.names_only("", "star", SHAPES)
    assert metrics.names_only("a moon", "moon", SHAPES)


def test_best_takes_the_first_of_equals():
    assert metrics.best([-2.0, -1.0, -1.0], ["a", "b", "c"]) == "b"


def test_accuracy():
    result = metrics.accuracy([True, False, True, True])
    assert result == {"n": 4, "accuracy": 0.75, "standard_error": math.sqrt(0.75 * 0.25 / 4)}
    with pytest.raises(ValueError, match="no answers"):
        metrics.accuracy([])
