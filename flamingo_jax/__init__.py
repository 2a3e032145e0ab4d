"""Flamingo (arXiv 2204.14198) in JAX/Flax: few-shot visual language models, trained on TPU pods."""


def load(source, dtype=None):
    """The model of a folder; see ``flamingo_jax.api.load``, which is imported on the first call."""
    # Worker processes import this package and need neither JAX nor the seconds it takes.
    from flamingo_jax import api

    return api.load(source, dtype)
