"""Raw files -> a dataset on disk, the same whatever prepares it, and however often that is interrupted."""

from flamingo_jax.data.prepare.run import is_prepared, prepare

__all__ = ["is_prepared", "prepare"]
