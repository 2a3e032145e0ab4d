"""The layers that every transformer here is made of: einsum with a weight, norms, feed-forward."""

from __future__ import annotations

import math
import string

import flax.linen as nn
import jax
import jax.numpy as jnp

from flamingo_jax.models.axes import gather, named
from flamingo_jax.models.int8 import is_int8


def multiply(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``jnp.einsum`` of activations and a weight, whose dimensions in common are summed; for one device as one matrix
    product.

    XLA for CPUs first copies what is not summed over a single dimension, the first or the last, and the gradient of the
    weight of "BLD,DF->BLF" is summed over two. Over several devices dimensions stay apart, each split as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        return jnp.einsum(equation, x, kernel)
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    rest = string.ascii_lowercase[: x.ndim - len(left.replace("...", ""))]
    left, output = left.replace("...", rest), output.replace("...", rest)
    summed, kept, rows = (
        "".join(c for c in letters if (c in output) == stays)
        for letters, stays in ((right, False), (right, True), (left, True))
    )
    sizes = dict(zip(left + right, x.shape + kernel.shape, strict=True))
    depth = math.prod(sizes[c] for c in summed)
    x = jnp.einsum(f"{left}->{rows}{summed}", x).reshape(-1, depth)
    product = x @ jnp.einsum(f"{right}->{summed}{kept}", kernel).reshape(depth, -1)
    return jnp.einsum(f"{rows}{kept}->{output}", product.reshape([sizes[c] for c in rows + kept]))


class Einsum(nn.Module):
    """A weight of ``shape`` (logical ``axes``), applied by an einsum equation; float32 stored, ``dtype`` computed.

    ``fan_in`` is the number of inputs summed into one output: weights start as a truncated normal of variance
    1 / fan_in. bias: how many of the weight's last dimensions a bias has, 0 for no bias. rows: what x has many of, the
    logical axis "batch" or "images".
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    fan_in: int
    dtype: jnp.dtype
    bias: int = 0
    rows: str = "batch"

    @nn.compact
    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        init = nn.initializers.truncated_normal(1 / math.sqrt(self.fan_in))
        kernel = self.param("kernel", named(init, *self.axes), self.shape, jnp.float32)
        # What is gathered is as narrow as it can be: 8 bits where they are what is stored.
        narrow = kernel if is_int8(kernel) else kernel.astype(self.dtype)
        kernel = jax.tree.map(lambda w: gather(w, self.axes, self.rows), narrow).astype(self.dtype)
        x = multiply(equation, x.astype(self.dtype), kernel)
        if not self.bias:
            return x
        bias = self.param(
            "bias", named(nn.initializers.zeros, *self.axes[-self.bias :]), self.shape[-self.bias :], jnp.float32
        )
        inputs, output = equation.split("->")
        letters = inputs.split(",")[1][-self.bias :]
        view = [self.shape[letters.index(c) - self.bias] if c in letters else 1 for c in output.replace("...", "")]
        return x + bias.astype(self.dtype).reshape(view)


class Norm(nn.Module):
    """Normalises in float32. centred: LayerNorm, with an offset (``bias``); else RMSNorm; both with a ``scale``.

    unit_offset: the scale is stored less one. Statistics are over the last dimension and have a scale for it. With
    ``heads``, x is [B, H, L, K] and the scale [H, K]; ``whole`` takes statistics over both, else over K.
    """

    dtype: jnp.dtype
    centred: bool = False
    epsilon: float = 1e-5
    bias: bool = True
    unit_offset: bool = False
    heads: int = 0
    whole: bool = False
    scale: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.heads, x.shape[-1]) if self.heads else (x.shape[-1],)
        over = (1, 3) if self.whole else -1

        def vector(name, init):
            value = self.param(name, named(init, *["vector"] * len(shape)), shape, jnp.float32).astype(jnp.float32)
            return value[:, None] if self.heads else value

        x = x.astype(jnp.float32)  # statistics in bfloat16 lose the small differences that the norm is for
        if self.centred:
            x = x - x.mean(over, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(over, keepdims=True) + self.epsilon)
        if self.scale:
            init = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
            scale = vector("scale", init)
            x = x * (1 + scale if self.unit_offset else scale)
        if self.centred and self.bias:
            x = x + vector("offset", nn.initializers.zeros)
        return x.astype(self.dtype)


def squared_relu(x: jax.Array) -> jax.Array:
    """max(x, 0)^2, the activation of all trainable layers (So et al. 2021; paper appendix A)."""
    return jnp.square(nn.relu(x))


ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
    "silu": nn.silu,
    "squared_relu": squared_relu,
}


class FeedForward(nn.Module):
    """[.., D] -> [.., D] through ``hidden`` units: down(act(up x)), or gated: down(act(gate x) * up x)."""

    activation: str
    dtype: jnp.dtype
    hidden: int
    gated: bool = False
    bias: bool = False
    rows: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, activate = x.shape[-1], ACTIVATIONS[self.activation]

        def widen(name):
            shape = (width, self.hidden)
            layer = Einsum(shape, ("embed", "mlp"), width, self.dtype, int(self.bias), self.rows, name=name)
            return layer("...D,DF->...F", x)

        hidden = activate(widen("gate")) * widen("up") if self.gated else activate(widen("up"))
        shape = (self.hidden, width)
        down = Einsum(shape, ("mlp", "embed"), self.hidden, self.dtype, int(self.bias), self.rows, name="down")
        return down("...F,FD->...D", hidden)
