"""Web archives (WARC, ISO 28500), as Common Crawl and other crawlers write them: pages, and images when they are in it.

A file is gone through twice: for where the images are, then for the pages, whose images are looked up in the archive
first. Damaged members are counted and passed over up to the next one that is whole.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Raw
from flamingo_jax.data.file import open_file
from flamingo_jax.data.formats import html
from flamingo_jax.data.formats.address import canonical

MAX_IMAGE = 50_000_000
"""Bytes of an image; a longer one is damaged or a bomb."""

_PAGES = frozenset(("text/html", "application/xhtml+xml"))
_MEMBERS = (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd")  # how members of gzip and zstd begin; every record is one
_PLAIN = b"WARC/1."  # how records begin that are not compressed
_CHUNK = 1 << 20


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """The pages of an archive, in order; a Dropped for every damage."""
    source = corpus.name(task.path)
    with open_file(task.path) as file, open_file(task.path) as images:
        places, last = {}, 0
        for record in records(file):
            if isinstance(record, WarcRecord):  # damage is told of below
                last = record.stream_pos
                if _type(record).startswith("image/"):
                    places.setdefault(canonical(_address(record)), last)
        cut = find_cut(file, last)
        places = {address: place for address, place in places.items() if place != cut}
        find = functools.partial(_find, images, places, corpus.find)
        for record in records(file):
            if not isinstance(record, WarcRecord):
                yield Dropped("warc damaged", f"{source}, from byte {record[0]}: {record[1]}", bad=True)
            elif _type(record) in _PAGES and record.stream_pos != cut:
                yield _page(record, find, source)
        if cut is not None:
            yield Dropped("warc damaged", f"{source}, from byte {cut}: the file ends within it", bad=True)


def records(file: BinaryIO) -> Iterator[WarcRecord | tuple[int, str]]:
    """Responses with status 200 and resources, in order; (offset, error) where the file is damaged."""
    kinds = WarcRecordType.response | WarcRecordType.resource
    file.seek(0)
    head = file.read(4)
    marker = next((mark for mark in _MEMBERS if head.startswith(mark)), _PLAIN)
    start, last = 0, -1
    while start is not None:
        try:
            file.seek(start)
            found = ArchiveIterator(file, kinds, auto_decode="all")
            while (record := next(found, None)) is not None:
                last = record.stream_pos
                if not record.is_http or record.http_headers.status_code == 200:
                    yield record
            return
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # the library's panics are no Exceptions
            if last >= start or start == 0:  # else what was found only looks like the beginning of a member
                yield max(last, 0), str(error)
            start = _find_marker(file, marker, max(last, start) + 1)


def find_cut(file: BinaryIO, start: int) -> int | None:
    """Where the record begins that is cut off by the end of the file, looked for from ``start``, where one begins."""
    file.seek(start)
    is_gzip = file.read(3) == _MEMBERS[0]
    file.seek(start)
    try:
        for record in ArchiveIterator(file, WarcRecordType.any_type, parse_http=False):
            size = 0
            while chunk := record.reader.read(_CHUNK):
                size += len(chunk)
            if size < record.content_length or "Content-Length" not in record.headers:
                return record.stream_pos
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # no end, but damage
        return None
    return _find_cut_member(file, start) if is_gzip else None


def _find_cut_member(file: BinaryIO, start: int) -> int | None:
    """Where the member of a gzip file begins that is cut off by its end, looked for from the one at ``start``."""
    file.seek(start)
    member, data = zlib.decompressobj(zlib.MAX_WBITS | 16), file.read(_CHUNK)
    end = start + len(data)
    try:
        while data:
            member.decompress(data, _CHUNK)
            data = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                start = end - len(data)
                member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            if not data:
                data = file.read(_CHUNK)
                end += len(data)
    except zlib.error:  # other bytes at the end
        return None
    return start if start < end else None


def _find_marker(file: BinaryIO, marker: bytes, start: int) -> int | None:
    """The first offset from ``start`` on at which ``marker`` stands."""
    file.seek(start)
    tail = b""
    while chunk := file.read(_CHUNK):
        data = tail + chunk
        if (at := data.find(marker)) >= 0:
            return start - len(tail) + at
        start += len(chunk)
        tail = data[-len(marker) :]
    return None


def _page(record: WarcRecord, find: Callable[[str], bytes | Dropped], source: str) -> Raw | Dropped:
    address = _address(record)
    place = f"{source}, byte {record.stream_pos}: {address}"
    data = _content(record, html.MAX_BYTES)
    if isinstance(data, str):
        return Dropped("page damaged", f"{place}: {data}", bad=True)
    charset = record.http_charset if record.is_http else None
    return html.page(data, address, find, address or f"{source}@{record.stream_pos}", source, charset)


def _find(
    file: BinaryIO, places: dict[str, int], elsewhere: Callable[[str], bytes | Dropped], address: str
) -> bytes | Dropped:
    """An image by its canonical address: in the archive, or where the corpus says."""
    if address not in places:
        return elsewhere(address)
    file.seek(places[address])
    record = next(ArchiveIterator(file, auto_decode="all"), None)  # read without error before
    data = _content(record, MAX_IMAGE) if record is not None else "it is gone"
    return Dropped("image damaged", f"{address}: {data}", bad=True) if isinstance(data, str) else data


def _content(record: WarcRecord, most: int) -> bytes | str:
    """A record's payload, its encodings undone; or what is wrong with it."""
    try:
        data = record.reader.read(most + 1)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return str(error)
    return data if len(data) <= most else f"more than {most} bytes"


def _type(record: WarcRecord) -> str:
    """The media type of a record's payload, without parameters."""
    kind = record.http_content_type if record.is_http else record.headers.get("Content-Type")
    return (kind or "").partition(";")[0].strip().lower()


def _address(record: WarcRecord) -> str:
    return (record.headers.get("WARC-Target-URI") or "").strip("<> ")  # early crawlers put it in brackets
