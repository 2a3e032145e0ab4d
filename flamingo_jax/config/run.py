"""Typed configuration of a run: data, stages, mesh, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flamingo_jax.config.corpus import CorpusConfig
from flamingo_jax.config.model import ModelConfig


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The procedural world of the miniature (``data/world``): how many raw files of each kind are made."""

    seed: int = 0
    images_per_concept: int = 40
    pages: int = 4000
    align: int = 4000
    ltip: int = 4000
    clips: int = 800
    texts: int = 8000
    queries: int = 200
    supports: int = 96
    binding_images: int = 8


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """A byte-level BPE tokenizer trained on the text of ``datasets``, or that of ``path``: a public model's folder, or
    a file of ours."""

    vocab_size: int
    datasets: tuple[str, ...] = ()
    path: str = ""


@dataclasses.dataclass(frozen=True)
class ExampleConfig:
    """Shape of a dataset's examples and the coin flips that make them (paper 2.4, A.3).

    length: L, tokens. media: N per example. frames: T per medium. size: side S of the padded square, pixels.
    p_next: probability that a page's text refers to the *next* image instead of the previous one.
    leading_space: probability of one space before a caption (paired data).
    fill: the mean value, 0..255 per channel, that pads images and stands for absent ones.
    """

    length: int
    media: int = 1
    frames: int = 1
    size: int = 320
    p_next: float = 0.5
    leading_space: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)


IN_PLACE = ("tar", "tfds")
"""The formats that training can read as they are: where a sample is in their files is known without unpacking them."""

_HONOURED_IN_PLACE = ("format", "source", "columns", "split", "max_bad")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetConfig(CorpusConfig):
    """One dataset: its raw files, how they become records, and what its examples look like.

    In ``source`` and ``images``, ``{workdir}`` stands for the run's folder.
    in_place: training reads the raw files themselves, of the formats ``IN_PLACE``, and nothing is prepared. Images are
    then those of the files, whatever their size, and of a tfds row with several captions one is drawn every time.

    Raises:
        ValueError: ``in_place`` with another format, or with an option that only preparing honours.
    """

    example: ExampleConfig
    in_place: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not self.in_place:
            return
        if self.format not in IN_PLACE:
            raise ValueError(
                f"in_place=True, but files of format={self.format!r} cannot be read in place; those of "
                f"{' and '.join(IN_PLACE)} can. Leave in_place out, and they are prepared."
            )
        for field in dataclasses.fields(CorpusConfig):
            value = getattr(self, field.name)
            if field.name not in _HONOURED_IN_PLACE and value != field.default:
                raise ValueError(
                    f"in_place=True, but {field.name}={value!r} says what becomes of files when they are prepared: "
                    "leave one of the two out."
                )


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """One dataset's part in a stage: global batch size B and the weight lambda of its gradient."""

    batch_size: int
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with global-norm clipping. The rate rises linearly over ``warmup`` steps, stays constant, and falls
    linearly to zero over the last ``decay_fraction`` of the run (0: never, as in the paper).

    rates: multipliers of the rate for the parts of the model (``config.PARTS``) that are given; 1 for the others.
    """

    learning_rate: float = 1e-4
    warmup: int = 5000
    decay_fraction: float = 0.0
    weight_decay: float = 0.1
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.999
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage: an objective (language | contrastive | flamingo), a mixture, an optimizer and its length.

    parts: what a flamingo stage starts from, as {"language": SOURCE, "vision": SOURCE}: the name of a stage whose
    result it takes, or the folder of a public checkpoint (with a "/" in its name). A part that is not frozen may be
    left out and starts at random.
    """

    objective: str
    steps: int
    mixture: Mapping[str, MixConfig]
    optimizer: OptimizerConfig
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    log_every: int = 20
    checkpoint_every_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Few-shot evaluation: which tasks, how many shots, how many queries per task, and the prompt templates.

    benchmarks: folder of ``TASK/{support,query}.jsonl``. image_dataset, clip_dataset: the datasets whose settings say
    how pictures and clips are shown to the model.
    """

    tasks: tuple[str, ...]
    benchmarks: str
    image_dataset: str
    clip_dataset: str
    shots: tuple[int, ...] = (0, 1, 2, 4, 8)
    queries: int = 200
    batch_size: int = 50
    max_new_tokens: int = 16
    caption_template: str = "Output: {answer}"
    vqa_template: str = "Question: {question} Answer: {answer}"
    text_shots: int = 2  # text-only examples at 0 shots in open-ended tasks (paper, appendix B.1.5)
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run: data, model and stages, each of which may start from the results of those before it.

    order: the stages to run, by name (a ConfigDict does not keep the order of its keys).
    """

    seed: int
    mesh: MeshConfig
    tokenizer: TokenizerConfig
    datasets: Mapping[str, DatasetConfig]
    model: ModelConfig
    stages: Mapping[str, StageConfig]
    order: tuple[str, ...]
    evaluation: EvaluationConfig
    world: WorldConfig | None = None
