"""Sets of clips, items in the exact schema of the public files, converted and read back."""

import csv
import io
import pathlib

import pytest


def name_of(item):
    return pathlib.Path(item.medium).name


def table(header, *rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])
    return file.getvalue()


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


def test_msvd_qa_names_clips_by_number_or_by_mapping(converted):
    files = qa_files() | {"youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid1301\n"}
    source, report = converted("msvd_qa", files, ["YouTubeClips/vid1.avi", "YouTubeClips/-7KMZQEsJW4_205_208.avi"])
    assert name_of(source.support[0]) == "vid1.avi" and name_of(source.query[0]) == "-7KMZQEsJW4_205_208.avi"
    assert [item.answer for item in source.query] == ["man", "two"] and source.facts["kind"] == "clip"
    assert source.query[0].attributes == {"question_id": "37348", "video_id": "vid1301"}
    assert report["splits"]["query"]["media"] == 1


def test_msrvtt_qa(converted):
    files = qa_files(category_id=14)
    source, _ = converted("msrvtt_qa", files, ["TrainVal/video1.mp4", "TrainVal/video1201.mp4"], query="val")
    assert source.query[0].id == "val/30933" and name_of(source.query[0]) == "video1201.mp4"


IVQA = "video_id,start,end,question,answer1,answer2,answer3,answer4,answer5"


def test_ivqa_keeps_its_five_annotators(converted):
    row = ["-0abcdefghi", "10", "25.5", "What is cut, first?", "onion", "onion", "an onion", "", "onions"]
    files = {f"{split}.csv": table(IVQA, row, ["b", *row[1:]]) for split in ("train", "test")}
    source, _ = converted("ivqa", files, ["-0abcdefghi.mp4", "b_10_25.5.webm"])
    whole, cut = source.query
    assert whole.answers == ("onion", "onion", "an onion", "", "onions") and whole.question == "What is cut, first?"
    assert (whole.start, whole.end) == (10.0, 25.5) and whole.attributes["question_id"] == "0"
    assert (cut.start, cut.end) == (0.0, None) and name_of(cut) == "b_10_25.5.webm"


def test_ivqa_without_times(converted):
    row = ["a", "What?", *("x" * 5)]
    files = {
        f"{s}.csv": table("video_id,question,answer1,answer2,answer3,answer4,answer5", row) for s in ("train", "test")
    }
    source, _ = converted("ivqa", files, ["a.mp4"])
    assert source.query[0].end is None


def test_nextqa_open_ended_has_second_references(converted):
    header = "video,frame_count,width,height,question,answer,qid,type"
    rows = [["4924794333", 1058, 640, 360, "is the baby old enough", "no", 4, "DB"]]
    rows += [["4924794333", 1058, 640, 360, "how does he eat", "uses the spoon", 8, "CH"]]
    files = {f"{split}.csv": table(header, *rows) for split in ("train", "test")}
    files["add_reference_answer_test.json"] = {"4924794333": {"8": "with a spoon"}}
    source, _ = converted("nextqa", files, ["NExTVideo/1000/4924794333.mp4"])
    assert source.query[1].answers == ("uses the spoon", "with a spoon") and source.query[0].answers == ("no",)
    assert source.query[1].attributes == {"video_id": "4924794333", "question_id": "8", "type": "CH"}
    assert source.query[1].id == "test/4924794333_8" and source.support[1].answers == ("uses the spoon",)


def test_nextqa_multiple_choice(converted):
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    row = ["4010069381", 369, 640, 480, "how do they play", 2, 6, "CH", "roll", "tap", "strum the string", "hit", "pat"]
    bad = [*row[:5], 5, 7, *row[7:]]
    files = {f"{split}.csv": table(header, row, bad) for split in ("train", "val")}
    source, report = converted("nextqa", files, ["4010069381.mp4"], query="val", max_bad=0.5)
    assert source.query[0].answer == "strum the string" and source.query[0].options[3] == "hit"
    assert "line 3: answer is 5" in report["first_drops"]["item damaged"]


