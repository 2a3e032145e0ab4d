"""Options of the one decoder. A size of 0 means "the usual one", as its line says."""

from __future__ import annotations

import dataclasses

from flamingo_jax.config.check import ACTIVATIONS, choose, divide


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (Su et al. 2021): angle of pair i at position p is p * theta^(-2i / R), R = fraction * K.

    fraction: share of a head's dimensions, the first, that are rotated. interleaved: pairs are neighbours (GPT-J), not
    the two halves. scaling: none | linear | llama3 | yarn | longrope, to contexts ``factor`` times ``original_length``
    long. low_frequency, high_frequency: llama3's bands. beta_fast, beta_slow, truncate: YaRN's. short, long: LongRoPE's
    divisor of each pair, in batches of up to ``original_length`` positions and in longer ones. magnitude: factor on cos
    and sin of YaRN, where 0 stands for 0.1 ln(factor) + 1, and of LongRoPE.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: str = "none"
    factor: float = 1.0
    original_length: int = 0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float = 0.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()

    def __post_init__(self):
        choose(self, scaling=("none", "linear", "llama3", "yarn", "longrope"))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} must be above 0 and at most 1.")
        if not self.theta > 1:
            raise ValueError(f"theta={self.theta} must be above 1.")
        if not self.factor > 0 or (self.scaling == "none" and self.factor != 1):
            raise ValueError(f"factor={self.factor} must be above 0, and 1 with scaling='none'.")
        if self.scaling in ("llama3", "yarn", "longrope") and self.original_length < 1:
            raise ValueError(f"scaling={self.scaling!r} needs original_length, the context that it was trained on.")
        if not 0 < self.low_frequency < self.high_frequency:
            raise ValueError(
                f"low_frequency={self.low_frequency} must be above 0 and below high_frequency={self.high_frequency}."
            )
        if min(self.beta_fast, self.beta_slow) <= 0:
            raise ValueError(f"beta_fast={self.beta_fast} and beta_slow={self.beta_slow} must be above 0.")

    def rotated(self, head_size: int) -> int:
        """R, how many of a head's dimensions the angles are made for; an odd one turns the next dimension too."""
        return int(head_size * self.fraction + 1e-6)  # the fraction may be R / K, rounded


