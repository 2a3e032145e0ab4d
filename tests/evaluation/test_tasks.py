"""Episodes: what prompts show is drawn fairly, and controls destroy exactly what they claim to."""

import collections
import dataclasses
import json

import numpy as np
import pytest

from flamingo_jax.evaluation import benchmark, tasks
from flamingo_jax.evaluation.benchmark import Benchmark, Item

TASKS = {task.name: task for task in tasks.TASKS}


def made(concepts=12, support=6, query=40, words=10):
    def items(split, each):
        return tuple(
            Item(f"{split}/{c}/{i}", f"{split}-{c}-{i}.png", {"shape": f"s{c % 3}"}, concept=f"c{c}", answer="x")
            for c in range(concepts)
            for i in range(each)
        )

    return Benchmark("made", items("support", support), items("query", query), tuple(f"w{i}" for i in range(words)))


def draw(name, shots, source=None, queries=480, seed=0, text_shots=2):
    return tasks.episodes(TASKS[name], source or made(), shots, queries, seed, text_shots)


def concept(medium):
    return medium.split("-")[1]


def read(episode, rng):
    """An ideal reader: the word shown most with the query's class; else a word not shown; else any."""
    votes = collections.Counter(s.answer for s in episode.shots if concept(s.medium) == concept(episode.query.medium))
    if votes:
        return votes.most_common(1)[0][0]
    unused = [word for word in episode.candidates if word not in {shot.answer for shot in episode.shots}]
    return rng.choice(unused or episode.candidates)


def mean(episodes, answer="answer"):
    rng = np.random.default_rng(0)
    right = {"answer": lambda e: e.query.answer, "original": lambda e: e.original}[answer]
    return np.mean([read(episode, rng) == right(episode) for episode in episodes])


def test_episodes_are_a_function_of_seed_and_query():
    assert draw("binding_4way", 4) == draw("binding_4way", 4)
    assert draw("binding_4way", 4) != draw("binding_4way", 4, seed=1)
    few = {episode.query.id: episode for episode in draw("vqa", 4, queries=60)}
    every = {episode.query.id: episode for episode in draw("vqa", 4)}
    assert len(few) == 60 and all(every[key] == episode for key, episode in few.items())


def test_few_queries_are_spread_over_the_classes():
    assert len({concept(episode.query.medium) for episode in draw("binding_4way", 0, queries=12)}) == 12


