"""Typed configuration of a run: data, stages, mesh, evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flamingo_jax.config.check import choose
from flamingo_jax.config.corpus import CorpusConfig
from flamingo_jax.config.example import ExampleConfig
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
    """One dataset's part in a stage: how many documents an update reads, and the weight lambda of its gradient.

    batch_size: documents, over all hosts. pack: so many of them stand in one row of ``row_length`` tokens, for captions
    fill half of a row of their own; they see nothing of each other. The rows of a batch are then batch_size / pack.
    microbatches: into how many equal pieces a batch's rows are cut, which are worked on one after the other, so that no
    more than one piece's activations need memory. Losses and gradients stay those of the whole batch.

    Raises:
        ValueError: packed rows without a length, or that do not divide the batch.
    """

    batch_size: int
    weight: float = 1.0
    pack: int = 1
    row_length: int = 0
    microbatches: int = 1

    def __post_init__(self):
        if self.pack < 1 or (self.pack > 1) != (self.row_length > 0):
            raise ValueError(
                f"pack={self.pack} with row_length={self.row_length}: give the tokens of a row that holds pack > 1 "
                "documents, and none where a row is a document."
            )
        if self.batch_size % self.pack:
            raise ValueError(f"batch_size={self.batch_size} documents do not divide into rows of pack={self.pack}.")

    @property
    def rows(self) -> int:
        """Rows of a global batch."""
        return self.batch_size // self.pack


@dataclasses.dataclass(frozen=True)
class StreamsConfig:
    """How batches are made, on every host. Nothing of it changes what they hold.

    threads: that make batches beside the training step, per dataset; 0 makes them when they are asked for.
    workers: processes per dataset that do it instead, each with ``threads``. Decoders run outside of Python's lock, so
    that threads serve as well (``benchmarks/stream.py --parallel``) and start at once.
    prefetch: batches made ahead per thread, or kept ready per worker, at most; never more than half a GiB of a dataset
    in one process.
    max_unreadable: share of the documents and media of a dataset that may be unreadable before the run stops.
    """

    threads: int = 1
    workers: int = 0
    prefetch: int = 2
    max_unreadable: float = 0.01


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


_LEAST = {
    "keep_latest": 1,
    "keep_every_steps": 0,
    "keep_best": 0,
    "validate_every_steps": 0,
    "validate_batches": 1,
    "max_skipped": 0,
    "skip_spikes": 0,
    "watchdog_minutes": 0,
}


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One training stage: an objective (language | contrastive | flamingo), a mixture, an optimizer and its length.

    steps: updates. mixing: which of the mixture's datasets an update sees (paper B.1.2, B.1.3): all, a gradient of each
    summed ("accumulation"); one after the other ("round_robin"); all in one loss ("merged"), where the examples of a
    contrastive stage are each other's negatives. log_every: updates; "round_robin" rounds it up to whole rounds.
    parts: what a flamingo stage starts from, as {"language": SOURCE, "vision": SOURCE}: the name of a stage whose
    result it takes, or the folder of a public checkpoint (with a "/" in its name). A part that is not frozen may be
    left out and starts at random.
    checkpoint_every_seconds: between checkpoints, of which the keep_latest newest are kept. keep_every_steps: updates;
    those that it divides have a checkpoint that is kept for ever; 0 for none.
    validation: like mixture, datasets that this stage does not train on: every validate_every_steps updates (0: never),
    and in the end, losses on the first validate_batches batches of each are written to validation.jsonl. These steps
    (but for one in the last round of "round_robin", which the end stands for) have checkpoints, of which the keep_best
    with the lowest loss (the mean, by weight) are kept.
    max_skipped: updates, of a thousand, that may have a loss or gradients that are not finite, and are then not made.
    skip_spikes: nor are those made whose loss or gradients' norm is so many standard deviations above the mean of the
    last 128; 0 for never. (OLMo's and MaxText's 6 is a good value.)
    watchdog_minutes: when no update has come to its end for so long, a process says where it hangs, and ends; 0: never.
    profile: (first, last), the updates to trace, counted from 1; () for none. What is compiled is not traced, so it
    begins after the first update (in "round_robin", the first round).

    Raises:
        ValueError: a mixing that the mixture does not allow, a profile of updates that there are not, or a number of
            checkpoints or skipped updates that makes no sense.
    """

    objective: str
    steps: int
    mixture: Mapping[str, MixConfig]
    optimizer: OptimizerConfig
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mixing: str = "accumulation"
    log_every: int = 20
    checkpoint_every_seconds: float = 60.0
    keep_latest: int = 2
    keep_every_steps: int = 0
    validation: Mapping[str, MixConfig] = dataclasses.field(default_factory=dict)
    validate_every_steps: int = 0
    validate_batches: int = 10
    keep_best: int = 0
    max_skipped: int = 10
    skip_spikes: float = 0.0
    watchdog_minutes: float = 30.0
    profile: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        choose(self, mixing=("accumulation", "round_robin", "merged"))
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}.")
        if bool(self.validation) != bool(self.validate_every_steps):
            raise ValueError("validation and validate_every_steps belong together; give both or none.")
        if self.keep_best and not self.validation:
            raise ValueError(f"keep_best={self.keep_best} needs losses to choose by; give validation datasets.")
        if both := sorted(self.mixture.keys() & self.validation.keys()):
            raise ValueError(f"validation: this stage trains on {', '.join(both)}; name other datasets.")
        if self.mixing != "accumulation" and len(self.mixture) < 2:
            raise ValueError(
                f"mixing={self.mixing!r} needs several datasets, but mixture has {len(self.mixture)} "
                f"({', '.join(self.mixture) or 'none'}); add one, or use mixing='accumulation'."
            )
        pieces = {name: mix.microbatches for name, mix in self.mixture.items() if mix.microbatches > 1}
        if pieces and self.objective == "contrastive":
            raise ValueError(
                "A contrastive stage compares all pairs of a batch with each other, so that pieces of it have no "
                f"losses of their own, but mixture has the microbatches {pieces}; leave them at 1, and give smaller "
                "batches or more devices."
            )
        weights = {name: mix.weight for name, mix in self.mixture.items()}
        if self.mixing == "merged" and self.objective == "contrastive" and len(set(weights.values())) > 1:
            raise ValueError(
                "mixing='merged' compares the pairs of all datasets with each other in one contrastive loss, where "
                f"they cannot weigh differently, but mixture has the weights {weights}; make them equal."
            )
        compiled = len(self.mixture) if self.mixing == "round_robin" else 1
        if self.profile and not (
            len(self.profile) == 2 and compiled < self.profile[0] <= self.profile[1] <= self.steps
        ):
            raise ValueError(
                f"profile={self.profile} must be the first and the last update to trace, (first, last), from "
                f"{compiled + 1} (what comes before is compiled) to steps={self.steps}; or () for none."
            )


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
    """Devices along each mesh axis; -1 takes what is left.

    data, fsdp: examples are divided over both; over fsdp weights too, each layer's gathered when it is at work.
    tensor: the heads, hidden units and vocabulary of a layer are divided.
    frozen: "sharded", as trainable weights are; or "replicated" over fsdp, which spares the gathering where they fit.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    frozen: str = "sharded"

    def __post_init__(self):
        choose(self, frozen=("sharded", "replicated"))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run: data, model and stages, each of which may start from the results of those before it.

    order: the stages to run, by name (a ConfigDict does not keep the order of its keys).
    compilation_cache: the folder that keeps compiled programs, in which ``{workdir}`` stands for the run's; "" for
    none; "auto": ``{workdir}/compilation_cache``, but none on CPUs (``training/compilation.py``).
    wandb: the project at Weights & Biases that metrics are sent to as well (``training/tracking.py``); "" for none.
    """

    seed: int
    mesh: MeshConfig
    tokenizer: TokenizerConfig
    datasets: Mapping[str, DatasetConfig]
    model: ModelConfig
    stages: Mapping[str, StageConfig]
    order: tuple[str, ...]
    evaluation: EvaluationConfig
    streams: StreamsConfig = StreamsConfig()
    world: WorldConfig | None = None
    compilation_cache: str = "auto"
    wandb: str = ""
