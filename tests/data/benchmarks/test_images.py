"""Sets of images, three items each in the exact schema of the public files, converted and read back."""

import hashlib
import json
import pathlib

import pytest


def name_of(item):
    return pathlib.Path(item.medium).name


def karpathy(split, number, captions, **more):
    sentences = [
        {"tokens": caption.split(), "raw": caption, "imgid": number, "sentid": number * 5 + i}
        for i, caption in enumerate(captions)
    ]
    return {
        "sentids": [sentence["sentid"] for sentence in sentences], "imgid": number, "sentences": sentences,
        "split": split, **more,
    }  # fmt: skip


def coco_image(split, number, *captions, folder="val2014"):
    file = f"COCO_{folder}_{number:012d}.jpg"
    return karpathy(split, number, captions, filepath=folder, filename=file, cocoid=number)


def test_coco(converted, tmp_path):
    images = [
        coco_image("train", 9, "A bowl of\nfood.", "Food in a bowl.", folder="train2014"),
        coco_image("restval", 7, "Not used."),
        coco_image("test", 391895, "A man on a bike. ", "", "Someone rides."),
    ]
    content = json.dumps({"images": images, "dataset": "coco"})
    media = [f"images/{image['filepath']}/{image['filename']}" for image in images]
    source, report = converted("coco", {"dataset_coco.json": content}, media)
    (shot,), (query,) = source.support, source.query
    assert shot.captions == ("A bowl of food.", "Food in a bowl.") and shot.caption == "A bowl of food."
    assert query.id == "test/391895" and query.attributes == {"image_id": "391895"}
    assert query.captions == ("A man on a bike.", "Someone rides.")
    assert query.medium == str(tmp_path / "source" / media[2]) and pathlib.Path(query.medium).exists()
    assert source.facts["metric"] == "cider" and source.facts["classes"] == []
    entry = {"file": "dataset_coco.json", "bytes": len(content), "sha256": hashlib.sha256(content.encode()).hexdigest()}
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
    images = [
        karpathy(split, i, [f"{split} caption"], filename=f"100{i}.jpg") for i, split in enumerate(("train", "test"))
    ]
    media = [f"flickr30k-images/100{i}.jpg" for i in range(2)]
    source, _ = converted("flickr30k", {"dataset_flickr30k.json": {"images": images, "dataset": "flickr30k"}}, media)
    assert source.query[0].attributes == {"image_id": "1001"} and source.query[0].caption == "test caption"


WORDS = ["net", "netting", "net", "", "mesh", "net", "net", "rope", "net", "Net "]


def questions(subtype, *rows):
    keys = ("image_id", "question", "question_id")
    return {
        "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "license": {}, "data_subtype": subtype,
        "questions": [dict(zip(keys, row, strict=True)) for row in rows],
    }  # fmt: skip


def annotations(*rows, confidence="maybe", ids=True):
    def answer(number, word):
        return {"answer": word, "answer_confidence": confidence} | ({"answer_id": number} if ids else {})

    return {
        "info": {}, "license": {},
        "annotations": [
            {
                "question_type": "what is", "multiple_choice_answer": words[0], "image_id": image,
                "answers": [answer(i, word) for i, word in enumerate(words, 1)], "answer_type": "other",
                "question_id": question,
            }
            for image, question, words in rows
        ],
    }  # fmt: skip


def vqa_files(prefix, answers=annotations):
    return {
        f"{prefix}OpenEnded_mscoco_train2014_questions.json": questions(
            "train2014", (458752, "What is this?", 458752000)
        ),
        f"{prefix}mscoco_train2014_annotations.json": answers((458752, 458752000, WORDS)),
        f"{prefix}OpenEnded_mscoco_val2014_questions.json": questions(
            "val2014", (262148, "Where is he looking?", 262148000), (262148, "What colour?", "262148001")
        ),
        f"{prefix}mscoco_val2014_annotations.json": answers(
            (262148, 262148001, ["red"] * 10), ("262148", "262148000", ["down"] * 9 + ["at table"])
        ),
        f"{prefix}OpenEnded_mscoco_test-dev2015_questions.json": questions("test-dev2015", (1, "Is it?", 1000)),
    }


