"""Attention, by the fastest way of each device and number format.

Shapes: B batch, H heads, T queries, L keys, D width of a head.
"""

import torch
from torch.nn import functional as F

_BLOCK_ROWS = 500
"""Queries whose scores (1500 each, 1.5 MB in bfloat16) are computed at once: they stay in a core's
cache between the three passes over them."""


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """(B, H, T, D) x (B, H, L, D) -> (B, H, T, D) for few queries.

    On a CPU two batched products: a fused one-query kernel is slower there, and its result depends
    on the batch; these give each row the same bits at any batch.

    Args:
        mask: broadcastable to (B, H, T, L), True where a query must not look.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, None if mask is None else ~mask)
    shape = q.shape
    # Flat views where torch's product of four dimensions would copy a slice of the cache.
    q, k, v = ((x.flatten(0, 1)) for x in (q * shape[-1] ** -0.5, k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    if mask is not None:
        scores = scores.view(*shape[:-1], -1).masked_fill_(mask, float("-inf")).view_as(scores)
    # Of 16-bit scores too the sums are in float32.
    return torch.bmm(torch.softmax(scores, dim=-1), v).view(shape)


def attend_window(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """(B, H, T, D) x (B, H, L, D) -> (B, H, T, D) for as many queries as keys, without a mask.

    On a CPU in bfloat16 two products and a softmax over blocks that fit the cache take 0.6 times as
    long as torch's fused kernel (docs/benchmarks.md).
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
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
