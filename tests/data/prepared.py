"""Raw files for tests, and what comes out of them."""

import io
import tarfile

import numpy as np
from PIL import Image

from flamingo_jax.config import CorpusConfig, TextRules
from flamingo_jax.data import image, record
from flamingo_jax.data.prepare import prepare


def picture(level, format="JPEG", size=(80, 70)):
    """An image file that is known by its mean, a multiple of 10, whatever becomes of it: see ``levels``."""
    stripes = np.where(np.arange(size[0]) // 10 % 2, level - 10, level + 10).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.broadcast_to(stripes[:, None], (size[1], size[0], 3))).save(buffer, format)
    return buffer.getvalue()


def levels(document):
    """Which pictures a document has."""
    return [int(10 * round(image.decode(frames[0]).mean() / 10)) for frames in document.media]


def run(format, source, target, **options):
    """(report, documents) of a preparation that accepts all damage."""
    options = {"text": TextRules(formats=()), "max_bad": 1.0} | options
    report = prepare(CorpusConfig(format=format, source=str(source), **options), target, workers=1)
    dataset = record.Source(target)
    return report, [dataset[i] for i in range(len(dataset))]


def pack(*members):
    """A tar file of (name, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