@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize("shots", [0, 1, 2, 4, 8])
def test_binding_is_balanced(ways, shots):
    order, places = set(), collections.Counter()
    for episode in draw(f"binding_{ways}way", shots):
        assert len(episode.shots) == shots
        assert len(set(episode.candidates)) == ways and episode.query.answer in episode.candidates
        words = {}
        for shot in episode.shots:  # one word per class, one class per word
            assert words.setdefault(concept(shot.medium), shot.answer) == shot.answer
        assert len(set(words.values())) == len(words) == min(shots, ways)
        counts = collections.Counter(shot.answer for shot in episode.shots)
        assert set(counts.values()) <= {max(1, shots // ways)}
        media = [shot.medium for shot in episode.shots] + [episode.query.medium]
        assert len(set(media)) == len(media)
        order.add(tuple(shot.answer == episode.query.answer for shot in episode.shots))
        places[episode.candidates.index(episode.query.answer)] += 1
    assert len(order) > (shots > 0)
    assert min(places.values()) > 480 / ways * 0.7  # the right answer has no favourite place


def test_a_reader_rises_from_chance():
    scores = [mean(draw("binding_4way", shots)) for shots in (0, 1, 2, 4, 8)]
    # 1 shot: right in 1 of 4 cases, else 1 of the 3 other words; 2 shots: 1/2 + 1/2 * 1/2.
    np.testing.assert_allclose(scores, [0.25, 0.5, 0.75, 1, 1], atol=0.07)


@pytest.mark.parametrize("shots", [1, 2, 4, 6, 8])
def test_shuffled_media_leave_chance(shots):
    assert abs(mean(draw("binding_4way_shuffled", shots)) - 0.25) < 0.07
    for plain, control in zip(draw("binding_4way", shots), draw("binding_4way_shuffled", shots), strict=True):
        assert plain.query == control.query and plain.candidates == control.candidates
        assert [shot.answer for shot in plain.shots] == [shot.answer for shot in control.shots]


@pytest.mark.parametrize("shots", [4, 8])
def test_swapped_words_swap_the_answers(shots):
    control = draw("binding_4way_swapped", shots)
    assert mean(control) == 1 and mean(control, "original") == 0
    for plain, episode in zip(draw("binding_4way", shots), control, strict=True):
        assert episode.original == plain.query.answer
        assert [shot.medium for shot in plain.shots] == [shot.medium for shot in episode.shots]


def test_blanked_media():
    for episode in draw("binding_4way_blanked", 4):
        assert {shot.medium for shot in episode.shots} == {tasks.BLANK} and episode.query.medium != tasks.BLANK
    for episode in draw("vqa_blanked", 2):
        assert {example.medium for example in (*episode.shots, episode.query)} == {tasks.BLANK}
    for episode in draw("vqa_blanked", 0):
        assert [shot.medium for shot in episode.shots] == [None, None] and episode.query.medium == tasks.BLANK


def test_text_shots_stand_in_at_zero_shots_only_where_they_give_nothing_away():
    assert {len(episode.shots) for episode in draw("vqa", 0)} == {2}
    assert {shot.medium for episode in draw("vqa", 0) for shot in episode.shots} == {None}
    assert {len(episode.shots) for episode in draw("vqa", 0, text_shots=0)} == {0}
    assert all(shot.medium for episode in draw("vqa", 1) for shot in episode.shots)
    for name in ("binding_2way", "binding_4way", "classification"):
        assert {len(episode.shots) for episode in draw(name, 0)} == {0}


def test_induction_asks_one_attribute_per_episode():
    items = tuple(
        Item(f"{i}", f"{i}.png", {"shape": f"shape{i}", "colour": f"colour{i}", "texture": f"texture{i}"})
        for i in range(30)
    )
    kinds = collections.Counter()
    for episode in draw("induction", 3, Benchmark("induction", items[:10], items[10:])):
        kind = {example.answer.rstrip("0123456789") for example in (*episode.shots, episode.query)}
        assert len(kind) == 1
        kinds[kind.pop()] += 1
    assert set(kinds) == {"shape", "colour", "texture"}


def test_a_query_is_never_among_its_shots():
    source = made()
    same = dataclasses.replace(source, query=source.support)
    for name in ("vqa", "binding_4way"):
        for episode in draw(name, 4, same):
            assert episode.query.medium not in {shot.medium for shot in episode.shots}


def test_too_little_support_is_named():
    with pytest.raises(ValueError, match="made has 2 support items, but an episode needs 4"):
        draw("vqa", 4, made(concepts=2, support=1))
    with pytest.raises(ValueError, match="words.json has 3"):
        draw("binding_4way", 1, made(words=3))
    with pytest.raises(ValueError, match="no attribute colour|no attribute texture"):
        draw("induction", 1)


def test_select():
    assert [task.name for task in tasks.select(["vqa"])] == ["vqa", "vqa_blanked"]
    assert [task.name for task in tasks.select(["binding_2way"])] == ["binding_2way"]
    assert len(tasks.select(["binding"])) == 5 and len(tasks.select([])) == len(tasks.TASKS)
    with pytest.raises(ValueError, match="no evaluation task 'captoin'; did you mean 'caption'"):
        tasks.select(["captoin"])


def test_files_are_read(benchmarks):
    source = benchmark.read(benchmarks, "vqa")
    assert len(source.support) == 24 and len(source.query) == 12 and len(source.words) == 6
    assert source.query[0].question == "what colour is it?" and source.values("shape") == {"circle", "star", "cross"}


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="none/support.jsonl"):
        benchmark.read(tmp_path, "none")
    (tmp_path / "task").mkdir()
    row = {"id": "a", "media": ["a.png"], "attributes": {"shape": "star"}}
    good = json.dumps(row)
    for bad, message in (
        ("", "holds no items"),
        (good + "\n{", "line 2 is no valid JSON"),
        ('{"id": "a", "attributes": {"shape": "star"}}', "line 1 lacks media"),
        ('{"id": "a", "media": ["a", "b"], "attributes": {"shape": "star"}}', "has 2 media"),
        ("[" * 100_000, "line 1 is no valid JSON"),
        (good + "\n\xff", "support.jsonl is not UTF-8"),
        (json.dumps({**row, "media": 3}), "line 1: media is 3, but must be a list of texts"),
        (json.dumps({**row, "media": [None]}), "line 1: media is .*, but must be a list of texts"),
        (json.dumps({**row, "answer": True}), "line 1: answer is True, but must be a text"),
        (json.dumps({**row, "end": "2"}), "line 1: end is '2', but must be a number"),
        (json.dumps({**row, "start": float("nan")}), "line 1: start is nan, but must be a number"),
        (json.dumps({**row, "relevance": [True]}), r"line 1: relevance is \[True\], but must be a list of numbers"),
        (json.dumps({**row, "turns": [["a"]]}), "line 1: turns is .*, but must be a list of pairs of texts"),
        (json.dumps({**row, "attributes": {"n": 3}}), "line 1: attributes is .*, but must be an object of texts"),
    ):
        (tmp_path / "task" / "support.jsonl").write_text(bad, "latin-1")
        with pytest.raises(ValueError, match=message):
            benchmark.read(tmp_path, "task")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("words.json", "\xff", "words.json is not UTF-8"),
        ("words.json", '["dax", 3]', "words.json is no list of texts"),
        ("task/benchmark.json", '{"schema": 1, "images": []}', r"benchmark.json: images is \[\], but must be a text"),
        ("task/benchmark.json", '{"schema": 1, "classes": "a"}', "benchmark.json: classes is 'a', but must be a list"),
        ("task/benchmark.json", '{"schema": 1, "splits": {"query": 3}}', "benchmark.json: splits is .*, but must be"),
    ],
)
def test_damaged_facts_are_named(tmp_path, file, content, message):
    (tmp_path / "task").mkdir()
    for split in ("support", "query"):
        (tmp_path / "task" / f"{split}.jsonl").write_text('{"id": "a", "media": ["a.png"], "answers": []}')
    assert benchmark.read(tmp_path, "task").query[0].answer == ""
    (tmp_path / file).write_text(content, "latin-1")
    with pytest.raises(ValueError, match=message):
        benchmark.read(tmp_path, "task")
