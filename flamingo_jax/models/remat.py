"""Rematerialisation: what the backward pass keeps of a layer, and what it computes again."""

from __future__ import annotations

import flax.linen as nn
import jax

# name -> policy of ``jax.checkpoint``; None keeps only the layer's inputs.
POLICIES = {"full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


def rematerialise(module: type[nn.Module], policy: str) -> type[nn.Module]:
    """A version of the module class that keeps what ``policy`` says: none (everything is kept) | full | dots."""
    return module if policy == "none" else nn.remat(module, prevent_cse=False, policy=POLICIES[policy])
