"""What damaged and hostile files of evaluation sets do: an item is left out and named, a wrong file stops it all."""

import json
import pathlib
import subprocess
import sys

import pytest

from flamingo_jax.data.benchmarks import BENCHMARKS, convert, describe, source
from flamingo_jax.data.benchmarks.index import Index
from flamingo_jax.evaluation import benchmark


def question(number, image=1, **more):
    return {"question_id": number, "image_id": image, "question": "What is it?", **more}


def answered(number, *words, **more):
    answers = [{"answer": word, "answer_confidence": "yes", "answer_id": i} for i, word in enumerate(words or ["a"], 1)]
    return {"question_id": number, "image_id": 1, "answers": answers, "answer_type": "other", **more}


NAMES = {
    (role, key): f"{prefix}mscoco_{split}_{key}.json"
    for role, split in (("support", "train2014"), ("query", "val2014"))
    for key, prefix in (("questions", "OpenEnded_"), ("annotations", ""))
}
GOOD = [question(number) for number in range(10)], [answered(number) for number in range(10)]
MEDIA = [f"{folder}/COCO_{folder}_{1:012d}.jpg" for folder in ("train2014", "val2014")]


@pytest.fixture
def okvqa(converted):
    """Converts OK-VQA with given query files in place of good ones."""

    def okvqa(questions=None, annotations=None, **options):
        rows = {"questions": GOOD[0], "annotations": GOOD[1]}
        files = {NAMES[role, key]: {key: rows[key]} for role, key in NAMES}
        for key, content in (("questions", questions), ("annotations", annotations)):
            if content is not None:
                files[NAMES["query", key]] = {key: content} if isinstance(content, list) else content
        return converted("okvqa", files, MEDIA, **options)

    return okvqa