@dataclasses.dataclass(frozen=True)
class LayerConfig:
    """What may differ between a decoder's layers. window: visible tokens, itself included; 0 for all. rope: None for no
    positions in this layer."""

    window: int = 0
    rope: RopeConfig | None = RopeConfig()


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A causal decoder; the options cover today's dense families (``convert/language_config.py`` has a table of them).

    Sizes: vocab_size valid tokens V; vocab_rows rows of the table, 0 for V (logits of the rows beyond V are masked);
    width D; depth blocks; heads H; kv_heads, 0 for H; head_size K, 0 for D / H; mlp_width, 0 for 4 D; embedding_width
    of the table when it is projected to D, 0 for D; max_positions, the longest context, 0 for any.

    placement of norms in a block:
      pre           x + attention(norm x), then x + mlp(norm x)
      sandwich      x + norm attention(norm x), then the same with the mlp (Gemma 2)
      branch        x + norm attention(x), then the same with the mlp (OLMo 2)
      post          norm(x + attention x), then norm(x + mlp x) (OPT-350m)
      parallel      x + attention(norm x) + mlp(norm x), one norm for both (GPT-J, Phi)
      parallel_two  the same with a norm each (GPT-NeoX)
    norm: rms | layer; norm_scale: it has a scale; norm_bias: LayerNorm has an offset; unit_offset:
      scales are stored less one (Gemma).
    positions: rope | learned (+ position_offset, OPT's 2) | alibi (slopes to 2^-alibi_max) | relative
      (Transformer-XL, as Chinchilla) | none. layers: the kinds of layers; pattern: each layer's kind, repeated.
    smear: keys mix in the key before them, which makes copying in context easy to learn for a model of few layers and
      little training (Olsson et al. 2022, "smeared keys").
    attention_scale: 0 for K^-0.5. qk_norm: none | head (over K) | heads (over K, scales of its own per head) | whole
      (over H K). softcap, clip_qkv, logit_softcap: 0 for none.
    mlp: plain | gated. embedding_scale, residual_scale (of each branch), logit_scale: factors.
    tied: the output table is the input's; head_bias: logits have a bias.
    """

    vocab_size: int
    width: int
    depth: int
    heads: int
    vocab_rows: int = 0
    kv_heads: int = 0
    head_size: int = 0
    mlp_width: int = 0
    embedding_width: int = 0
    max_positions: int = 0
    placement: str = "pre"
    norm: str = "rms"
    norm_scale: bool = True
    norm_bias: bool = True
    unit_offset: bool = False
    epsilon: float = 1e-5
    final_norm: bool = True
    positions: str = "rope"
    position_offset: int = 0
    alibi_max: float = 8.0
    layers: tuple[LayerConfig, ...] = (LayerConfig(),)
    pattern: tuple[int, ...] = (0,)
    smear: bool = False
    attention_scale: float = 0.0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: str = "none"
    qk_norm_bias: bool = False
    softcap: float = 0.0
    clip_qkv: float = 0.0
    mlp: str = "plain"
    mlp_bias: bool = False
    activation: str = "gelu_tanh"
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    tied: bool = True
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float = 0.0

    def __post_init__(self):
        choose(
            self,
            placement=("pre", "sandwich", "branch", "post", "parallel", "parallel_two"),
            norm=("rms", "layer"),
            positions=("rope", "learned", "alibi", "relative", "none"),
            qk_norm=("none", "head", "heads", "whole"),
            mlp=("plain", "gated"),
            activation=ACTIVATIONS,
        )
        sizes = {
            "vocab_rows": self.vocab_size,
            "kv_heads": self.heads,
            "mlp_width": 4 * self.width,
            "embedding_width": self.width,
        }
        if not self.head_size:
            sizes["head_size"] = divide(self.width, self.heads, even=False)
        for field, usual in sizes.items():
            if not getattr(self, field):
                object.__setattr__(self, field, usual)
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads={self.kv_heads} does not divide heads={self.heads}.")
        if self.vocab_rows < self.vocab_size:
            raise ValueError(f"vocab_rows={self.vocab_rows} is less than vocab_size={self.vocab_size}.")
        if self.positions == "learned" and not self.max_positions:
            raise ValueError("positions='learned' needs max_positions, the length of their table.")
        if not self.layers or not self.pattern or not all(0 <= kind < len(self.layers) for kind in self.pattern):
            raise ValueError(
                f"pattern={self.pattern} must name layers by index, of which there are {len(self.layers)}."
            )
        for rope in [kind.rope for kind in self.layers if kind.rope] if self.positions == "rope" else []:
            _check_rope(rope, self.head_size)
        turned = {(kind.rope.fraction, kind.rope.interleaved) for kind in self.layers if kind.rope}
        if self.positions == "rope" and len(turned) > 1:
            raise ValueError(f"layers differ in rope's (fraction, interleaved), {sorted(turned)}; make them the same.")

    def kinds(self) -> tuple[int, ...]:
        """The kind of every layer, bottom to top."""
        return tuple(self.pattern[i % len(self.pattern)] for i in range(self.depth))


def _check_rope(rope: RopeConfig, head_size: int) -> None:
    """Raises ValueError when heads have no dimensions for the angles."""
    size = rope.rotated(head_size)
    pairs = (size + 1) // 2
    if not 2 <= 2 * pairs <= head_size or (rope.scaling == "yarn" and size % 2):
        raise ValueError(
            f"head_size={head_size} times rope.fraction={rope.fraction} must leave at least one pair of dimensions to "
            "rotate and fit into the head (an even number of them with scaling='yarn')."
        )
    if rope.scaling == "longrope" and {len(rope.short), len(rope.long)} != {pairs}:
        raise ValueError(
            f"rope.short and rope.long must have a divisor for each of {pairs} pairs, but have {len(rope.short)} and "
            f"{len(rope.long)}."
        )
