"""Attention of one token a row to what its slot holds, of its own tokens or of a window.

Keys and values are read once, as they are stored, 16-bit or 8-bit with a scale for each head of
each position; sums are float32. A row reads no further than its own token, whatever length the
step's other rows have, so that no mask is made and shapes do not depend on lengths.

Shapes: n rows, S slots, H heads, P positions, F frames, D width of a head.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import Argument, Launch, power_of_two
from engine.kernels.triton.tiling import NONE_CHOSEN, Tiling, Tilings
from engine.kernels.triton.weights import ENOUGH_PROGRAMS

_BLOCK = 64
_PIPELINED = 80
"""The capability from which copies to shared memory run ahead (Ampere)."""
_MAX_SPLITS = 8
_SMALLEST = tl.constexpr(1e-30)
_ROUND = tl.constexpr(12582912.0)
"""1.5 * 2^23: added to a float32 of less than 2^22 and taken off, it rounds half to even."""


@triton.jit
def _quantized(x):
    """As `engine.kernels.quantize.quantize_rows`: whole numbers, as floats, and their scale."""
    greatest = tl.maximum(tl.max(tl.abs(x), 0), _SMALLEST)
    return (x * (127.0 / greatest) + _ROUND) - _ROUND, greatest / 127.0


@triton.jit
def _attend_block(
    query, keys, values, key_scales, value_scales, base, at, end, top, total, found,
    HEAD_DIM: tl.constexpr, HAS_SCALES: tl.constexpr,
):  # fmt: skip
    """A block of keys and values, added to the running softmax.

    Args:
        base: where the slot's head begins, in positions.
        top, total, found: the greatest score so far, the sum of weights relative to it, and the sum
            of values with these weights.
    """
    inside = at < end
    places = (base + at)[:, None] * HEAD_DIM + tl.arange(0, HEAD_DIM)[None, :]
    key = tl.load(keys + places, mask=inside[:, None], other=0.0).to(tl.float32)
    value = tl.load(values + places, mask=inside[:, None], other=0.0).to(tl.float32)
    scores = tl.sum(key * query[None, :], 1)
    if HAS_SCALES:
        scores *= tl.load(key_scales + base + at, mask=inside, other=0.0)
    scores = tl.where(inside, scores, float("-inf"))
    higher = tl.maximum(top, tl.max(scores, 0))
    weights = tl.exp(scores - higher)
    shrink = tl.exp(top - higher)
    total = total * shrink + tl.sum(weights, 0)
    if HAS_SCALES:
        weights *= tl.load(value_scales + base + at, mask=inside, other=0.0)
    found = found * shrink + tl.sum(weights[:, None] * value, 0)
    return higher, total, found


@triton.jit
def self_attention_kernel(
    qkv, positions, keys, values, key_scales, value_scales, out, n_heads, n_positions, scale,
    HAS_SCALES: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program stores a head's new key and value of a row, and attends to all up to it."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dims = tl.arange(0, HEAD_DIM)
    own = qkv + row * 3 * n_heads * HEAD_DIM + head * HEAD_DIM + dims
    query = tl.load(own).to(tl.float32) * scale
    key = tl.load(own + n_heads * HEAD_DIM).to(tl.float32)
    value = tl.load(own + 2 * n_heads * HEAD_DIM).to(tl.float32)
    position = tl.load(positions + row)
    base = (row * n_heads + head) * n_positions
    here = (base + position) * HEAD_DIM + dims
    if HAS_SCALES:
        key, key_scale = _quantized(key)
        value, value_scale = _quantized(value)
        tl.store(key_scales + base + position, key_scale)
        tl.store(value_scales + base + position, value_scale)
        tl.store(keys + here, key.to(keys.dtype.element_ty))
        tl.store(values + here, value.to(values.dtype.element_ty))
        key, value = key * key_scale, value * value_scale
    else:
        tl.store(keys + here, key.to(keys.dtype.element_ty))
        tl.store(values + here, value.to(values.dtype.element_ty))
    # What was just stored need not be read back.
    top, total, found = tl.sum(query * key, 0), 1.0, value
    for start in tl.range(0, position, BLOCK, num_stages=STAGES):
        top, total, found = _attend_block(
            query, keys, values, key_scales, value_scales, base, start + tl.arange(0, BLOCK),
            position, top, total, found, HEAD_DIM, HAS_SCALES,
        )  # fmt: skip
    place = (row * n_heads + head) * HEAD_DIM + dims
    tl.store(out + place, (found / total).to(out.dtype.element_ty))


@triton.jit
def cross_attention_kernel(
    queries, windows, lengths, keys, values, key_scales, value_scales, out, parts, first, n_heads,
    n_frames, scale,
    HAS_WINDOWS: tl.constexpr, HAS_LENGTHS: tl.constexpr, HAS_SCALES: tl.constexpr,
    SPLITS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program attends with a head of a row to all frames of its window, or to a part of them."""
    head, row, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    dims = tl.arange(0, HEAD_DIM)
    window = row + first
    if HAS_WINDOWS:
        window = tl.load(windows + row)
    place = row * n_heads + head
    query = tl.load(queries + place * HEAD_DIM + dims).to(tl.float32) * scale
    base = (window * n_heads + head) * n_frames
    reach = n_frames
    if HAS_LENGTHS:
        reach = tl.load(lengths + window)
    split_frames = tl.cdiv(reach, SPLITS)
    begin = split * split_frames
    end = tl.minimum(begin + split_frames, reach)
    top, total, found = float("-inf"), 0.0, tl.zeros((HEAD_DIM,), tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        top, total, found = _attend_block(
            query, keys, values, key_scales, value_scales, base, start + tl.arange(0, BLOCK),
            end, top, total, found, HEAD_DIM, HAS_SCALES,
        )  # fmt: skip
    if SPLITS == 1:
        tl.store(out + place * HEAD_DIM + dims, (found / total).to(out.dtype.element_ty))
    else:
        part = parts + (place * SPLITS + split) * (HEAD_DIM + 2)
        tl.store(part + dims, found)
        tl.store(part + HEAD_DIM, top)
        tl.store(part + HEAD_DIM + 1, total)


@triton.jit
def combine_kernel(
    parts, out, n_queries, width, out_row, out_query, SPLITS: tl.constexpr, BLOCK: tl.constexpr
):
    """A program adds up the parts of a query: `width` sums, the greatest score and the weight of
    each."""
    query, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place = row * n_queries + query
    at, splits = tl.arange(0, BLOCK), tl.arange(0, SPLITS)
    rows = parts + (place * SPLITS + splits) * (width + 2)
    tops = tl.load(rows + width)
    shrink = tl.exp(tops - tl.max(tops, 0))
    total = tl.sum(tl.load(rows + width + 1) * shrink, 0)
    inside = at < width
    found = tl.load(rows[:, None] + at[None, :], mask=inside[None, :], other=0.0)
    whole = tl.sum(found * shrink[:, None], 0) / total
    here = out + row * out_row + query * out_query + at
    tl.store(here, whole.to(out.dtype.element_ty), mask=inside)


class Attention(NamedTuple):
    """The launches that one tiling is chosen for.

    Attributes:
        positions: of a slot, not what a row reads of it.
        dtype, stored: of the queries, and of keys and values.
        splits: 0 for attention to tokens.
    """

    positions: int
    head_dim: int
    dtype: torch.dtype
    stored: torch.dtype
    splits: int


def tilings(target: int) -> tuple[Tiling, ...]:
    """What may be chosen for a capability such as 90; the first unless something else is known."""
    most = 4 if target >= _PIPELINED else 1
    return tuple(Tiling(_BLOCK, stages) for stages in range(1, most + 1))


def _stages(chosen: Tilings, queries: torch.Tensor, keys: torch.Tensor, splits: int) -> int:
    of = Attention(keys.shape[2], keys.shape[3], queries.dtype, keys.dtype, splits)
    tiling = chosen.get(of)
    return tiling.stages if tiling else 1


def self_attention_launch(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
    out: torch.Tensor,
    chosen: Tilings = NONE_CHOSEN,
) -> Launch:
    """(n, 3*H*D) -> (n, H*D). Stores each row's key and value in the row's slot at its position.

    Args:
        positions: (n,) int64.
        keys, values: (S, H, P, D), contiguous.
        scales: of 8-bit keys and values, (S, H, P) float32 each.
        out: (n, H*D).
        chosen: by `Attention`; the first of `tilings` where there is none.
    """
    _, heads, n_positions, head_dim = keys.shape
    arguments: dict[str, Argument] = {
        "qkv": qkv,
        "positions": positions,
        "keys": keys,
        "values": values,
        "key_scales": positions if scales is None else scales[0],
        "value_scales": positions if scales is None else scales[1],
        "out": out,
        "n_heads": heads,
        "n_positions": n_positions,
        "scale": head_dim**-0.5,
    }
    constants = {
        "HAS_SCALES": scales is not None,
        "HEAD_DIM": head_dim,
        "BLOCK": _BLOCK,
        "STAGES": _stages(chosen, qkv, keys, 0),
    }
    grid = (len(qkv), heads)
    return Launch(self_attention_kernel, grid, arguments, constants, num_warps=4)


def cross_splits(n_queries: int) -> int:
    """Parts of a window that programs of their own attend to: a few queries would leave most of a
    GPU idle. A power of two."""
    splits = 1
    while splits < _MAX_SPLITS and n_queries * splits < ENOUGH_PROGRAMS:
        splits *= 2
    return splits


def cross_parts(queries: torch.Tensor, n_heads: int, splits: int) -> torch.Tensor:
    """Room for what the programs of `cross_attention_launch` found; empty if there is one a
    query."""
    n, columns = queries.shape
    shape = (n, n_heads, splits, columns // n_heads + 2)
    return torch.empty(shape if splits > 1 else 0, dtype=torch.float32, device=queries.device)


def cross_attention_launch(
    queries: torch.Tensor,
    windows: torch.Tensor | int,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
    parts: torch.Tensor,
    splits: int,
    out: torch.Tensor,
    lengths: torch.Tensor | None = None,
    chosen: Tilings = NONE_CHOSEN,
) -> Launch:
    """(n, H*D) -> (n, H*D), or the parts that `combine_launch` adds up.

    Args:
        windows: (n,) int64, each row's slot; or the first of n slots in order.
        keys, values: (S, H, F, D), contiguous.
        scales: of 8-bit keys and values, (S, H, F) float32 each.
        lengths: (S,) int64, frames of each slot that are read, at least one; None: all.
        chosen: by `Attention`; the first of `tilings` where there is none.
    """
    _, heads, n_frames, head_dim = keys.shape
    in_order = isinstance(windows, int)
    arguments: dict[str, Argument] = {
        "queries": queries,
        "windows": queries if in_order else windows,
        "lengths": queries if lengths is None else lengths,
        "keys": keys,
        "values": values,
        "key_scales": queries if scales is None else scales[0],
        "value_scales": queries if scales is None else scales[1],
        "out": out,
        "parts": parts,
        "first": windows if in_order else 0,
        "n_heads": heads,
        "n_frames": n_frames,
        "scale": head_dim**-0.5,
    }
    constants = {
        "HAS_WINDOWS": not in_order,
        "HAS_LENGTHS": lengths is not None,
        "HAS_SCALES": scales is not None,
        "SPLITS": splits,
        "HEAD_DIM": head_dim,
        "BLOCK": _BLOCK,
        "STAGES": _stages(chosen, queries, keys, splits),
    }
    grid = (heads, len(queries), splits)
    return Launch(cross_attention_kernel, grid, arguments, constants, num_warps=4)


def combine_launch(parts: torch.Tensor, out: torch.Tensor) -> Launch:
    """(n, queries, splits, width + 2) -> (n, queries, width), or (n, queries * width)."""
    n, n_queries, splits, columns = parts.shape
    width = columns - 2
    arguments: dict[str, Argument] = {
        "parts": parts,
        "out": out,
        "n_queries": n_queries,
        "width": width,
        "out_row": out.stride(0),
        "out_query": out.stride(1) if out.dim() == 3 else width,
    }
    constants = {"SPLITS": splits, "BLOCK": power_of_two(width)}
    return Launch(combine_kernel, (n_queries, n), arguments, constants, num_warps=4)
