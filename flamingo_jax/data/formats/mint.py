"""MINT-1T (arXiv 2406.11271): web pages in Parquet files; PDF and ArXiv documents in tar files.

A document in a tar file is ``KEY.json``, with texts and the names of images, and ``KEY.tiff`` with an image per page.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any

from PIL import Image

from flamingo_jax.config import CorpusConfig
from flamingo_jax.data.corpus import Corpus, Task
from flamingo_jax.data.document import Dropped, Medium, Raw
from flamingo_jax.data.file import size_of
from flamingo_jax.data.formats import interleaved, tar
from flamingo_jax.data.formats.lines import parse
from flamingo_jax.data.formats.packed import open_packed
from flamingo_jax.data.image import MAX_PIXELS, MAX_SIDE

_LIMITS = {"json": tar.MAX_TEXT, "tiff": tar.MAX_MEMBER}
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


def tasks(path: str, options: CorpusConfig) -> Iterator[Task]:
    """A tar file at once, a Parquet file in parts. Raises ValueError when columns are missing."""
    if tar.is_tar(path):
        yield Task(path, size=size_of(path))
    else:
        yield from interleaved.tasks(path, options)


def read(task: Task, corpus: Corpus) -> Iterator[Raw | Dropped]:
    """A page per row, or a document per pair of members; a Dropped for each one that is damaged."""
    if not tar.is_tar(task.path):
        yield from interleaved.read(task, corpus)
        return
    source = corpus.name(task.path)
    with open_packed(task.path) as file:
        for sample in tar.samples(file, source, _LIMITS):
            if isinstance(sample, Dropped):
                yield sample
                continue
            key, parts = sample
            place = f"{source}/{key}"
            found = parse(parts["json"], place) if "json" in parts else Dropped("document without text", place)
            yield found if isinstance(found, Dropped) else _document(place, found[1], parts.get("tiff", b""), source)


def _document(place: str, fields: dict[str, Any], tiff: bytes, source: str) -> Raw | Dropped:
    images, address = fields.get("images"), fields.get("url")
    pages = _pages(fields.get("image_metadata"))
    names = images if isinstance(images, list) else ()
    in_order = not any(isinstance(name, str) and name in pages for name in names)

    def medium(name: Any, number: int) -> Medium:
        page = number if in_order else pages.get(str(name))
        return Medium(str(name), functools.partial(_image, tiff, page, f"{place}, {name}"))

    key = address if isinstance(address, str) and address else place
    return interleaved.page(key, place, images, fields.get("texts"), medium, source)


def _pages(metadata: Any) -> dict[str, int]:
    """On which page of the TIFF an image is, by its name; for sets that do not say it, the images are in order."""
    entries = enumerate(metadata) if isinstance(metadata, list) else ()
    return {f"page_{e.get('page')}_image_{e.get('xref')}": page for page, e in entries if isinstance(e, dict)}


def _image(tiff: bytes, page: int | None, place: str) -> bytes | Dropped:
    """A page of a TIFF as a PNG. Pillow reads the TIFF: it is left out of the decoders of images from the web."""
    if not tiff or page is None:
        return Dropped("medium missing", f"{place}: {'the .json does not say where' if tiff else 'there is no .tiff'}")
    try:
        with Image.open(io.BytesIO(tiff), formats=("TIFF",)) as image:
            image.seek(page)
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            buffer = io.BytesIO()
            pixels = image if image.mode in _PNG_MODES else image.convert("RGB")
            pixels.save(buffer, "PNG", compress_level=1)
            return buffer.getvalue()
    except Exception as error:  # Pillow raises a dozen types
        return Dropped("image not readable", f"{place}: {error}", bad=True)
