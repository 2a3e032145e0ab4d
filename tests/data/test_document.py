import msgpack
import pytest

from flamingo_jax.data.document import SCHEMA, Document, Dropped, decode, encode

PAGE = Document("a", "one\ntwo", (0, 4, 4, 7), ((b"x",), (b"y",), (b"", b"z"), (b"w",)), "a.html")


@pytest.mark.parametrize("document", [PAGE, Document("", ""), Document("t", "naïve 文 <image>", source="t.jsonl")])
def test_encode_is_inverted_by_decode(document):
    assert decode(encode(document)) == document


def test_a_lone_surrogate_keeps_the_positions():
    document = decode(encode(Document("a", "x\ud800y", (2,), ((b"i",),))))
    assert document.text == "x?y" and document.positions == (2,)


@pytest.mark.parametrize(
    ("positions", "media"),
    [((0,), ()), ((2, 1), ((b"x",),) * 2), ((8,), ((b"x",),)), ((-1,), ((b"x",),)), ((0,), ((),))],
)
def test_impossible_documents_are_refused(positions, media):
    with pytest.raises(ValueError, match="'key'"):
        Document("key", "one two", positions, media)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"garbage",
        encode(PAGE)[:-1],
        encode(PAGE) + b"x",
        msgpack.packb([1]),
        msgpack.packb({"schema": SCHEMA}),
        *(
            msgpack.packb({**msgpack.unpackb(encode(PAGE)), key: value})
            for key, value in (("text", 3), ("key", None), ("source", {}), ("positions", [0.5] * len(PAGE.media)))
        ),
        msgpack.packb({**msgpack.unpackb(encode(PAGE)), "media": [{b"a": 1}] * len(PAGE.media)}),
        msgpack.packb({**msgpack.unpackb(encode(PAGE)), "positions": [9, 9, 9, 9]}),
    ],
)
def test_what_is_no_document_is_refused(data):
    with pytest.raises(ValueError, match="not an encoded document"):
        decode(data)


def test_another_schema_is_refused():
    with pytest.raises(ValueError, match="another version"):
        decode(msgpack.packb({**msgpack.unpackb(encode(PAGE)), "schema": SCHEMA + 1}))


def test_every_truncation_and_flipped_byte_is_a_value_error_or_a_document():
    data = encode(PAGE)
    for i in range(len(data)):
        for damaged in (data[:i], data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :]):
            try:
                assert isinstance(decode(damaged), Document)
            except ValueError:
                pass


def test_a_report_holds_no_endless_addresses():
    place = Dropped("medium missing", "a.html: http://" + "x" * 10**6 + ": no such file").place
    assert len(place) == 1000 and place.startswith("a.html: http://x") and place.endswith("x: no such file")
    assert Dropped("medium missing", "x" * 1000).place == "x" * 1000
