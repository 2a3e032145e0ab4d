"""The normaliser-free ResNet, the paper's vision encoder (Brock et al. 2021, arXiv 2102.06171)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flamingo_jax.config import NFNetConfig
from flamingo_jax.models.axes import constrain, gather, named
from flamingo_jax.models.pixels import normalise

# Activations scaled so that a unit normal input leaves with variance one (Brock et al. 2021, table of gammas).
ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False) * 1.7015043497085571,
    "gelu_tanh": lambda x: nn.gelu(x) * 1.7015043497085571,
    "relu": lambda x: nn.relu(x) * 1.7139588594436646,
}


class StandardConv(nn.Module):
    """Convolution NHWC whose weights are standardised over fan-in, then scaled by a learnt gain per output channel."""

    channels: int
    window: int
    config: NFNetConfig
    dtype: jnp.dtype
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        fan_in = self.window**2 * x.shape[-1] // self.groups
        shape = (self.window, self.window, x.shape[-1] // self.groups, self.channels)
        axes = (None, None, "channels_in", "channels_out")
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        weight = self.param("kernel", named(init, *axes), shape, jnp.float32)
        gain = self.param("gain", named(nn.initializers.ones, "vector"), (self.channels,), jnp.float32)
        bias = self.param("bias", named(nn.initializers.zeros, "vector"), (self.channels,), jnp.float32)
        weight = weight.astype(jnp.float32)  # frozen weights may be bfloat16, in which variances lose their digits
        mean = weight.mean((0, 1, 2), keepdims=True)
        variance = weight.var((0, 1, 2), keepdims=True)
        floor, epsilon = self.config.variance_floor, self.config.variance_epsilon
        weight = (weight - mean) * jax.lax.rsqrt(jnp.maximum(variance * fan_in, floor) + epsilon * fan_in) * gain
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            gather(weight.astype(self.dtype), axes, "images"),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return constrain(x + bias.astype(self.dtype), "images", None, None, None)


class SqueezeExcite(nn.Module):
    """Channel gates [B, 1, 1, C] in (0, 1) from the spatial mean of x [B, H, W, C], through C / 2 hidden units."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        x = x.mean((1, 2))
        for name, width in (("squeeze", channels // 2), ("excite", channels)):
            init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            kernel = named(init, "channels_in", "channels_out")
            dense = nn.Dense(width, dtype=self.dtype, kernel_init=kernel,
                             bias_init=named(nn.initializers.zeros, "vector"), name=name)  # fmt: skip
            x = nn.relu(dense(x)) if name == "squeeze" else nn.sigmoid(dense(x))
        return x[:, None, None]


class NFBlock(nn.Module):
    """One pre-activation bottleneck: 1x1, two grouped 3x3, 1x1, squeeze-excite, and a gain that starts at zero.

    beta: 1 / expected standard deviation of the input, so that the branch sees unit variance. drop: share of examples
    whose branch is left out, when there is a ``stochastic_depth`` random stream. Returns (x, None), as a scan wants it.
    """

    channels: int
    stride: int
    config: NFNetConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, beta: jax.Array, drop: jax.Array):
        middle = self.channels // 2
        groups = max(1, middle // self.config.group_size)
        activate = ACTIVATIONS[self.config.activation]

        def conv(name, channels, window, stride=1, groups=1):
            return StandardConv(channels, window, self.config, self.dtype, stride, groups, name=name)

        y = activate(x) * jnp.asarray(beta, self.dtype)
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            pooled = nn.avg_pool(y, (2, 2), (2, 2), "SAME", count_include_pad=False) if self.stride > 1 else y
            shortcut = conv("shortcut", self.channels, 1)(pooled)
        y = conv("reduce", middle, 1)(y)
        y = conv("conv_a", middle, 3, self.stride, groups)(activate(y))
        y = conv("conv_b", middle, 3, 1, groups)(activate(y))
        y = conv("expand", self.channels, 1)(activate(y))
        y = y * SqueezeExcite(self.dtype, name="gate")(y) * 2
        if self.config.stochastic_depth and self.has_rng("stochastic_depth"):
            key = self.make_rng("stochastic_depth")
            y = y * jax.random.bernoulli(key, 1 - drop, (x.shape[0], 1, 1, 1)).astype(self.dtype)
        gain = self.param("skip_gain", named(nn.initializers.zeros), (), jnp.float32)
        return shortcut + y * (gain * self.config.alpha).astype(self.dtype), None


def betas(config: NFNetConfig) -> list[np.ndarray]:
    """1 / expected standard deviation of every block's input, per stage.

    Every branch adds alpha^2 of variance. A stage's first block hands on its normalised input by a convolution, so
    that variance restarts at 1 there.
    """
    variance, out = 1.0, []
    for depth in config.depths:
        inner = 1.0 + config.alpha**2 * np.arange(1, depth + 1)
        out.append(np.concatenate([[variance], inner[:-1]]) ** -0.5)
        variance = inner[-1]
    return out


class NFNet(nn.Module):
    """Images [B, S, S, 3], uint8 or already normalised floats -> features [B, h, w, C], the last stage's grid.

    C is ``config.expansion`` (the final 1x1 convolution) or, when that is 0, the last stage's width.
    """

    config: NFNetConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        config, activate = self.config, ACTIVATIONS[self.config.activation]
        x = normalise(images, config.mean, config.std).astype(self.dtype)
        # The stem: 3x3 convolutions, the first and the last with stride 2, activations between them.
        for i, channels in enumerate(config.stem):
            stride = 2 if i in (0, len(config.stem) - 1) else 1
            x = StandardConv(channels, 3, config, self.dtype, stride, name=f"stem_{i}")(x)
            x = activate(x) if i + 1 < len(config.stem) else x
        drops = np.split(config.stochastic_depth * np.arange(sum(config.depths)) / sum(config.depths),
                         np.cumsum(config.depths)[:-1])  # fmt: skip
        stages = zip(config.widths, config.strides, betas(config), drops, strict=True)
        for stage, (width, stride, beta, drop) in enumerate(stages):
            x, _ = NFBlock(width, stride, config, self.dtype, name=f"stage_{stage}_first")(x, beta[0], drop[0])
            if len(beta) == 2:  # a single block needs no loop, in which a CPU convolves several times slower
                x, _ = NFBlock(width, 1, config, self.dtype, name=f"stage_{stage}_rest")(x, beta[1], drop[1])
            elif len(beta) > 2:
                scan = nn.scan(
                    NFBlock,
                    variable_axes={"params": 0},
                    split_rngs={"params": True, "stochastic_depth": True},
                    length=len(beta) - 1,
                    metadata_params={nn.PARTITION_NAME: "layers"},
                )
                rest = scan(width, 1, config, self.dtype, name=f"stage_{stage}_rest")
                x, _ = rest(x, *(jnp.asarray(values[1:], jnp.float32) for values in (beta, drop)))
        if config.expansion:
            x = StandardConv(config.expansion, 1, config, self.dtype, name="expansion")(x)
        return activate(x)
