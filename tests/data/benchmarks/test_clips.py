"""Sets of clips, converted and read back."""

import pathlib

import pytest
from public import NEXTQA_ROW, RAREACT, RAREACT_ROW, SETS, VATEX, kinetics700, nextqa_choices, table, youcook2


def name_of(item):
    return pathlib.Path(item.medium).name


def test_msvd_qa_names_clips_by_number_or_by_mapping(converted):
    source, report = converted("msvd_qa", *SETS["msvd_qa"]())
    assert name_of(source.support[0]) == "vid1.avi" and name_of(source.query[0]) == "-7KMZQEsJW4_205_208.avi"
    assert [item.answer for item in source.query] == ["man", "two"] and source.facts["kind"] == "clip"
    assert source.query[0].attributes == {"question_id": "37348", "video_id": "vid1301"}
    assert report["splits"]["query"]["media"] == 1


def test_msrvtt_qa(converted):
    source, _ = converted("msrvtt_qa", *SETS["msrvtt_qa"](), query="val")
    assert source.query[0].id == "val/30933" and name_of(source.query[0]) == "video1201.mp4"


def test_ivqa_keeps_its_five_annotators(converted):
    source, _ = converted("ivqa", *SETS["ivqa"]())
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
    source, _ = converted("nextqa", *SETS["nextqa"]())
    assert source.query[1].answers == ("uses the spoon", "with a spoon") and source.query[0].answers == ("no",)
    assert source.query[1].attributes == {"video_id": "4924794333", "question_id": "8", "type": "CH"}
    assert source.query[1].id == "test/4924794333_8" and source.support[1].answers == ("uses the spoon",)


def test_nextqa_multiple_choice(converted):
    bad = [*NEXTQA_ROW[:5], 5, 7, *NEXTQA_ROW[7:]]
    source, report = converted("nextqa", *nextqa_choices(bad), query="val", max_bad=0.5)
    assert source.query[0].answer == "strum the string" and source.query[0].options[3] == "hit"
    assert "line 3: answer is 5" in report["first_drops"]["item damaged"]


def test_activitynet_qa_is_joined_by_id(converted):
    source, _ = converted("activitynet_qa", *SETS["activitynet_qa"]())
    assert [item.answer for item in source.query] == ["yes", "no"] and source.query[0].attributes["type"] == "3"


def test_star(converted):
    source, _ = converted("star", *SETS["star"]())
    whole, cut = source.query
    assert (
        whole.options == ("The clothes.", "The blanket.", "The towel.", "The bag.") and whole.answer == "The blanket."
    )
    assert (whole.start, whole.end, whole.attributes["type"]) == (11.1, 19.6, "Sequence")
    assert cut.end is None and name_of(cut) == "Interaction_T1_13.mp4"
    (query,) = converted("star", {}, query="test")[0].query
    assert query.answers == () and len(query.options) == 4


def test_vatex(converted):
    source, _ = converted("vatex", *SETS["vatex"]())
    assert source.support[0].captions == ("A toddler climbs.", "A child climbs.") and source.support[0].end is None
    assert (source.query[0].start, source.query[0].end) == (18.0, 28.0)  # of the whole video
    assert source.query[0].attributes == {"image_id": VATEX[1]}
    assert converted("vatex", {}, query="private_test")[0].query[0].captions == ()


def test_youcook2_has_an_item_per_segment(converted):
    source, report = converted("youcook2", *youcook2(([60, 60], "nothing")), max_bad=0.5)
    assert [(shot.start, shot.end) for shot in source.support] == [(90.0, 102.0), (114.0, 127.0)]
    assert source.support[1].caption == "place cheese" and source.support[1].id == "training/GLd3aX16zBg_1"
    assert source.support[0].medium == source.support[1].medium
    assert "xHr8X2Wpmno, annotation 1: the clip ends at 60.0 s" in report["first_drops"]["item damaged"]


def test_msrvtt(converted):
    source, _ = converted("msrvtt", *SETS["msrvtt"]())
    assert source.support[0].captions == ("a car", "a man drives") and len(source.support) == 1
    assert source.query[0].end is None and source.query[0].caption == "a woman"


def test_kinetics700(converted):
    source, report = converted("kinetics700", *kinetics700(["?", "b", 1, 2, "validate"]), max_bad=0.4)
    cut, whole = source.query
    assert cut.answer == cut.concept == "air drumming" and cut.end is None
    assert cut.options == ("air drumming", "washing feet") and (whole.start, whole.end) == (3.0, 13.0)
    assert "label '?' is none of the training split's" in report["first_drops"]["item damaged"]


def test_rareact_has_no_support(converted, tmp_path):
    source, _ = converted("rareact", *SETS["rareact"]())
    assert source.support == () and not (tmp_path / "target/rareact/support.jsonl").exists()
    assert source.facts["classes"] == ["close blender", "cut laptop"] and len(source.query) == 3
    last = source.query[2]
    assert (last.start, last.end, last.concept, last.answers) == (3.0, 5.0, "cut laptop", ())
    assert last.attributes == {"video_id": "x", "verb": "cut", "noun": "laptop", "class_id": "1", "annotation": "4"}


def test_rareact_needs_all_classes(converted):
    with pytest.raises(ValueError, match="rareact.csv lacks classes"):
        converted("rareact", {"rareact.csv": table(RAREACT, RAREACT_ROW)}, ["7frRY7aGwMU.mp4"])
