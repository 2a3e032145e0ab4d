"""Multimodal C4 as it is published (v1.1), and as OpenFlamingo packs it."""

import base64
import gzip
import io
import json
import math
import zipfile

import numpy as np
import pytest
from prepared import levels, pack, picture, run

SENTENCES = ["First.", "Second one.", "Third."]


def entry(level, match, similarity=0.3, **more):
    return {
        "face_detections": None,
        "image_name": f"{level:012x}.jpg",
        "matched_sim": similarity,
        "matched_text_index": match,
        "raw_url": f"http://x.example/{level}.jpg",
    } | more


def page(images, sentences=SENTENCES, matrix=None, url="http://x.example/page", **more):
    matrix = [[0.2] * len(sentences) for _ in images] if matrix is None else matrix
    return {
        "image_info": images,
        "similarity_matrix": matrix,
        "text_list": sentences,
        "url": url,
        "could_have_url_duplicate": 0,
    } | more


def lines(*pages):
    return "\n".join(map(json.dumps, pages)).encode()


def zipped(data, name="docs_shard_7_v2.jsonl"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def put(folder, *images):
    folder.mkdir(parents=True, exist_ok=True)
    for level in images:
        (folder / f"{level:012x}.jpg").write_bytes(picture(level))


def prepare(tmp_path, data, name="docs_shard_7_v2.jsonl", images=None, **options):
    (tmp_path / "raw").mkdir(exist_ok=True)
    (tmp_path / "raw" / name).write_bytes(data)
    images = f"{tmp_path}/images" if images is None else images
    return run("mmc4", tmp_path / "raw" / name, tmp_path / "set", images=images, **options)


def test_images_stand_before_their_sentences_whatever_order_they_are_listed_in(tmp_path):
    """The case that OpenFlamingo's loader gets wrong: the first image belongs to the last sentence."""
    put(tmp_path / "images" / "7", 50, 100, 150, 200)
    images = [entry(50, 2), entry(100, 0), entry(150, 2), entry(200, 1)]
    report, [document] = prepare(tmp_path, lines(page(images)))
    assert document.text == "First. Second one. Third." and document.key == "http://x.example/page"
    assert [document.text[p:].split()[0] for p in document.positions] == ["First.", "Second", "Third.", "Third."]
    assert levels(document) == [100, 200, 50, 150]
    assert report["drops"] == {}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("docs_no_face_shard_7_v2.jsonl.zip", zipped),
        ("docs_no_face_shard_7_v3.jsonl", bytes),
        ("docs_shard_7_v2.jsonl.gz", gzip.compress),
        ("docs_shard_7_v2.jsonl", zipped),  # suffixes lie
    ],
)
def test_every_packing_is_read(tmp_path, name, data):
    put(tmp_path / "images" / "7", 50)
    pages = [page([entry(50, 1)], url=f"http://x.example/{i}") for i in range(3)]
    report, documents = prepare(tmp_path, data(lines(*pages)), name)
    assert [d.key for d in documents] == [f"http://x.example/{i}" for i in range(3)] and report["media"] == 3


