"""Devices' own kernels give what attention written out gives, where they are asked, and are asked where they should be.

Splash attention runs interpreted, and cuDNN's call by XLA: neither device is here.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamingo_jax.config import LanguageConfig, LayerConfig, MeshConfig
from flamingo_jax.models import attention, fused
from flamingo_jax.models.decoder import Decoder
from flamingo_jax.models.positions import causal, documents, windowed
from flamingo_jax.training import sharding

SPLASH = functools.partial(fused.by_splash, interpret=True)
XLA = functools.partial(fused.by_cudnn, implementation="xla")
LENGTH = 384  # three blocks


def arrays(rows=2, heads=2, groups=1, size=8):
    counts = zip(jax.random.split(jax.random.key(0), 3), (heads, groups, groups), strict=True)
    return [jax.random.normal(key, (rows, count, LENGTH, size)) for key, count in counts]


def known(kind, rows=2):
    """Rows of one document with padding before and behind, or of several."""
    if kind == "padded":
        column = jnp.arange(LENGTH)
        return jnp.stack([(column >= 5 + i) & (column < 200) for i in range(rows)])
    edges = np.sort(np.random.default_rng(0).integers(1, 240, (rows, 3)))
    column = np.arange(LENGTH)[None, :, None]
    segments = 1 + (column >= edges[:, None]).sum(-1)
    return jnp.asarray(np.where(column[..., 0] < 240, segments, 0), jnp.int32)


def outputs(run, inputs, seen):
    """Of the queries that see something: the others differ, and count nowhere. With gradients by q, k and v."""

    def loss(*inputs):
        x = run(*inputs)
        x = jnp.where(seen[:, None, :, None], x, 0)
        return (x * jnp.cos(jnp.arange(x.size).reshape(x.shape))).sum(), x

    grads, x = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
    return [x, *grads]


@pytest.mark.parametrize(
    "kernel, kind, options",
    [
        (SPLASH, "padded", {}),
        (SPLASH, "packed", {}),
        (SPLASH, "packed", {"window": 140}),
        (SPLASH, "padded", {"softcap": 2.0}),
        (XLA, "padded", {}),
        (XLA, "packed", {"window": 140}),
    ],
)
def test_a_kernel_gives_what_attention_written_out_gives(kernel, kind, options):
    rows, inputs = known(kind), arrays()
    mask = windowed(causal(rows, 0, LENGTH), (options.get("window", 0),), 0)[0]
    more = {"scale": 0.3, "softcap": options.get("softcap", 0.0)}
    expected = outputs(functools.partial(attention.attend, mask=mask, **more), inputs, mask.any(-1))
    run = functools.partial(kernel, documents=documents(rows), window=options.get("window", 0), **more)
    for found, value in zip(outputs(run, inputs, mask.any(-1)), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=2e-4, atol=2e-5)


def test_without_cudnn_attention_is_written_out():
    rows, inputs = known("packed"), [x.astype(jnp.bfloat16) for x in arrays()]
    assert fused.by_cudnn(*inputs, documents(rows), scale=0.3, window=0, softcap=0.0) is None


def test_heads_and_rows_are_divided_over_a_mesh():
    rows, inputs = known("packed", 4), arrays(4, 4, 2)
    mask = causal(rows, 0, LENGTH)
    expected = outputs(functools.partial(attention.attend, mask=mask, scale=0.3), inputs, mask.any(-1))
    run = functools.partial(SPLASH, documents=documents(rows), scale=0.3, window=0, softcap=0.0)
    with sharding.use(sharding.make_mesh(MeshConfig(2, 2, 2))):
        found = jax.jit(lambda *inputs: outputs(run, inputs, mask.any(-1)))(*inputs)
        text = jax.jit(run).lower(*inputs).compile().as_text()
    for one, value in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, value, rtol=2e-4, atol=2e-5)
    assert "all-gather" not in text


def model(**options):
    kinds = (LayerConfig(),) if "layers" not in options else options.pop("layers")
    return LanguageConfig(vocab_size=64, width=32, depth=2, heads=4, layers=kinds, **options)


@pytest.mark.parametrize(
    "options, remat, asked",
    [
        ({"softcap": 5.0}, "dots", True),
        ({"layers": (LayerConfig(window=50),)}, "none", True),
        pytest.param({"positions": "alibi"}, "none", False, marks=pytest.mark.slow),
        ({"positions": "relative"}, "none", False),
        pytest.param(
            {"layers": (LayerConfig(window=50), LayerConfig()), "pattern": (0, 1)},
            "none",
            False,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_decoder_asks_a_tpu_for_splash_where_it_can(options, remat, asked, monkeypatch):
    """And its losses and gradients are the same. The kernel table has that of CPUs here, which has none."""
    calls = []

    def kernel(*args, **more):
        x = SPLASH(*args, **more)
        calls.append(x is not None)
        return x

    monkeypatch.setitem(fused._KERNELS, "cpu", kernel)
    tokens, rows = jax.random.randint(jax.random.key(1), (2, 128), 4, 64), known("packed")[:, :128]

    def gradient(kernels):
        decoder = Decoder(model(**options), jnp.float32, remat, kernels=kernels)
        with sharding.use(sharding.make_mesh(MeshConfig(), jax.devices()[:1])):
            weights = nn.meta.unbox(decoder.init(jax.random.key(0), tokens, rows))["params"]

            def loss(weights):
                logits = jax.nn.log_softmax(decoder.apply({"params": weights}, tokens, rows))
                return jnp.where(rows > 0, logits[..., 5], 0).mean()

            return jax.jit(jax.value_and_grad(loss))(weights)

    expected = gradient(kernels=False)
    assert not calls
    found = gradient(kernels=True)
    assert any(calls) == asked
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), found, expected)
