"""Eight fake CPU devices for every test, so that meshes are real ones; and the tiny model that the tests share."""

import os
import tempfile

if "PYTEST_XDIST_WORKER" not in os.environ:  # what one test has compiled, no other test, worker or process need compile
    _programs = tempfile.TemporaryDirectory(prefix="programs-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_disable_most_optimizations", True)  # tests spend their time in the compiler

import flax.linen as nn  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from flamingo_jax.config import (  # noqa: E402
    GatedConfig,
    LanguageConfig,
    ModelConfig,
    NFNetConfig,
    ResamplerConfig,
    TextTowerConfig,
)
from flamingo_jax.models.flamingo import Flamingo  # noqa: E402

EOC = 3


@pytest.fixture
def optimised():
    """Compiles as a user's program is compiled."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def model_config() -> ModelConfig:
    """Three blocks and a gated layer before every second: a scan, and a remainder."""
    return ModelConfig(
        language=LanguageConfig(vocab_size=64, width=32, depth=3, heads=2, smear=True),
        vision=NFNetConfig(widths=(16, 32), depths=(1, 1), strides=(1, 2), stem=(8, 16)),
        resampler=ResamplerConfig(width=32, depth=2, heads=2, head_size=16, latents=4, frames=2),
        gated=GatedConfig(every=2, heads=2, head_size=16),
        text_tower=TextTowerConfig(width=32, depth=1, heads=2, embedding=16),
        dtype="float32",
        remat="none",
    )


@pytest.fixture(scope="session")
def example():
    """Two sequences of twelve tokens over three media: {tokens, media, media_index}."""
    rng = np.random.default_rng(0)
    index = np.array([[0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3], [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]], np.int32)
    return {
        "tokens": jnp.asarray(rng.integers(4, 64, (2, 12)), jnp.int32).at[:, 5].set(EOC),
        "media": jnp.asarray(rng.integers(0, 256, (2, 3, 1, 16, 16, 3)), jnp.uint8),
        "media_index": jnp.asarray(index),
    }


@pytest.fixture(scope="session")
def flamingo(model_config, example):
    """(model, {"params", "frozen"}) with random weights; the gates are open, or nothing could be seen of the bridge."""
    model = Flamingo(model_config, (EOC,))
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, *example.values())))
    variables = {key: value for key, value in init(jax.random.key(0)).items() if key != "cache"}
    return model, {**variables, "params": with_gates(variables["params"], 0.7)}


def with_gates(params: dict, value: float) -> dict:
    """``params`` with every gate set to ``value``."""

    def choose(path, leaf):
        return jnp.full_like(leaf, value) if path[-1].key.endswith("_gate") else leaf

    return jax.tree_util.tree_map_with_path(choose, params)
