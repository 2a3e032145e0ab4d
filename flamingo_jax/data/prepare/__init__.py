"""Raw files -> a dataset on disk, the same whatever prepares it, and however often that is interrupted."""

from flamingo_jax.data.prepare.run import prepare
from flamingo_jax.data.prepare.state import is_prepared

__all__ = ["is_prepared", "prepare"]
