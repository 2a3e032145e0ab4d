"""The normaliser-free ResNet, the paper's vision encoder (Brock et al. 2021, arXiv 2102.06171)."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.config import VisionConfig
from flamingo_jax.models.axes import constrain, named

# Activations scaled so that a unit normal input leaves with variance one (Brock et al. 2021, table of gammas).
ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x) * 1.7015043497085571,
    "relu": lambda x: nn.relu(x) * 1.7139588594436646,
}


class StandardConv(nn.Module):
    """Convolution NHWC whose weights are standardised over fan-in, then scaled by a learnt gain per output channel."""

    channels: int
    window: int
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
        weight = (weight - mean) * jax.lax.rsqrt(jnp.maximum(variance * fan_in, 1e-4)) * gain
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            weight.astype(self.dtype),
            (self.stride, self.stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return x + bias.astype(self.dtype)


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

    beta: 1 / expected standard deviation of the input, so that the branch sees unit variance.
    """

    channels: int
    stride: int
    beta: float
    config: VisionConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        middle = self.channels // 2
        groups = max(1, middle // self.config.group_size)
        activate = ACTIVATIONS[self.config.activation]
        y = activate(x) * self.beta
        shortcut = x
        if self.stride > 1 or x.shape[-1] != self.channels:
            pooled = nn.avg_pool(y, (2, 2), (2, 2), "SAME") if self.stride > 1 else y
            shortcut = StandardConv(self.channels, 1, self.dtype, name="shortcut")(pooled)
        y = StandardConv(middle, 1, self.dtype, name="reduce")(y)
        y = StandardConv(middle, 3, self.dtype, self.stride, groups, name="conv_a")(activate(y))
        y = StandardConv(middle, 3, self.dtype, 1, groups, name="conv_b")(activate(y))
        y = StandardConv(self.channels, 1, self.dtype, name="expand")(activate(y))
        y = y * SqueezeExcite(self.dtype, name="gate")(y) * 2
        gain = self.param("skip_gain", named(nn.initializers.zeros), (), jnp.float32)
        return shortcut + y * (gain * self.config.alpha).astype(self.dtype)


class NFNet(nn.Module):
    """Images uint8 or 0..255 float [B, S, S, 3] -> features [B, h, w, C], the last stage's grid.

    C is ``config.expansion`` (the final 1x1 convolution) or, when that is 0, the last stage's width.
    """

    config: VisionConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        config, activate = self.config, ACTIVATIONS[self.config.activation]
        images = constrain(images, "images", None, None, None)
        mean, std = (jnp.asarray(value, jnp.float32) * 255 for value in (config.mean, config.std))
        x = ((images.astype(jnp.float32) - mean) / std).astype(self.dtype)
        # The stem: 3x3 convolutions, the first and the last with stride 2, activations between them.
        for i, channels in enumerate(config.stem):
            stride = 2 if i in (0, len(config.stem) - 1) else 1
            x = StandardConv(channels, 3, self.dtype, stride, name=f"stem_{i}")(x)
            x = activate(x) if i + 1 < len(config.stem) else x
        expected_std = 1.0
        for stage, (width, depth, stride) in enumerate(zip(config.widths, config.depths, config.strides, strict=True)):
            for i in range(depth):
                block = NFBlock(
                    width, stride if i == 0 else 1, 1 / expected_std, config, self.dtype, name=f"stage_{stage}_{i}"
                )
                x = block(x)
                # A transition block's shortcut starts from the normalised branch, so variance restarts there.
                expected_std = math.sqrt((1.0 if i == 0 else expected_std**2) + config.alpha**2)
        if config.expansion:
            x = StandardConv(config.expansion, 1, self.dtype, name="expansion")(x)
        return activate(x)
