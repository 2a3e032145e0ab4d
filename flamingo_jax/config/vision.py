"""Options of the vision encoders: a normaliser-free ResNet or a vision transformer."""

from __future__ import annotations

import dataclasses

from flamingo_jax.config.check import ACTIVATIONS, choose, divide


@dataclasses.dataclass(frozen=True)
class NFNetConfig:
    """A normaliser-free ResNet (Brock et al. 2021). One entry per stage; ``expansion`` is the final 1x1 convolution.

    activation: gelu | gelu_tanh | relu. Weights are divided by sqrt(max(fan_in * variance, variance_floor) + fan_in *
    variance_epsilon): the paper has the floor, timm the epsilon. stochastic_depth: share of branches dropped in the
    last block, falling linearly to 0 in the first; only while the encoder trains.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...]
    stem: tuple[int, ...]
    group_size: int = 128
    expansion: int = 0
    alpha: float = 0.2
    activation: str = "gelu_tanh"
    variance_floor: float = 1e-4
    variance_epsilon: float = 0.0
    stochastic_depth: float = 0.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    kind: str = "nfnet"

    def __post_init__(self):
        choose(self, kind=("nfnet",), activation=("gelu", "gelu_tanh", "relu"))
        if not len(self.widths) == len(self.depths) == len(self.strides) > 0:
            raise ValueError(
                f"widths {self.widths}, depths {self.depths} and strides {self.strides} must have an entry per stage."
            )
        for width in self.widths:
            middle = width // 2
            if middle > self.group_size and middle % self.group_size:
                raise ValueError(f"half of width {width} does not divide into groups of group_size={self.group_size}.")

    @property
    def feature_width(self) -> int:
        """Channels C of the features."""
        return self.expansion or self.widths[-1]


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A vision transformer: CLIP, OpenCLIP, SigLIP (2), DINOv2, DINOv3.

    grid: rows and columns of the position table. registers: further tokens after the class token, without positions.
    positions: learned (position_class: the class token has one too) | rope (2-D, DINOv3). resize: how a table is
    interpolated to another grid, bicubic | bicubic_shifted (IDEFICS) | bicubic_antialias | bilinear_antialias.
    pre_norm: LayerNorm of the embeddings. final_norm: tokens leave normalised. pool: class | map (a head of attention
    over the tokens) | none; pool_norm: the pooled class token is normalised (CLIP); projection: width of the pooled
    vector's projection, 0 none. patches_only: class token and registers are dropped (OpenFlamingo).
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    grid: tuple[int, int]
    mlp_width: int = 0
    mlp: str = "plain"
    mlp_bias: bool = True
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    class_token: bool = False
    registers: int = 0
    patch_bias: bool = True
    positions: str = "learned"
    position_class: bool = False
    rope_theta: float = 100.0
    resize: str = "bicubic"
    pre_norm: bool = False
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    out_bias: bool = True
    layer_scale: bool = False
    final_norm: bool = True
    pool: str = "none"
    pool_norm: bool = False
    projection: int = 0
    patches_only: bool = False
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    kind: str = "vit"

    def __post_init__(self):
        choose(
            self,
            kind=("vit",),
            mlp=("plain", "gated"),
            activation=ACTIVATIONS,
            positions=("learned", "rope"),
            resize=("bicubic", "bicubic_shifted", "bicubic_antialias", "bilinear_antialias"),
            pool=("class", "map", "none"),
        )
        size = divide(self.width, self.heads, even=False)
        if self.positions == "rope" and size % 4:
            raise ValueError(f"positions='rope' rotates rows and columns, so width / heads = {size} must divide by 4.")
        if not self.class_token and (self.pool == "class" or self.position_class):
            raise ValueError("pool='class' and position_class=True need class_token=True.")
        if not self.mlp_width:
            object.__setattr__(self, "mlp_width", 4 * self.width)

    @property
    def feature_width(self) -> int:
        """Width of the tokens."""
        return self.width