COCO_MEDIA = [
    "train2014/COCO_train2014_000000458752.jpg",
    "val2014/COCO_val2014_000000262148.jpg",
    "test2015/COCO_test2015_000000000001.jpg",
]


@pytest.mark.parametrize(("name", "prefix"), [("vqav2", "v2_"), ("okvqa", "")])
def test_questions_and_answers_are_joined_by_id(converted, name, prefix):
    source, report = converted(name, vqa_files(prefix), COCO_MEDIA)
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
    source, report = converted("vqav2", vqa_files("v2_"), COCO_MEDIA, query="test-dev")
    (query,) = source.query
    assert query.answers == () and query.answer == "" and query.attributes["question_id"] == "1000"
    assert report["splits"]["query"]["answers"] == 0 and source.facts["splits"]["query"]["split"] == "test-dev"


@pytest.mark.parametrize("packaging", ["OpenFlamingo's", "its own"])
def test_textvqa(converted, packaging):
    image, question = "003a8ae2ef43b901", "what is the brand?"
    own = {"question": question, "image_id": image, "question_id": 34602, "answers": WORDS, "set_name": "val"}
    own |= {"image_classes": ["Camera"], "question_tokens": question.split(), "image_width": 1024, "image_height": 664}
    data = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [own]}
    files = {}
    for split in ("train", "val"):
        if packaging == "its own":
            files[f"TextVQA_0.5.1_{split}.json"] = data
        else:
            files[f"{split}_questions_vqa_format.json"] = questions(split, (image, question, 34602))
            answers = annotations((image, 34602, WORDS), confidence="yes")
            files[f"{split}_annotations_vqa_format.json"] = answers
    source, _ = converted("textvqa", files, [f"train_images/{image}.jpg"])
    assert source.query[0].answers == (*WORDS[:-1], "Net") and source.query[0].question == question
    assert name_of(source.query[0]) == f"{image}.jpg" and source.query[0].attributes["image_id"] == image


def test_vizwiz_without_answer_ids_keeps_every_annotator(converted):
    name = "VizWiz_val_00000000.jpg"
    files = {
        f"{split}_questions_vqa_format.json": questions(split, (name, "What is it? ", 0)) for split in ("train", "val")
    }
    words = ["unanswerable"] * 8 + ["blank screen", "unanswerable"]
    answers = annotations((name, 0, words), confidence="yes", ids=False)
    files |= {f"{split}_annotations_vqa_format.json": answers for split in ("train", "val")}
    source, _ = converted("vizwiz", files, [f"val/{name}"])
    assert source.query[0].answers == tuple(words) and source.query[0].question == "What is it?"


def test_vizwiz_as_its_authors_package_it(converted):
    def own(split, **more):
        return [{"image": f"VizWiz_{split}_0.jpg", "question": "What is it?", **more}]

    answers = [{"answer": word, "answer_confidence": "yes"} for word in WORDS]
    labels = {"answers": answers, "answer_type": "other", "answerable": 1}
    files = {"Annotations/train.json": own("train", **labels), "Annotations/test.json": own("test")}
    files["Annotations/val.json"] = own("val", **labels)
    media = [f"{split}/VizWiz_{split}_0.jpg" for split in ("train", "val", "test")]
    source, _ = converted("vizwiz", files, media)
    assert source.query[0].id == "val/VizWiz_val_0.jpg" and source.query[0].answers[4] == "mesh"
    assert source.query[0].attributes["answer_type"] == "other"
    source, _ = converted("vizwiz", {}, query="test")
    assert source.query[0].answers == () and source.query[0].attributes["image_id"] == "VizWiz_test_0.jpg"


