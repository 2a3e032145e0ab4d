"""Sets of images, converted and read back."""

import hashlib
import json
import pathlib

import pytest
from public import (
    CLASS_FILES,
    CLASSES,
    IMAGENET,
    SETS,
    TEXTVQA,
    WORDS,
    coco_image,
    dialogue,
    dialogues,
    encode,
    hateful_memes,
    turn,
)


def name_of(item):
    return pathlib.Path(item.medium).name


def test_coco(converted, tmp_path):
    files, media = SETS["coco"]()
    content = encode(files["dataset_coco.json"])
    source, report = converted("coco", files, media)
    (shot,), (query,) = source.support, source.query
    assert shot.captions == ("A bowl of food.", "Food in a bowl.") and shot.caption == "A bowl of food."
    assert query.id == "test/391895" and query.attributes == {"image_id": "391895"}
    assert query.captions == ("A man on a bike.", "Someone rides.")
    assert query.medium == str(tmp_path / "source" / media[2]) and pathlib.Path(query.medium).exists()
    assert source.facts["metric"] == "cider" and source.facts["classes"] == []
    entry = {"file": "dataset_coco.json", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert source.facts["sources"] == [entry]
    assert source.facts["splits"]["query"] == {"split": "test", "items": 1, "media": 1, "left_out": 0, "answers": 1}
    assert report["splits"] == source.facts["splits"] and report["drops"] == {}


def test_coco_ids_may_be_texts_and_media_elsewhere(converted, tmp_path):
    images = [coco_image("train", 9, "a"), coco_image("val", 10, "b") | {"cocoid": "10"}]
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    for image in images:
        (elsewhere / image["filename"]).touch()
    files = {"annotations/dataset_coco.json": {"images": images}}
    source, _ = converted("coco", files, images=str(elsewhere), query="val")
    assert source.query[0].attributes["image_id"] == "10" and source.facts["images"] == str(elsewhere)
    line = json.loads((tmp_path / "target/coco/query.jsonl").read_text())
    assert line["media"] == ["COCO_val2014_000000000010.jpg"] and line["kind"] == "image"


def test_flickr30k(converted):
    source, _ = converted("flickr30k", *SETS["flickr30k"]())
    assert source.query[0].attributes == {"image_id": "1001"} and source.query[0].caption == "test caption"


@pytest.mark.parametrize("name", ["vqav2", "okvqa"])
def test_questions_and_answers_are_joined_by_id(converted, name):
    source, report = converted(name, *SETS[name]())
    assert source.support[0].answers == (*WORDS[:-1], "Net") and source.support[0].answer == "net"
    first, second = source.query  # in the questions' order, whatever that of the annotations
    assert first.question == "Where is he looking?" and first.answers[-1] == "at table"
    assert second.question == "What colour?" and second.answers == ("red",) * 10
    assert first.attributes == {
        "question_id": "262148000", "image_id": "262148", "question_type": "what is", "answer_type": "other",
    }  # fmt: skip
    assert name_of(first) == "COCO_val2014_000000262148.jpg" and report["splits"]["query"]["media"] == 1
    assert source.facts["metric"] == "vqa_accuracy"


def test_a_test_split_has_no_answers(converted):
    source, report = converted("vqav2", *SETS["vqav2"](), query="test-dev")
    (query,) = source.query
    assert query.answers == () and query.answer == "" and query.attributes["question_id"] == "1000"
    assert report["splits"]["query"]["answers"] == 0 and source.facts["splits"]["query"]["split"] == "test-dev"


@pytest.mark.parametrize("packaging", ["textvqa", "textvqa own"])
def test_textvqa(converted, packaging):
    image, question, _ = TEXTVQA
    source, _ = converted("textvqa", *SETS[packaging]())
    assert source.query[0].answers == (*WORDS[:-1], "Net") and source.query[0].question == question
    assert name_of(source.query[0]) == f"{image}.jpg" and source.query[0].attributes["image_id"] == image


def test_vizwiz_without_answer_ids_keeps_every_annotator(converted):
    source, _ = converted("vizwiz", *SETS["vizwiz"]())
    words = ("unanswerable",) * 8 + ("blank screen", "unanswerable")
    assert source.query[0].answers == words and source.query[0].question == "What is it?"


def test_vizwiz_as_its_authors_package_it(converted):
    source, _ = converted("vizwiz", *SETS["vizwiz own"]())
    assert source.query[0].id == "val/VizWiz_val_0.jpg" and source.query[0].answers[4] == "mesh"
    assert source.query[0].attributes["answer_type"] == "other"
    source, _ = converted("vizwiz", {}, query="test")
    assert source.query[0].answers == () and source.query[0].attributes["image_id"] == "VizWiz_test_0.jpg"


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_hateful_memes(converted, suffix):
    source, _ = converted("hateful_memes", *hateful_memes(suffix))
    assert [shot.answer for shot in source.support] == ["no", "yes"]
    assert source.support[0].ocr == "it's their character" and source.support[1].ocr == ""
    assert source.query[0].options == ("no", "yes") and source.query[0].id == "test_seen/16395"
    assert converted("hateful_memes", {}, query="dev_seen")[0].query[0].ocr == "as a list"
    assert converted("hateful_memes", {}, query="test_unseen")[0].query[0].answers == ()


@pytest.mark.parametrize("name", CLASS_FILES)
def test_imagenet(converted, name, tmp_path):
    converted("imagenet", *SETS[f"imagenet {name}"]())
    (tmp_path / "disk").mkdir()
    for split in ("train", "val"):
        (tmp_path / "source" / split).rename(tmp_path / "disk" / split)
    source, _ = converted("imagenet", {}, images=str(tmp_path / "disk"))
    assert len(source.support) == 6 and len(source.query) == 3
    item = source.query[1]
    assert item.answer == "goldfish" and item.concept == "n01443537" and item.attributes == {"class_id": "1"}
    assert item.options == CLASSES == tuple(source.facts["classes"])
    assert item.options is source.query[2].options  # a thousand names are held once
    assert item.medium.endswith("disk/val/n01443537/ILSVRC2012_val_00000001.JPEG")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"classnames.txt": "tench\ngoldfish\n"}, "has 2 names, but .*train has 3 folders"),
        ({"LOC_synset_mapping.txt": "n01440764 tench\n"}, "names no class 'n01443537'"),
        ({"imagenet_class_index.json": {"0": ["n01440764"]}}, "is no list of class names"),
        ({"imagenet_class_index.json": [1]}, "is no list of class names: .*has a list"),
        ({"classnames.txt": "a\nb\nc\n", "val/n99999999/x.JPEG": b""}, "folders of no class, like 'n99999999'"),
    ],
)
def test_class_names_and_folders_agree(converted, files, message):
    with pytest.raises(ValueError, match=message):
        converted("imagenet", files, IMAGENET)


