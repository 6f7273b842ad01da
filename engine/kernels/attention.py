"""Attention, in the fastest way for each device and number format.

Shapes: B batch, H heads, T queries, L keys, D width of a head.
"""

import torch
from torch.nn import functional as F

from engine.kernels import native, native_builds
from engine.kernels.onednn import has_onednn_bfloat16

_BLOCK_ROWS = 500
"""Queries whose scores (1500 each, 1.5 MB in bfloat16) are computed at once: they stay in a core's
cache between the three passes over them."""


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """(B, H, T, D) x (B, H, L, D) -> (B, H, T, D) for few queries.

    On a CPU this is two batched products, which give each row the same bits in any batch. A fused
    one-query kernel is slower there, and its result depends on the batch.

    Args:
        mask: broadcastable to (B, H, T, L), True where a query may look, as in torch.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, mask)
    shape = q.shape
    # Flat views, because torch's four-dimensional product would copy a slice of the cache.
    q, k, v = ((x.flatten(0, 1)) for x in (q * shape[-1] ** -0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        scores = scores.view(*shape[:-1], -1).masked_fill_(~mask, float("-inf")).view_as(scores)
    # 16-bit scores are summed in float32, too.
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(shape)


def attend_window(qkv: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(B, T, q, k and v of H heads) -> (B, T, H*D): every row looks at all rows."""
    length = qkv.shape[1]
    is_bfloat16 = qkv.dtype == torch.bfloat16
    known = head_dim == native.HEAD_DIM and length <= native.MAX_LENGTH
    ours = is_bfloat16 or qkv.dtype == torch.float32
    if ours and known and native_builds.serves(qkv.device):
        return native.encoder_attention(qkv)
    q, k, v = (split_heads(part, head_dim) for part in qkv.chunk(3, dim=-1))
    if is_bfloat16 and not qkv.is_cuda and has_onednn_bfloat16():
        return merge_heads(_attend_in_blocks(q, k, v))
    return merge_heads(F.scaled_dot_product_attention(q, k, v))


def split_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(B, T, H*D) -> (B, H, T, D)."""
    return x.view(*x.shape[:-1], -1, head_dim).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """(B, H, T, D) -> (B, T, H*D)."""
    return x.transpose(1, 2).flatten(2)


def _attend_in_blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(B, H, T, D) each -> the same, by two products and a softmax over blocks that fit the cache.
    In bfloat16, if oneDNN multiplies it, this takes 0.6 times as long as torch's fused kernel
    (docs/benchmarks.md)."""
    out = torch.empty(
        q.shape[0], q.shape[2], q.shape[1], q.shape[3], dtype=q.dtype, device=q.device
    ).transpose(1, 2)
    q = q * q.shape[-1] ** -0.5
    for window in range(len(q)):
        for head in range(q.shape[1]):
            keys, values = k[window, head].t(), v[window, head]
            for start in range(0, q.shape[2], _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                weights = torch.softmax(q[window, head, rows] @ keys, dim=-1)
                out[window, head, rows] = weights @ values
    return out
