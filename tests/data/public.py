"""Small valid public files of every evaluation set, items in the exact schema of their authors."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence


def encode(content) -> bytes:
    """What stands in a file: text or bytes as they are, anything else as JSON."""
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def table(header: str, *rows: Sequence) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])
    return file.getvalue()


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


def coco():
    images = [
        coco_image("train", 9, "A bowl of\nfood.", "Food in a bowl.", folder="train2014"),
        coco_image("restval", 7, "Not used."),
        coco_image("test", 391895, "A man on a bike. ", "", "Someone rides."),
    ]
    media = [f"images/{image['filepath']}/{image['filename']}" for image in images]
    return {"dataset_coco.json": {"images": images, "dataset": "coco"}}, media


def flickr30k():
    images = [
        karpathy(split, i, [f"{split} caption"], filename=f"100{i}.jpg") for i, split in enumerate(("train", "test"))
    ]
    media = [f"flickr30k-images/100{i}.jpg" for i in range(2)]
    return {"dataset_flickr30k.json": {"images": images, "dataset": "flickr30k"}}, media


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


def vqa(prefix):
    files = {
        f"{prefix}OpenEnded_mscoco_train2014_questions.json": questions(
            "train2014", (458752, "What is this?", 458752000)
        ),
        f"{prefix}mscoco_train2014_annotations.json": annotations((458752, 458752000, WORDS)),
        f"{prefix}OpenEnded_mscoco_val2014_questions.json": questions(
            "val2014", (262148, "Where is he looking?", 262148000), (262148, "What colour?", "262148001")
        ),
        f"{prefix}mscoco_val2014_annotations.json": annotations(
            (262148, 262148001, ["red"] * 10), ("262148", "262148000", ["down"] * 9 + ["at table"])
        ),
        f"{prefix}OpenEnded_mscoco_test-dev2015_questions.json": questions("test-dev2015", (1, "Is it?", 1000)),
    }
    return files, [
        "train2014/COCO_train2014_000000458752.jpg",
        "val2014/COCO_val2014_000000262148.jpg",
        "test2015/COCO_test2015_000000000001.jpg",
    ]


TEXTVQA = ("003a8ae2ef43b901", "what is the brand?", 34602)


def textvqa():
    """As OpenFlamingo packages it."""
    image, _, number = TEXTVQA
    answers = annotations((image, number, WORDS), confidence="yes")
    files = {f"{split}_questions_vqa_format.json": questions(split, TEXTVQA) for split in ("train", "val")}
    files |= {f"{split}_annotations_vqa_format.json": answers for split in ("train", "val")}
    return files, [f"train_images/{image}.jpg"]


def own_textvqa():
    image, question, number = TEXTVQA
    own = {"question": question, "image_id": image, "question_id": number, "answers": WORDS, "set_name": "val"}
    own |= {"image_classes": ["Camera"], "question_tokens": question.split(), "image_width": 1024, "image_height": 664}
    data = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": [own]}
    return {f"TextVQA_0.5.1_{split}.json": data for split in ("train", "val")}, [f"train_images/{image}.jpg"]


def vizwiz():
    """As OpenFlamingo packages it: without answer ids."""
    name = "VizWiz_val_00000000.jpg"
    words = ["unanswerable"] * 8 + ["blank screen", "unanswerable"]
    answers = annotations((name, 0, words), confidence="yes", ids=False)
    asked = {split: questions(split, (name, "What is it? ", 0)) for split in ("train", "val")}
    files = {f"{split}_questions_vqa_format.json": rows for split, rows in asked.items()}
    return files | {f"{split}_annotations_vqa_format.json": answers for split in asked}, [f"val/{name}"]


def own_vizwiz():
    def own(split, **more):
        return [{"image": f"VizWiz_{split}_0.jpg", "question": "What is it?", **more}]

    answers = [{"answer": word, "answer_confidence": "yes"} for word in WORDS]
    labels = {"answers": answers, "answer_type": "other", "answerable": 1}
    files = {"Annotations/train.json": own("train", **labels), "Annotations/test.json": own("test")}
    files["Annotations/val.json"] = own("val", **labels)
    return files, [f"{split}/VizWiz_{split}_0.jpg" for split in ("train", "val", "test")]


def meme(number, label, text):
    row = {"id": number, "img": f"img/{number:05d}.png", "label": label, "text": text}
    return json.dumps({key: value for key, value in row.items() if value is not None}) + "\n"


def hateful_memes(suffix=".jsonl"):
    files = {
        f"train{suffix}": meme(1235, 0, "it's  their character") + "\n" + meme(42, 1, ""),
        f"test_seen{suffix}": meme(16395, 1, "handjobs"),
        f"dev{suffix}": "[" + meme(7, 0, "as a list") + "]",
        f"test_unseen{suffix}": meme(9, None, "no label"),
    }
    return files, [f"img/{number:05d}.png" for number in (1235, 42, 16395, 7, 9)]


WNIDS = ("n01440764", "n01443537", "n02012849")
CLASSES = ("tench", "goldfish", "crane")
IMAGENET = [f"train/{wnid}/{wnid}_{i}.JPEG" for wnid in WNIDS for i in range(2)]
IMAGENET += [f"val/{wnid}/ILSVRC2012_val_{i:08d}.JPEG" for i, wnid in enumerate(WNIDS)]
CLASS_FILES = {
    "classnames.txt": "\n".join(CLASSES),
    "LOC_synset_mapping.txt": "n02012849 crane\nn01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius\n",
    "imagenet_class_index.json": {str(i): list(pair) for i, pair in enumerate(zip(WNIDS, CLASSES, strict=True))},
}


def imagenet(name):
    return {name: CLASS_FILES[name]}, IMAGENET


def dialogue(image, *rounds):
    return {"image_id": image, "caption": "a dog on a couch", "dialog": list(rounds)}


def dialogues(split, *dialogs):
    lists = {"questions": ["is it sunny", "what colour is it", "how many"], "answers": ["yes", "no", "brown", "2"]}
    return {"version": "1.0", "split": split, "data": {**lists, "dialogs": list(dialogs)}}


def turn(question, answer, options=(0, 1, 2, 3)):
    return {
        "question": question, "answer": answer, "answer_options": list(options), "gt_index": options.index(answer),
    }  # fmt: skip


def visdial():
    query = dialogue(185565, turn(0, 1), turn(1, 2, (3, 2, 1)), turn(2, 3))
    rated = [{"image_id": 185565, "round_id": 2, "gt_relevance": [0.0, 1.0, 0.4]}]
    files = {
        "visdial_1.0_train.json": dialogues("train", dialogue(378466, turn(0, 0), turn(2, 3))),
        "visdial_1.0_val.json": dialogues("val2018", query),
        "visdial_1.0_val_dense_annotations.json": rated,
    }
    media = ["val2014/COCO_val2014_000000378466.jpg"]
    return files, [*media, "VisualDialog_val2018/VisualDialog_val2018_000000185565.jpg"]


def qa(number, video, question, answer, **more):
    return {"answer": answer, "id": number, "question": question, "video_id": video, **more}


def qa_files(**more):
    return {
        "train_qa.json": [qa(0, 1, "what is chewing on a nut?", "animal", **more)],
        "val_qa.json": [qa(30933, 1201, "what is done?", "cut", **more)],
        "test_qa.json": [
            qa(37348, 1301, "who is slicing?", "man", **more),
            qa(37349, 1301, "how many?", "two", **more),
        ],
    }


def msvd_qa():
    files = qa_files() | {"youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid1301\n"}
    return files, ["YouTubeClips/vid1.avi", "YouTubeClips/-7KMZQEsJW4_205_208.avi"]


def msrvtt_qa():
    return qa_files(category_id=14), [f"TrainVal/video{number}.mp4" for number in (1, 1201, 1301)]


def ivqa():
    header = "video_id,start,end,question,answer1,answer2,answer3,answer4,answer5"
    row = ["-0abcdefghi", "10", "25.5", "What is cut, first?", "onion", "onion", "an onion", "", "onions"]
    files = {f"{split}.csv": table(header, row, ["b", *row[1:]]) for split in ("train", "test")}
    return files, ["-0abcdefghi.mp4", "b_10_25.5.webm"]


NEXTQA = "video,frame_count,width,height,question,answer,qid,type"


def nextqa():
    """The open-ended form, with second right answers."""
    rows = [["4924794333", 1058, 640, 360, "is the baby old enough", "no", 4, "DB"]]
    rows += [["4924794333", 1058, 640, 360, "how does he eat", "uses the spoon", 8, "CH"]]
    files = {f"{split}.csv": table(NEXTQA, *rows) for split in ("train", "test")}
    files["add_reference_answer_test.json"] = {"4924794333": {"8": "with a spoon"}}
    return files, ["NExTVideo/1000/4924794333.mp4"]


NEXTQA_ROW = ["4010069381", 369, 640, 480, "how do they play", 2, 6, "CH", "roll", "tap", "strum the string"]
NEXTQA_ROW += ["hit", "pat"]


def nextqa_choices(*rows):
    """The multiple-choice form."""
    content = table(f"{NEXTQA},a0,a1,a2,a3,a4", NEXTQA_ROW, *rows)
    return {f"{split}.csv": content for split in ("train", "val", "test")}, ["4010069381.mp4"]


def activitynet_qa():
    def q(video, number):
        return {"video_name": video, "question": "is the athlete wearing trousers", "question_id": f"{video}_{number}"}

    def a(video, number, answer):
        return {"answer": answer, "type": 3, "question_id": f"{video}_{number}"}

    files = {}
    for split in ("train", "test"):
        files[f"{split}_q.json"] = [q("1QIUV7WYKXg", 1), q("1QIUV7WYKXg", 2)]
        files[f"{split}_a.json"] = [a("1QIUV7WYKXg", 2, "no"), a("1QIUV7WYKXg", 1, "yes")]
    return files, ["v_1QIUV7WYKXg.mkv"]


def star_row(question, answer="The blanket.", **more):
    choices = ("The clothes.", "The blanket.", "The towel.", "The bag.")
    rows = [{"choice_id": i, "choice": choice, "choice_program": []} for i, choice in enumerate(choices)]
    row = {"question_id": question, "question": "Which object was thrown?", "video_id": "6H78U"}
    situations = {"000311": {"rel_pairs": [["o1", "o2"]], "answer": 3}}
    row |= {"start": 11.1, "end": 19.6, "question_program": [], "choices": rows[::-1], "situations": situations, **more}
    return row | ({"answer": answer} if answer else {})


def star():
    files = {
        "STAR_train.json": [star_row("Interaction_T1_1")],
        "STAR_val.json": [star_row("Sequence_T6_2"), star_row("Interaction_T1_13")],
        "STAR_test.json": [star_row("Feasibility_T4_1", None)],
    }
    return files, ["Charades_v1_480/6H78U.mp4", "cut/Interaction_T1_13.mp4"]


VATEX = ("Ptf_2VRj-V0_000122_000132", "-_hbPLsZvvo_000018_000028")


def vatex():
    def clip(name, *captions):
        return {"videoID": name, "enCap": list(captions), "chCap": ["一"] * 2}

    train, public = VATEX
    files = {
        "vatex_training_v1.0.json": [clip(train, "A toddler climbs.", "A child climbs.")],
        "vatex_public_test_english_v1.1.json": [clip(public, "Someone cooks.")],
        "vatex_private_test_without_annotations.json": [{"videoID": public}],
    }
    return files, [f"train/{train}.mp4", "test/-_hbPLsZvvo.webm"]  # the second one whole


def youcook2(*more):
    """more: segments of the validation split."""

    def video(subset, *segments):
        rows = [{"segment": list(times), "id": i, "sentence": text} for i, (times, text) in enumerate(segments)]
        facts = {"duration": 241.6, "recipe_type": "113", "video_url": "https://www.youtube.com/watch?v=x"}
        return {"subset": subset, "annotations": rows, **facts}

    database = {
        "GLd3aX16zBg": video("training", ([90, 102], "spread margarine"), ([114, 127], "place cheese")),
        "xHr8X2Wpmno": video("validation", ([47, 60], "pick the ends off the verdalago"), *more),
    }
    files = {"youcookii_annotations_trainval.json": {"database": database}}
    return files, ["raw_videos/training/113/GLd3aX16zBg.mp4", "raw_videos/validation/113/xHr8X2Wpmno.mkv"]


def msrvtt():
    def videos(*splits):
        facts = {"category": 9, "url": "u", "start time": 1.0, "end time": 9.0}
        return [{"id": i, "video_id": f"video{i}", "split": split, **facts} for i, split in splits]

    def sentences(*rows):
        return [{"sen_id": i, "video_id": video, "caption": text} for i, (video, text) in enumerate(rows)]

    files = {
        "train_val_videodatainfo.json": {
            "info": {}, "videos": videos((0, "train"), (6513, "validate")),
            "sentences": sentences(("video0", "a car"), ("video6513", "a cat"), ("video0", "a man drives")),
        },
        "test_videodatainfo.json": {"videos": videos((7010, "test")), "sentences": sentences(("video7010", "a woman"))},
    }  # fmt: skip
    return files, ["all/video0.mp4", "all/video7010.mp4"]


KINETICS = "label,youtube_id,time_start,time_end,split"


def kinetics700(*rows):
    """rows: more of the validation split."""
    files = {
        "annotations/train.csv": table(KINETICS, ["washing feet", "--GkrdYZ9Tc", 0, 10, "train"])
        + '"air drumming",--nQbRBEz2s,104,114,train\n',
        "annotations/validate.csv": table(
            KINETICS,
            ["air drumming", "a", 84, 94, "validate"],
            *rows,
            ["washing feet", "c", 3, 13, ""],
        ),
    }
    media = ["train/washing feet/--GkrdYZ9Tc_000000_000010.mp4", "train/--nQbRBEz2s_000104_000114.mp4"]
    return files, [*media, "val/a_000084_000094.mp4", "whole/c.mkv"]


RAREACT = "id,video_id,start,end,class_id,verb,noun,annotation"
RAREACT_ROW = [0, "7frRY7aGwMU", 50, 60, 1, "cut", "laptop", 0]


def rareact():
    rows = [RAREACT_ROW, [1, "x", 0, 10, 0, "close", "blender", 1], [2, "x", 3, 5, 1, "cut", "laptop", 4]]
    return {"rareact.csv": table(RAREACT, *rows)}, ["7frRY7aGwMU.mp4", "x.mp4"]


SETS: dict[str, Callable[[], tuple[dict, list[str]]]] = {
    "coco": coco,
    "flickr30k": flickr30k,
    "vqav2": lambda: vqa("v2_"),
    "okvqa": lambda: vqa(""),
    "textvqa": textvqa,
    "textvqa own": own_textvqa,
    "vizwiz": vizwiz,
    "vizwiz own": own_vizwiz,
    "visdial": visdial,
    "hateful_memes": hateful_memes,
    **{f"imagenet {name}": lambda name=name: imagenet(name) for name in CLASS_FILES},
    "kinetics700": kinetics700,
    "vatex": vatex,
    "youcook2": youcook2,
    "msrvtt": msrvtt,
    "msvd_qa": msvd_qa,
    "msrvtt_qa": msrvtt_qa,
    "ivqa": ivqa,
    "nextqa": nextqa,
    "nextqa choices": nextqa_choices,
    "activitynet_qa": activitynet_qa,
    "star": star,
    "rareact": rareact,
}
"""A name, which begins with the set -> its files {name: content, see ``encode``} and the names of its media."""