@pytest.mark.parametrize(
    ("questions", "annotations", "reason", "place"),
    [
        (
            [*GOOD[0], {"question_id": 10, "image_id": 1}],
            [*GOOD[1], answered(10)],
            "item damaged",
            "item 10: question is",
        ),
        ([*GOOD[0], {"image_id": 1}], None, "item damaged", "item 10: question_id is missing"),
        ([*GOOD[0], [1]], None, "item damaged", "item 10: is list, but an object is expected"),
        ([*GOOD[0], question(3)], None, "id repeated", "item 10: question_id 3 occurred before"),
        ([*GOOD[0], question("3")], None, "id repeated", "question_id 3 occurred before"),
        ([*GOOD[0], question(77)], None, "question without answers", "questions.json, item 10: question_id 77"),
        (None, [*GOOD[1], answered(77)], "answers without question", "annotations.json, item 10: question_id 77"),
        (None, [*GOOD[1], answered(3.0)], "id repeated", "item 10: question_id 3 is that of"),
        (None, [*GOOD[1][:9], {"question_id": 9}], "item damaged", "item 9: answers is missing"),
        (None, [*GOOD[1][:9], {"question_id": 9, "answers": "yes"}], "item damaged", "answers is no list but str"),
        (None, [*GOOD[1][:9], {"question_id": 9, "answers": [{"word": 1}]}], "item damaged", "answers[0] is no text"),
        ([*GOOD[0][:9], question(9, image="../1")], None, "item damaged", "image_id is '../1'"),
        ([*GOOD[0][:9], question(9, image=True)], None, "item damaged", "image_id is no text but bool"),
        ([*GOOD[0][:9], question(9, image=1.5)], None, "item damaged", "image_id is '1.5'"),
        ([*GOOD[0][:9], question(9, image=10**300)], None, "item damaged", "image_id is '1000"),
        ([*GOOD[0][:9], question(9, image=2)], None, "medium missing", "COCO_val2014_000000000002.jpg"),
        ([*GOOD[0][:9], question(9, question="x" * 20_000)], None, "item damaged", "question has 20000 characters"),
        (None, [*GOOD[1][:9], answered(9, *"a" * 20_000)], "item damaged", "answers has 20000 entries"),
    ],
)
def test_a_bad_item_is_left_out_and_named(okvqa, tmp_path, questions, annotations, reason, place):
    found, report = okvqa(questions, annotations, max_bad=0.2)
    assert report["bad"] >= 1 and place in report["first_drops"][reason]
    assert len(found.query) in (9, 10) and len(found.support) == 10
    lines = [json.loads(line) for line in (tmp_path / "target/okvqa/left_out.jsonl").read_text().splitlines()]
    assert any(line["reason"] == reason and place in line["place"] and line["split"] == "query" for line in lines)
    assert found.facts["left_out"] == report["drops"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "val2014_questions.json is empty"),
        (" \n", "is empty"),
        ("{", "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON"),
        ('{"questions": [' + "9" * 10_000 + "]}", "is no valid JSON"),
        ("[[1]]", "has a list, but an object is expected"),
        ('"text"', "has a text, but an object is expected"),
        ('{"annotations": []}', "lacks the key questions; it has annotations"),
        ('{"questions": {}}', "has an object at questions, but a list is expected"),
        ('{"questions": null}', "has None at questions, but a list"),
        ('{"questions": []}', "have no item of its split 'val', for query: .*val2014_questions.json and .*"),
        (b'{"questions": ["\xe9"]}', "is not UTF-8: .* at byte 16"),
        ('{"questions": []}'.encode("utf-16"), "is not UTF-8"),
        ("\n".join(map(json.dumps, GOOD[0])), "looks like JSON Lines"),
    ],
)
def test_a_wrong_file_is_named(okvqa, tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        okvqa(content, [])
    assert not list((tmp_path / "target").iterdir())  # nor a half-written benchmark


def test_byte_order_marks_nan_and_lone_surrogates(okvqa):
    text = json.dumps({"questions": GOOD[0]}).replace("What is it?", "What\\ud83d is\\u00a0it?", 1)
    found, _ = okvqa(b"\xef\xbb\xbf" + text.encode())
    assert found.query[0].question == "What? is it?"
    text = json.dumps({"questions": GOOD[0]}).replace('"image_id": 1,', '"image_id": NaN,', 1)
    _, report = okvqa(text, max_bad=0.2)
    assert "item 0: image_id is missing" in report["first_drops"]["item damaged"]


def test_absurd_sizes(okvqa, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100; is it the right file"):
        okvqa()


def test_too_much_that_is_bad_stops_it(okvqa, tmp_path):
    half = [question(number, image=number % 2 + 1) for number in range(10)]
    with pytest.raises(
        ValueError, match=r"5 of 10 query items of okvqa (.|\n)*5 x medium missing \(first: val/1:"
    ) as error:
        okvqa(half)
    assert "--images" in str(error.value) and "max_bad" in str(error.value)
    assert not list((tmp_path / "target").iterdir())
    assert len(okvqa(half, max_bad=0.5)[0].query) == 5


def test_all_missing_files_are_listed(tmp_path):
    with pytest.raises(ValueError) as error:
        convert("okvqa", tmp_path, tmp_path / "target")
    assert all(name in str(error.value) for name in NAMES.values())
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(
        ValueError, match=r"test_seen.jsonl \(or test_seen.json, .*\): memes of query(.|\n)*query=dev_seen"
    ):
        convert("hateful_memes", tmp_path, tmp_path / "target")
    for name in BENCHMARKS:
        with pytest.raises(ValueError, match=f"lack what {name} is made of"):
            convert(name, tmp_path, tmp_path / "target")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(name="vqa2"), "no evaluation set; did you mean 'vqav2'"),
        (dict(source="nowhere"), "source='nowhere' is no folder"),
        (dict(images="nowhere"), "images='nowhere' is no folder"),
        (dict(source="gs://bucket/okvqa"), "is an address"),
        (dict(query="vall"), "no evaluation split of okvqa; did you mean 'val'"),
        (dict(query="train"), "no evaluation split of okvqa"),
        (dict(max_bad=2), "max_bad=2 must be a share"),
        (dict(max_bad="much"), "max_bad='much' must be a share"),
    ],
)
def test_senseless_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert(**{"name": "okvqa", "source": tmp_path, "target": tmp_path / "target", **options})


def meme(name):
    return json.dumps({"id": 1, "img": name, "label": 1, "text": ""})


@pytest.mark.parametrize("name", ["../secret.png", "img/../../secret.png", "/etc/passwd", "..\\secret.png", "a\0b"])
def test_media_are_not_looked_for_outside(put, tmp_path, name):
    (tmp_path / "secret.png").touch()
    put({"train.jsonl": meme(name), "test_seen.jsonl": meme("1.png")}, ["1.png"])
    with pytest.raises(ValueError, match="1 x medium named outside of its folder"):
        convert("hateful_memes", tmp_path / "source", tmp_path / "target")


def test_damaged_lines(converted):
    lines = [meme("1.png"), "{", "[1]", json.dumps({"id": 2, "img": "1.png", "label": 2, "text": ""}), ""]
    lines += [json.dumps({"id": 3, "img": "1.png", "label": "1", "text": "fine"})]
    files = {"train.jsonl": meme("1.png"), "test_seen.jsonl": "\n".join(lines)}
    found, report = converted("hateful_memes", files, ["1.png"], max_bad=0.7)
    assert [item.answer for item in found.query] == ["yes", "yes"] and report["drops"] == {"item damaged": 3}
    assert report["first_drops"]["item damaged"].startswith("test_seen.jsonl, line 2")


