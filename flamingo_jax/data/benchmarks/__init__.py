"""The public files of evaluation sets -> one form (``form``), which ``flamingo_jax.evaluation.benchmark`` reads."""

from __future__ import annotations

import os

from flamingo_jax.config import suggest
from flamingo_jax.data.benchmarks import video_captions, video_qa, vqa, write
from flamingo_jax.data.benchmarks.coco import COCO, FLICKR30K
from flamingo_jax.data.benchmarks.form import EvaluationSet
from flamingo_jax.data.benchmarks.hateful_memes import HATEFUL_MEMES
from flamingo_jax.data.benchmarks.imagenet import IMAGENET
from flamingo_jax.data.benchmarks.kinetics import KINETICS700
from flamingo_jax.data.benchmarks.rareact import RAREACT
from flamingo_jax.data.benchmarks.visdial import VISDIAL
from flamingo_jax.data.benchmarks.write import describe

BENCHMARKS: dict[str, EvaluationSet] = {
    "coco": COCO,
    "flickr30k": FLICKR30K,
    "vqav2": vqa.VQAV2,
    "okvqa": vqa.OKVQA,
    "textvqa": vqa.TEXTVQA,
    "vizwiz": vqa.VIZWIZ,
    "visdial": VISDIAL,
    "hateful_memes": HATEFUL_MEMES,
    "imagenet": IMAGENET,
    "kinetics700": KINETICS700,
    "vatex": video_captions.VATEX,
    "youcook2": video_captions.YOUCOOK2,
    "msrvtt": video_captions.MSRVTT,
    "msvd_qa": video_qa.MSVD_QA,
    "msrvtt_qa": video_qa.MSRVTT_QA,
    "ivqa": video_qa.IVQA,
    "nextqa": video_qa.NEXTQA,
    "activitynet_qa": video_qa.ACTIVITYNET_QA,
    "star": video_qa.STAR,
    "rareact": RAREACT,
}
"""By the names of the evaluation tasks."""


__all__ = ["BENCHMARKS", "convert", "describe"]


def convert(
    name: str,
    source: str | os.PathLike,
    target: str | os.PathLike,
    images: str | os.PathLike = "",
    *,
    query: str = "",
    max_bad: float = 0.1,
) -> dict:
    """Writes ``target``/``name`` in the internal form. A benchmark that is there already is replaced.

    Args:
        name: a key of ``BENCHMARKS``.
        source: the folder of the public files; they may also lie in a folder directly in it.
        target: the folder of all benchmarks.
        images: the folder of images or clips, in whatever subfolders, if it is another one. Media are referred to, and
            neither copied nor opened.
        query: the evaluation split, where there are several: see the set's ``query``.
        max_bad: share of a split's items that may be damaged or without medium before the conversion stops.

    Returns:
        format; target, the folder written; splits as in benchmark.json; drops {reason: count}; first_drops {reason:
        place}; bad, how many of the drops were damaged or had no medium.

    Raises:
        ValueError: the name or an option is unknown; files are missing (all are listed); a file is not of its format;
            too much is damaged or missing; or something else is at the target.
        OSError: the target cannot be written, or a folder not be listed.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"format={name!r} is no evaluation set; {suggest(name, BENCHMARKS)}.")
    folders = (os.fspath(folder) for folder in (source, target, images))
    return write.write(name, BENCHMARKS[name], *folders, query=query, max_bad=max_bad)