def test_activitynet_qa_is_joined_by_id(converted):
    def q(video, number):
        return {"video_name": video, "question": "is the athlete wearing trousers", "question_id": f"{video}_{number}"}

    def a(video, number, answer):
        return {"answer": answer, "type": 3, "question_id": f"{video}_{number}"}

    files = {}
    for split in ("train", "test"):
        files[f"{split}_q.json"] = [q("1QIUV7WYKXg", 1), q("1QIUV7WYKXg", 2)]
        files[f"{split}_a.json"] = [a("1QIUV7WYKXg", 2, "no"), a("1QIUV7WYKXg", 1, "yes")]
    source, _ = converted("activitynet_qa", files, ["v_1QIUV7WYKXg.mkv"])
    assert [item.answer for item in source.query] == ["yes", "no"] and source.query[0].attributes["type"] == "3"


def star(question, answer="The blanket.", **more):
    choices = ("The clothes.", "The blanket.", "The towel.", "The bag.")
    rows = [{"choice_id": i, "choice": choice, "choice_program": []} for i, choice in enumerate(choices)]
    row = {
        "question_id": question,
        "question": "Which object was thrown?",
        "video_id": "6H78U",
        "start": 11.1,
        "end": 19.6,
    }
    situations = {"000311": {"rel_pairs": [["o1", "o2"]], "answer": 3}}
    row |= {"question_program": [], "choices": rows[::-1], "situations": situations, **more}
    return row | ({"answer": answer} if answer else {})


def test_star(converted):
    files = {
        "STAR_train.json": [star("Interaction_T1_1")],
        "STAR_val.json": [star("Sequence_T6_2"), star("Interaction_T1_13")],
        "STAR_test.json": [star("Feasibility_T4_1", None)],
    }
    source, _ = converted("star", files, ["Charades_v1_480/6H78U.mp4", "cut/Interaction_T1_13.mp4"])
    whole, cut = source.query
    assert (
        whole.options == ("The clothes.", "The blanket.", "The towel.", "The bag.") and whole.answer == "The blanket."
    )
    assert (whole.start, whole.end, whole.attributes["type"]) == (11.1, 19.6, "Sequence")
    assert cut.end is None and name_of(cut) == "Interaction_T1_13.mp4"
    (query,) = converted("star", {}, query="test")[0].query
    assert query.answers == () and len(query.options) == 4


def test_vatex(converted):
    def clip(name, *captions):
        return {"videoID": name, "enCap": list(captions), "chCap": ["一"] * 2}

    train, public = "Ptf_2VRj-V0_000122_000132", "-_hbPLsZvvo_000018_000028"
    files = {
        "vatex_training_v1.0.json": [clip(train, "A toddler climbs.", "A child climbs.")],
        "vatex_public_test_english_v1.1.json": [clip(public, "Someone cooks.")],
        "vatex_private_test_without_annotations.json": [{"videoID": public}],
    }
    source, _ = converted("vatex", files, [f"train/{train}.mp4", "test/-_hbPLsZvvo.webm"])
    assert source.support[0].captions == ("A toddler climbs.", "A child climbs.") and source.support[0].end is None
    assert (source.query[0].start, source.query[0].end) == (18.0, 28.0)  # of the whole video
    assert source.query[0].attributes == {"image_id": public}
    assert converted("vatex", {}, query="private_test")[0].query[0].captions == ()


def test_youcook2_has_an_item_per_segment(converted):
    def video(subset, *segments):
        rows = [{"segment": list(times), "id": i, "sentence": text} for i, (times, text) in enumerate(segments)]
        more = {"duration": 241.6, "recipe_type": "113", "video_url": "https://www.youtube.com/watch?v=x"}
        return {"subset": subset, "annotations": rows, **more}

    database = {
        "GLd3aX16zBg": video("training", ([90, 102], "spread margarine"), ([114, 127], "place cheese")),
        "xHr8X2Wpmno": video("validation", ([47, 60], "pick the ends off the verdalago"), ([60, 60], "nothing")),
    }
    files = {"youcookii_annotations_trainval.json": {"database": database}}
    media = ["raw_videos/training/113/GLd3aX16zBg.mp4", "raw_videos/validation/113/xHr8X2Wpmno.mkv"]
    source, report = converted("youcook2", files, media, max_bad=0.5)
    assert [(shot.start, shot.end) for shot in source.support] == [(90.0, 102.0), (114.0, 127.0)]
    assert source.support[1].caption == "place cheese" and source.support[1].id == "training/GLd3aX16zBg_1"
    assert source.support[0].medium == source.support[1].medium
    assert "xHr8X2Wpmno, annotation 1: the clip ends at 60.0 s" in report["first_drops"]["item damaged"]