def test_visdial(converted):
    source, _ = converted("visdial", *SETS["visdial"]())
    (shot,), (query,) = source.support, source.query
    assert shot.caption == "a dog on a couch" and shot.turns == (("is it sunny", "yes"),)
    assert (shot.question, shot.answer, shot.options) == ("how many", "2", ())
    assert query.turns == (("is it sunny", "no"),) and query.question == "what colour is it"
    assert query.options == ("2", "brown", "no") and query.relevance == (0.0, 1.0, 0.4)
    assert query.answer == "brown" and query.attributes == {"image_id": "185565", "round_id": "2", "gt_index": "1"}
    assert name_of(shot) == "COCO_val2014_000000378466.jpg"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "val",
            dialogues("val2018", dialogue(185565, turn(0, 1), turn(9, 2))),
            "9 is no number of one of the 3 questions",
        ),
        ("val", dialogues("val2018", dialogue(185565, turn(0, 1))), "round_id 2 is not one of the 1 rounds"),
        ("val", dialogues("val2018", dialogue(1, turn(0, 1))), "has no ratings of image_id 1"),
        ("val", dialogues("val2018", dialogue(185565, turn(0, 1), turn(1, 2))), "no lists of the same length"),
        ("val", dialogues("val2018", {"image_id": 185565, "caption": "x"}), "dialog is no list"),
        ("val", ["data"], "visdial_1.0_val.json has a list, but an object is expected"),
        ("val", {}, "visdial_1.0_val.json has None at data, but an object is expected"),
        ("val", {"data": "dialogs"}, "visdial_1.0_val.json has a text at data, but an object is expected"),
        ("val_dense_annotations", [{"round_id": 1}], "item 0: image_id is missing"),
    ],
)
def test_damaged_dialogues_are_named(converted, file, content, message):
    files, media = SETS["visdial"]()
    with pytest.raises(ValueError, match=message):
        converted("visdial", files | {f"visdial_1.0_{file}.json": content}, media)