HEADER = "video_id,question,answer1,answer2,answer3,answer4,answer5\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks the columns video_id, .*; its first line is empty"),
        (HEADER.replace("answer5", "answer6"), "lacks the column answer5; its first line is video_id, question"),
        (HEADER.encode() + b"\xff,b,1,2,3,4,5\n", "is not UTF-8"),
        (HEADER + "a,b,1,2,3,4\n", "line 2: its fields are not those of the first line"),
        (HEADER + "a,b,c,1,2,3,4,5\n", "line 2: its fields are not"),
        (HEADER + f"a,{'x' * 200_000},1,2,3,4,5\n", "field larger than"),
        (HEADER, "have no item of its split 'train'"),
    ],
)
def test_damaged_tables(put, tmp_path, content, message):
    put({"train.csv": content, "test.csv": HEADER + "a,b,1,2,3,4,5\n"}, ["a.mp4"])
    with pytest.raises(ValueError, match=message):
        convert("ivqa", tmp_path / "source", tmp_path / "target")


def test_media_of_equal_names_are_told_by_their_folders(tmp_path):
    for path in ("a/1.png", "b/1.png", "b/c/2.mp4", ".hidden/3.png", "b/._4.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for loop in ("a/x", "b/x", "b/y", "b/c/x"):  # without end, if followed more than once
        (tmp_path / loop).symlink_to(tmp_path)
    images = Index(str(tmp_path), "image")
    assert images.find(("a/1.png",)) == "a/1.png"
    assert images.find(("1.png",)).reason == "medium in several places" and "a/1.png" in images.find(("1.png",)).place
    assert images.find(("x/1.png",)).reason == "medium in several places"
    assert images.find(("3.png", "c/2.mp4")) == "b/c/2.mp4"
    assert images.find(("3.png",)).reason == images.find(("4.png",)).reason == "medium missing"
    clips = Index(str(tmp_path), "clip")
    assert clips.find(("2",)) == "b/c/2.mp4" and clips.find(("1",)).reason == "medium missing"


def test_links_to_folders_are_followed_and_media_may_be_moved(okvqa, put, tmp_path):
    okvqa()
    (tmp_path / "source/val2014").rename(tmp_path / "disk")
    (tmp_path / "source/val2014").symlink_to(tmp_path / "disk")
    found, _ = okvqa()
    assert pathlib.Path(found.query[0].medium).is_file()
    path = tmp_path / "target/okvqa/benchmark.json"
    facts = json.loads(path.read_text())
    (tmp_path / "source").rename(tmp_path / "moved")
    path.write_text(json.dumps(facts | {"images": "../../moved"}))
    assert pathlib.Path(benchmark.read(tmp_path / "target", "okvqa").query[0].medium).is_file()


def test_a_benchmark_is_replaced_and_nothing_else_is(okvqa, tmp_path):
    okvqa()
    first = (tmp_path / "target/okvqa/query.jsonl").read_bytes()
    okvqa(GOOD[0][:5], GOOD[1][:5])
    assert (tmp_path / "target/okvqa/query.jsonl").read_bytes() != first
    okvqa()
    assert (tmp_path / "target/okvqa/query.jsonl").read_bytes() == first  # the same in, the same out
    with pytest.raises(ValueError):
        okvqa("{")
    assert (tmp_path / "target/okvqa/query.jsonl").read_bytes() == first
    (tmp_path / "target/okvqa/benchmark.json").unlink()
    with pytest.raises(ValueError, match="holds something else"):
        okvqa()


def test_a_target_that_cannot_be_written(okvqa, tmp_path):
    (tmp_path / "target").write_text("a file")
    with pytest.raises(OSError, match="Cannot write the benchmark .*target/okvqa"):
        okvqa()


def test_the_reader_knows_what_it_reads(okvqa, tmp_path):
    okvqa()
    folder = tmp_path / "target/okvqa"
    lines = (folder / "query.jsonl").read_text().splitlines(keepends=True)
    (folder / "query.jsonl").write_text("".join(lines[:5]))
    with pytest.raises(ValueError, match="query.jsonl has 5 items, but benchmark.json counts 10"):
        benchmark.read(tmp_path / "target", "okvqa")
    for content, message in (("[]", "has schema None"), ('{"schema": 99}', "has schema 99"), ("{", "no valid JSON")):
        (folder / "benchmark.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            benchmark.read(tmp_path / "target", "okvqa")


def test_the_command(okvqa, tmp_path):
    okvqa()
    (tmp_path / "source" / MEDIA[1]).rename(tmp_path / MEDIA[1].rsplit("/")[-1])
    command = [sys.executable, "-m", "flamingo_jax.prepare", "--format=okvqa", f"--source={tmp_path}/source"]
    command += [f"--target={tmp_path}/other", f"--images={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "query: 10 items of val on 1 media, 10 answered." in result.stdout
    result = subprocess.run([*command, "--set=split=val"], capture_output=True, text=True)
    assert result.returncode == 1 and "--set=split is no option of evaluation sets" in result.stderr


def test_what_was_left_out_is_told(okvqa):
    _, report = okvqa([*GOOD[0][:9], question(9, image=2)], max_bad=0.2)
    text = describe(report)
    assert "query: 9 items of val" in text and "1  medium missing (first: val/9: " in text and "left_out.jsonl" in text