def meme(number, label, text):
    row = {"id": number, "img": f"img/{number:05d}.png", "label": label, "text": text}
    return json.dumps({key: value for key, value in row.items() if value is not None}) + "\n"


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_hateful_memes(converted, suffix):
    files = {
        f"train{suffix}": meme(1235, 0, "it's  their character") + "\n" + meme(42, 1, ""),
        f"test_seen{suffix}": meme(16395, 1, "handjobs"),
        f"dev{suffix}": "[" + meme(7, 0, "as a list") + "]",
        f"test_unseen{suffix}": meme(9, None, "no label"),
    }
    media = [f"img/{number:05d}.png" for number in (1235, 42, 16395, 7, 9)]
    source, _ = converted("hateful_memes", files, media)
    assert [shot.answer for shot in source.support] == ["no", "yes"]
    assert source.support[0].ocr == "it's their character" and source.support[1].ocr == ""
    assert source.query[0].options == ("no", "yes") and source.query[0].id == "test_seen/16395"
    assert converted("hateful_memes", {}, query="dev_seen")[0].query[0].ocr == "as a list"
    assert converted("hateful_memes", {}, query="test_unseen")[0].query[0].answers == ()


WNIDS = ("n01440764", "n01443537", "n02012849")
NAMES = ("tench", "goldfish", "crane")
IMAGENET = [f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(2)]
IMAGENET += [f"val/{wnid}/ILSVRC2012_val_{i:08d}.JPEG" for i, wnid in enumerate(WNIDS)]


@pytest.mark.parametrize(
    "files",
    [
        {"classnames.txt": "\n".join(NAMES)},
        {"LOC_synset_mapping.txt": "n02012849 crane\nn01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius\n"},
        {"imagenet_class_index.json": {str(i): list(pair) for i, pair in enumerate(zip(WNIDS, NAMES, strict=True))}},
    ],
    ids=list,
)
def test_imagenet(converted, files, tmp_path):
    converted("imagenet", files, IMAGENET)
    (tmp_path / "disk").mkdir()
    for split in ("train", "val"):
        (tmp_path / "source" / split).rename(tmp_path / "disk" / split)
    source, _ = converted("imagenet", {}, images=str(tmp_path / "disk"))
    assert len(source.support) == 6 and len(source.query) == 3
    item = source.query[1]
    assert item.answer == "goldfish" and item.concept == "n01443537" and item.attributes == {"class_id": "1"}
    assert item.options == NAMES == tuple(source.facts["classes"])
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


def dialogue(image, *rounds):
    return {"image_id": image, "caption": "a dog on a couch", "dialog": list(rounds)}


def visdial(split, *dialogs):
    lists = {"questions": ["is it sunny", "what colour is it", "how many"], "answers": ["yes", "no", "brown", "2"]}
    return {"version": "1.0", "split": split, "data": {**lists, "dialogs": list(dialogs)}}


def turn(question, answer, options=(0, 1, 2, 3)):
    return {
        "question": question, "answer": answer, "answer_options": list(options), "gt_index": options.index(answer),
    }  # fmt: skip


VISDIAL_MEDIA = ["val2014/COCO_val2014_000000378466.jpg", "VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg"]
VISDIAL = {
    "visdial_1.0_train.json": visdial("train", dialogue(378466, turn(0, 0), turn(2, 3))),
    "visdial_1.0_val.json": visdial("val2018", dialogue(185565, turn(0, 1), turn(1, 2, (3, 2, 1)), turn(2, 3))),
    "visdial_1.0_val_dense_annotations.json": [{"image_id": 185565, "round_id": 2, "gt_relevance": [0.0, 1.0, 0.4]}],
}


def test_visdial(converted):
    source, _ = converted("visdial", VISDIAL, VISDIAL_MEDIA)
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
            visdial("val2018", dialogue(185565, turn(0, 1), turn(9, 2))),
            "9 is no number of one of the 3 questions",
        ),
        ("val", visdial("val2018", dialogue(185565, turn(0, 1))), "round_id 2 is not one of the 1 rounds"),
        ("val", visdial("val2018", dialogue(1, turn(0, 1))), "has no ratings of image_id 1"),
        ("val", visdial("val2018", dialogue(185565, turn(0, 1), turn(1, 2))), "no lists of the same length"),
        ("val", visdial("val2018", {"image_id": 185565, "caption": "x"}), "dialog is no list"),
        ("val_dense_annotations", [{"round_id": 1}], "item 0: image_id is missing"),
    ],
)
def test_damaged_dialogues_are_named(converted, file, content, message):
    with pytest.raises(ValueError, match=message):
        converted("visdial", VISDIAL | {f"visdial_1.0_{file}.json": content}, VISDIAL_MEDIA)