def test_msrvtt(converted):
    def videos(*splits):
        return [
            {
                "id": i,
                "video_id": f"video{i}",
                "category": 9,
                "url": "u",
                "start time": 1.0,
                "end time": 9.0,
                "split": split,
            }
            for i, split in splits
        ]

    def sentences(*rows):
        return [{"sen_id": i, "video_id": video, "caption": text} for i, (video, text) in enumerate(rows)]

    files = {
        "train_val_videodatainfo.json": {
            "info": {}, "videos": videos((0, "train"), (6513, "validate")),
            "sentences": sentences(("video0", "a car"), ("video6513", "a cat"), ("video0", "a man drives")),
        },
        "test_videodatainfo.json": {"videos": videos((7010, "test")), "sentences": sentences(("video7010", "a woman"))},
    }  # fmt: skip
    source, _ = converted("msrvtt", files, ["all/video0.mp4", "all/video7010.mp4"])
    assert source.support[0].captions == ("a car", "a man drives") and len(source.support) == 1
    assert source.query[0].end is None and source.query[0].caption == "a woman"


KINETICS = "label,youtube_id,time_start,time_end,split"


def test_kinetics700(converted):
    files = {
        "annotations/train.csv": table(KINETICS, ["washing feet", "--GkrdYZ9Tc", 0, 10, "train"])
        + '"air drumming",--nQbRBEz2s,104,114,train\n',
        "annotations/validate.csv": table(
            KINETICS,
            ["air drumming", "a", 84, 94, "validate"],
            ["?", "b", 1, 2, "validate"],
            ["washing feet", "c", 3, 13, ""],
        ),
    }
    media = ["train/washing feet/--GkrdYZ9Tc_000000_000010.mp4", "train/--nQbRBEz2s_000104_000114.mp4"]
    source, report = converted("kinetics700", files, [*media, "val/a_000084_000094.mp4", "whole/c.mkv"], max_bad=0.4)
    cut, whole = source.query
    assert cut.answer == cut.concept == "air drumming" and cut.end is None
    assert cut.options == ("air drumming", "washing feet") and (whole.start, whole.end) == (3.0, 13.0)
    assert "label '?' is none of the training split's" in report["first_drops"]["item damaged"]


RAREACT = "id,video_id,start,end,class_id,verb,noun,annotation"


def test_rareact_has_no_support(converted, tmp_path):
    rows = [[0, "7frRY7aGwMU", 50, 60, 1, "cut", "laptop", 0], [1, "x", 0, 10, 0, "close", "blender", 1]]
    rows += [[2, "x", 3, 5, 1, "cut", "laptop", 4]]
    source, _ = converted("rareact", {"rareact.csv": table(RAREACT, *rows)}, ["7frRY7aGwMU.mp4", "x.mp4"])
    assert source.support == () and not (tmp_path / "target/rareact/support.jsonl").exists()
    assert source.facts["classes"] == ["close blender", "cut laptop"] and len(source.query) == 3
    last = source.query[2]
    assert (last.start, last.end, last.concept, last.answers) == (3.0, 5.0, "cut laptop", ())
    assert last.attributes == {"video_id": "x", "verb": "cut", "noun": "laptop", "class_id": "1", "annotation": "4"}


def test_rareact_needs_all_classes(converted):
    row = [0, "7frRY7aGwMU", 50, 60, 1, "cut", "laptop", 0]
    with pytest.raises(ValueError, match="rareact.csv lacks classes"):
        converted("rareact", {"rareact.csv": table(RAREACT, row)}, ["7frRY7aGwMU.mp4"])
