"""Rematerialisation: what the backward pass keeps of a layer, and what it computes again."""

from __future__ import annotations

import flax.linen as nn
import jax

from flamingo_jax.models.fused import NAME

_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(NAME),  # of kernels, whose scores would cost as much again
)
GROUP = "group"
"""What rematerialisation knows a group's input by."""

_OFFLOADED = jax.checkpoint_policies.save_and_offload_only_these_names(
    names_which_can_be_saved=[], names_which_can_be_offloaded=[GROUP], offload_src="device", offload_dst="pinned_host"
)

# ``ModelConfig.remat`` -> policies of ``jax.checkpoint`` for a block of the language model, for a gated layer, and for
# the group of both. "none" keeps everything, and the policy None nothing but the inputs.
POLICIES = {
    "none": {"block": "none", "gated": "none", "group": "none"},
    "dots": {"block": _PRODUCTS, "gated": _PRODUCTS, "group": "none"},
    "layers": {"block": None, "gated": None, "group": "none"},
    "full": {"block": None, "gated": "none", "group": None},
    "offload": {"block": None, "gated": "none", "group": _OFFLOADED},
}


def rematerialise(module: type[nn.Module], remat: str, what: str = "block") -> type[nn.Module]:
    """A version of the module class that keeps what ``remat`` (of ``ModelConfig``) says of a block, gated or group."""
    policy = POLICIES[remat][what]
    return module if policy == "none" else nn.remat(module, prevent_cse=False, policy=policy)