@pytest.mark.parametrize("folder", ["7", "2", "docs_shard_7_v2_images", "."])
def test_images_are_found_wherever_the_download_script_puts_them(tmp_path, folder):
    """By the shard's number, by its place among those that were downloaded, or in a folder named after the file."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "docs_shard_5_v2.jsonl").write_bytes(b"")
    (tmp_path / "raw" / "docs_shard_7_v2.jsonl").write_bytes(lines(page([entry(50, 0)])))
    put(tmp_path / "images" / folder, 50)
    _, [document] = run("mmc4", tmp_path / "raw/*.jsonl", tmp_path / "set", images=str(tmp_path / "images"))
    assert levels(document) == [50]


def test_images_stand_beside_the_file_if_nothing_else_is_said(tmp_path):
    put(tmp_path / "raw" / "docs_shard_7_v2_images", 50)
    _, [document] = prepare(tmp_path, lines(page([entry(50, 0)])), images="")
    assert levels(document) == [50]


def test_images_are_found_by_address_in_what_img2dataset_wrote(tmp_path):
    members = []
    for level in (50, 100):
        members += [
            (f"{level}.jpg", picture(level)),
            (f"{level}.json", lines({"url": f"http://x.example/{level}.jpg"})),
        ]
    (tmp_path / "00000.tar").write_bytes(pack(*members))
    images = [entry(100, 1), entry(150, 1), entry(50, 0)]
    report, [document] = prepare(tmp_path, lines(page(images)), images=f"{tmp_path}/*.tar")
    assert levels(document) == [50, 100] and report["drops"] == {"medium missing": 1}


def test_files_that_are_gone_or_hold_something_else_cost_one_image(tmp_path):
    put(tmp_path / "images" / "7", 50)
    (tmp_path / "images" / "7" / f"{60:012x}.jpg").write_text("<html>404</html>")
    (tmp_path / "images" / "7" / f"{70:012x}.jpg").write_bytes(picture(70, "PNG"))  # the suffix lies
    report, [document] = prepare(tmp_path, lines(page([entry(level, 0) for level in (50, 60, 70, 80)])))
    assert levels(document) == [50, 70]
    assert report["drops"] == {"image not readable": 1, "medium missing": 1}


def test_indices_that_mean_no_sentence_cost_one_image(tmp_path):
    put(tmp_path / "images" / "7", 50, 60)
    bad = [-1, 3, 10**30, "-1", "x", "9" * 50, None, True, 0.5, math.nan, [0], "²"]
    images = [entry(50, "1"), *[entry(60, match) for match in bad], "no image", entry(60, 2.0)]
    report, [document] = prepare(tmp_path, lines(page(images)))
    assert levels(document) == [50, 60] and document.positions == (7, 19)
    assert report["drops"] == {"image without sentence": len(bad) + 1} and report["bad"] == len(bad) + 1


def test_a_floor_of_similarity(tmp_path):
    put(tmp_path / "images" / "7", 50, 60, 70, 80)
    images = [entry(50, 0, 0.25), entry(60, 0, 0.23), entry(70, 1, None), entry(80, 1, math.nan)]
    matrix = [[0, 0, 0], [0, 0, 0], [0, 0.24, 0], [0, 1, 0]]
    report, [document] = prepare(tmp_path, lines(page(images, matrix=matrix)), min_similarity=0.24)
    assert levels(document) == [50, 70]
    assert report["drops"] == {"image unlike its sentence": 1, "image without similarity": 1} and report["bad"] == 1


def test_images_are_assigned_anew_so_that_the_sum_is_largest(tmp_path):
    """Both are most similar to the last sentence; the second one gains more from it."""
    put(tmp_path / "images" / "7", 50, 60)
    images, matrix = [entry(50, 1), entry(60, 1)], [[0.1, 0.28, 0.30], [0.1, 0.1, 0.31]]
    _, [document] = prepare(tmp_path, lines(page(images, matrix=matrix)), reassign=True)
    assert levels(document) == [50, 60]
    assert [document.text[p:].split()[0] for p in document.positions] == ["Second", "Third."]
    sums = {(i, j): matrix[0][i] + matrix[1][j] for i in range(3) for j in range(3) if i != j}
    assert max(sums, key=sums.get) == (1, 2)


def test_surplus_images_go_to_the_sentence_that_they_are_most_similar_to(tmp_path):
    put(tmp_path / "images" / "7", 50, 60, 70)
    matrix = [[0.1, 0.3], [0.1, 0.4], [0.2, 0.35]]
    images = [entry(level, 0) for level in (50, 60, 70)]
    _, [document] = prepare(tmp_path, lines(page(images, ["a", "b"], matrix)), reassign=True)
    assert levels(document) == [70, 50, 60] and document.positions == (0, 2, 2)


@pytest.mark.parametrize(
    "matrix",
    [
        None,
        [],
        [[0.1, 0.2]],
        [[0.1, 0.2, 0.3]],
        [[0.1, 0.2, 0.3], [0.1]],
        [["x"] * 3] * 2,
        {"a": 1},
        5,
        [[[1]] * 3] * 2,
    ],
    ids=str,
)
def test_a_matrix_of_another_shape_costs_its_page_when_it_is_needed(tmp_path, matrix):
    put(tmp_path / "images" / "7", 50)
    data = lines(page([entry(50, 0), entry(50, 1)], url="bad") | {"similarity_matrix": matrix}, page([entry(50, 0)]))
    report, [document] = prepare(tmp_path, data, reassign=True)
    assert document.key == "http://x.example/page" and report["drops"] == {"similarity matrix damaged": 1}
    assert run("mmc4", tmp_path / "raw/*", tmp_path / "b", images=f"{tmp_path}/images")[0]["documents"] == 2


def test_rows_that_are_not_finite_cost_their_image(tmp_path):
    put(tmp_path / "images" / "7", 50, 60, 70)
    matrix = [[math.nan, 0.9, 0.9], [0.1, 0.2, 0.3], [math.inf, 0.1, 0.1]]
    report, [document] = prepare(
        tmp_path, lines(page([entry(n, 0) for n in (50, 60, 70)], matrix=matrix)), reassign=True
    )
    assert levels(document) == [60] and report["bad"] == 2


def test_a_matrix_that_would_take_hours_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("flamingo_jax.data.formats.mmc4.MAX_CELLS", 5)
    put(tmp_path / "images" / "7", 50)
    data = lines(page([entry(50, 0)] * 2), page([entry(50, 0)]))
    report, documents = prepare(tmp_path, data, reassign=True)
    assert len(documents) == 1 and report["drops"] == {"similarity matrix damaged": 1}


def test_empty_sentences_and_pages_without_either_part(tmp_path):
    put(tmp_path / "images" / "7", 50, 60)
    pages = [
        page([entry(50, 1), entry(60, 3)], ["", " a\n b ", "", ""]),
        page([]),
        page([entry(50, 0)], [" "]),
        page([entry(50, 0)], []),
    ]
    report, documents = prepare(tmp_path, lines(*pages))
    assert [(d.text, d.positions, levels(d)) for d in documents] == [("a b", (0, 3), [50, 60])]
    assert report["drops"] == {"page without images": 2, "page without text": 1, "image without sentence": 1}


def test_damaged_lines_cost_themselves(tmp_path):
    put(tmp_path / "images" / "7", 50)
    good = page([entry(50, 0)])
    bad = [b"{", b"[1]", b"[" * 100_000, b'{"text_list": 3}', lines(good | {"text_list": ["a", None]})]
    bad += [lines(good | {"image_info": {}}), b'{"image_info": [], "text_list": ["\xff"]}', b"\0"]
    report, documents = prepare(tmp_path, b"\n".join([*bad, lines(good)]))
    assert len(documents) == 1 and report["bad"] == 7
    assert report["drops"] == {"line not JSON": 3, "line not an object": 1, "page damaged": 3, "page without images": 1}
    assert report["first_drops"]["page damaged"].startswith("docs_shard_7_v2.jsonl:4: ")


def test_names_lead_to_no_other_folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(picture(50))
    (tmp_path / "images").mkdir()
    names = ["../secret.jpg", "../../secret.jpg", str(tmp_path / "secret.jpg"), "/../secret.jpg", "a\0b", 5, None, ""]
    addresses = [
        f"file://{tmp_path}/secret.jpg",
        "file:///../secret.jpg",
        "file:///%2e%2e/secret.jpg",
        "x",
        [],
        "http://[",
    ]
    images = [entry(50, 0, image_name=name) for name in names] + [entry(50, 0, raw_url=url) for url in addresses]
    data = lines(page(images), page([entry(50, 0, image_base64=base64.b64encode(picture(50)).decode())], url="good"))
    report, [document] = prepare(tmp_path, data)
    assert document.key == "good" and report["documents"] == 1


def encoded(level):
    return base64.b64encode(picture(level)).decode()


def test_open_flamingos_tars_hold_images_themselves(tmp_path):
    """Images that its converter did not find have no content; they take no part when images are assigned anew."""
    images = [entry(50, 2, image_base64=encoded(50)), entry(60, 0), entry(70, 1, image_base64=encoded(70))]
    matrix = [[0.1, 0.3, 0.2], [0.1, 0.9, 0.1], [0.3, 0.1, 0.1]]
    (tmp_path / "raw").mkdir()
    members = [("6f9e.json", lines(page(images, matrix=matrix))), ("7a.json", b"{"), ("7b.jpg", b"x")]
    (tmp_path / "raw" / "000000000.tar").write_bytes(pack(*members))
    report, [document] = run("mmc4", tmp_path / "raw/*.tar", tmp_path / "a")
    assert levels(document) == [70, 50] and document.positions == (7, 19)
    assert report["drops"] == {"medium missing": 1, "line not JSON": 1}
    _, [document] = run("mmc4", tmp_path / "raw/*.tar", tmp_path / "b", reassign=True)
    assert levels(document) == [70, 50] and document.positions == (0, 7)


def test_open_flamingos_sequences_by_chatgpt(tmp_path):
    example = "_!_IMAGE2_!_ A cat.\nThen _!_IMAGE1_!_a dog. _!_IMAGE3_!__!_IMAGE4_!_"
    images = {"_!_IMAGE1_!_": {"base64_image": encoded(50)}, "_!_IMAGE2_!_": {"base64_image": encoded(60)}}
    images |= {"_!_IMAGE3_!_": {"base64_image": "***"}, "_!_IMAGE5_!_": {"base64_image": encoded(70)}}
    sequence = {"is_gpt": True, "example": example, "image_map": images}
    members = [
        ("a.json", lines(sequence)),
        ("b.json", lines({"is_gpt": 1, "example": 5})),
        ("c.json", b'{"is_gpt": 1}'),
    ]
    (tmp_path / "0.tar").write_bytes(pack(*members))
    report, [document] = run("mmc4", tmp_path / "0.tar", tmp_path / "set")
    assert (document.key, document.text, document.positions) == ("0.tar/a", "A cat. Then a dog.", (0, 12))
    assert levels(document) == [60, 50]
    assert report["drops"] == {"image not readable": 1, "medium missing": 1, "page damaged": 2}


@pytest.mark.parametrize("pack_", [gzip.compress, zipped], ids=["gzip", "zip"])
def test_a_cut_or_flipped_file_keeps_what_comes_before(tmp_path, pack_):
    put(tmp_path / "images" / "7", 50)
    rng = np.random.default_rng(0)
    pages = [page([entry(50, 0)], [rng.bytes(200).hex()], url=f"http://x.example/{i}") for i in range(2000)]
    data = pack_(lines(*pages))
    cut = (
        data[: len(data) // 2]
        if pack_ is gzip.compress
        else data[: len(data) // 2] + b"\0" * 20 + data[len(data) // 2 + 20 :]
    )
    report, documents = prepare(tmp_path, cut, "docs_shard_7_v2.jsonl.x", size=16)
    assert 100 < len(documents) < 2000 and report["drops"].get("file damaged") == 1


@pytest.mark.parametrize("pack_", [gzip.compress, zipped], ids=["gzip", "zip"])
def test_bombs_end_early(tmp_path, monkeypatch, pack_):
    monkeypatch.setattr("flamingo_jax.data.formats.packed.FREE_BYTES", 1_000_000)
    put(tmp_path / "images" / "7", 50)
    data = pack_(lines(page([entry(50, 0)])) + b"\n" + b" " * 30_000_000)
    report, documents = prepare(tmp_path, data, "docs_shard_7_v2.jsonl.x")
    assert len(documents) == 1 and report["drops"] == {"file damaged": 1}
    assert "it unpacks to more than 200 times its size" in report["first_drops"]["file damaged"]


def test_no_zip_at_all_and_a_locked_one(tmp_path):
    put(tmp_path / "images" / "7", 50)
    (tmp_path / "raw").mkdir()
    locked = bytearray(zipped(lines(page([entry(50, 0)]))))
    locked[6] |= 1  # the flag of encryption, in both headers
    locked[locked.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "raw" / "docs_shard_1_v2.jsonl.zip").write_bytes(bytes(locked))
    (tmp_path / "raw" / "docs_shard_2_v2.jsonl.zip").write_bytes(b"PK\3\4 no zip")
    (tmp_path / "raw" / "docs_shard_7_v2.jsonl.zip").write_bytes(zipped(lines(page([entry(50, 0)]))))
    report, documents = run("mmc4", tmp_path / "raw/*", tmp_path / "set", images=f"{tmp_path}/images")
    assert len(documents) == 1 and report["drops"] == {"file damaged": 2}
