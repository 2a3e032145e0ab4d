"""Causal self-attention by kernels that devices have for it, whose scores never reach memory: splash attention on TPUs,
cuDNN's on GPUs. What they have none for stays with ``attention.attend``.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec

from flamingo_jax.models.axes import split_of

NAME = "attention"
"""What rematerialisation knows a kernel's result by."""

_LANES = 128  # splash attention's blocks are multiples of it
_BLOCK = 512


class Documents(NamedTuple):
    """Which of a row's documents a token asks as a query, and answers as a key: int32 [B, L], 0 for keys that are
    padding. A query sees keys of its own document up to itself."""

    queries: jax.Array
    keys: jax.Array


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    documents: Documents,
    *,
    scale: float,
    window: int = 0,
    softcap: float = 0.0,
) -> jax.Array | None:
    """What ``attention.attend`` returns, or None where the devices that are traced for have no kernel for it.

    q [B, H, L, K], k and v [B, G, L, K] are of the same L tokens. window: of the last w keys, 0 for all. Padding before
    the first key sees nothing and gives zeros; padding that a window leaves without keys gives anything.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kernel = None if mesh.empty else _KERNELS.get(mesh.abstract_device.platform)
    x = kernel and kernel(q, k, v, documents, scale=scale, window=window, softcap=softcap)
    if x is None:
        return None
    sees = jax.lax.cummax(documents.keys, axis=1) > 0
    return checkpoint_name(jnp.where(sees[:, None, :, None], x, 0), NAME)


def by_splash(q, k, v, documents, *, scale, window, softcap, interpret: bool = False) -> jax.Array | None:
    """Splash attention (of JAX): rows of a multiple of 128 tokens."""
    if q.shape[2] % _LANES:
        return None
    rows, heads = split_of("batch"), split_of("act_heads")
    by_head, by_row = PartitionSpec(rows, heads), PartitionSpec(rows)
    run = functools.partial(_splash, window=window, softcap=softcap, interpret=interpret)
    if not jax.sharding.get_abstract_mesh().empty:
        run = jax.shard_map(
            run, in_specs=(by_head, by_head, by_head, by_row, by_row), out_specs=by_head, check_vma=False
        )
    return run(q * scale, k, v, *documents)


def _splash(q, k, v, queries, keys, *, window: int, softcap: float, interpret: bool) -> jax.Array:
    """On one device, of the heads and rows that it has."""
    heads, length = q.shape[1:3]
    block = next(size for size in (_BLOCK, _BLOCK // 2, _LANES) if length % size == 0)
    names = ("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq")
    shape = (length, length)
    mask = masks.LocalMask(shape, (window - 1, 0), 0) if window else masks.CausalMask(shape)
    kernel = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, block)),
        attn_logits_soft_cap=softcap or None,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=NAME,
        interpret=interpret,
    )
    return jax.vmap(lambda *row: kernel(*row[:3], segment_ids=splash.SegmentIds(*row[3:])))(q, k, v, queries, keys)


def by_cudnn(q, k, v, documents, *, scale, window, softcap, implementation: str = "cudnn") -> jax.Array | None:
    """cuDNN's flash attention: numbers of 16 bits, no softcap, and what else JAX finds out of the GPU and cuDNN."""
    if softcap or (q.dtype.itemsize > 2 and implementation == "cudnn"):
        return None
    own = documents.queries[:, None, :, None] == documents.keys[:, None, None, :]
    try:
        x = jax.nn.dot_product_attention(
            *(x.swapaxes(1, 2) for x in (q, k, v)),
            mask=own,
            scale=scale,
            is_causal=True,
            local_window_size=(window - 1, 0) if window else None,
            implementation=implementation,
        )
    except RuntimeError as error:  # no cuDNN, or NotImplementedError of an old GPU and of sizes that it has not
        logging.log_first_n(logging.WARNING, "Self-attention is written out, for cuDNN does not take it: %s", 1, error)
        return None
    return x.swapaxes(1, 2)


_KERNELS = {"tpu": by_splash, "gpu": by_cudnn}
