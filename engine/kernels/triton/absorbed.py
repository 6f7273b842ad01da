"""Absorbed cross-attention: the queries of all heads of a row attend to the encoder's output, which
is read once for all of them.

A program holds up to 16 heads, as many as a tensor core's product has rows. It reads a block of
frames, all columns of it, multiplies the queries with it, and the weights with the same block while
it is in shared memory. The programs of one row's heads run beside each other, so the second finds
the block in the cache.

Shapes: n rows, S slots, H heads, F frames, C width of the model.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from engine.kernels.triton.launch import PRESENT, Argument, Launch, capability
from engine.kernels.triton.tiling import NONE_CHOSEN, Tiling, Tilings
from engine.kernels.triton.weights import ENOUGH_PROGRAMS

_GROUP = 16
_BLOCK = 16
_LARGE_SHARED = (80, 87, 90, 100, 103)
"""Capabilities with at least 163 kB of shared memory a program; the others have 99 kB."""
_MAX_SPLITS = 8


@triton.jit
def absorbed_kernel(
    queries, windows, lengths, states, out, parts, first, n_heads, group_heads, n_frames,
    query_row, query_head, out_row, out_head,
    HAS_WINDOWS: tl.constexpr, HAS_LENGTHS: tl.constexpr, SPLITS: tl.constexpr,
    N_PARTS: tl.constexpr, PART: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The model's width is N_PARTS * PART, because a block's sides are powers of two.

    Args:
        query_row, query_head, out_row, out_head: strides.
    """
    width: tl.constexpr = N_PARTS * PART
    group, row, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    window = row + first
    if HAS_WINDOWS:
        window = tl.load(windows + row)
    here = tl.arange(0, GROUP)
    heads = group * group_heads + here
    is_head = (here < group_heads) & (heads < n_heads)
    columns = tl.arange(0, PART)
    asked = (row * query_row + heads * query_head)[:, None] + columns[None, :]
    reach = n_frames
    if HAS_LENGTHS:
        reach = tl.load(lengths + window)
    split_frames = tl.cdiv(reach, SPLITS)
    begin = split * split_frames
    end = tl.minimum(begin + split_frames, reach)
    top = tl.full((GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    query, found = (), ()
    for part in tl.static_range(N_PARTS):
        query += (tl.load(queries + asked + part * PART, mask=is_head[:, None], other=0.0),)
        found += (tl.zeros((GROUP, PART), tl.float32),)
    for start in range(begin, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        rows = states + (window * n_frames + at)[:, None] * width + columns[None, :]
        scores = tl.zeros((GROUP, BLOCK), tl.float32)
        block = ()
        for part in tl.static_range(N_PARTS):
            values = tl.load(rows + part * PART, mask=inside[:, None], other=0.0)
            scores = tl.dot(query[part], tl.trans(values), scores)
            block += (values,)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        shrink = tl.exp(top - higher)
        top, total = higher, total * shrink + tl.sum(weights, 1)
        weights = weights.to(states.dtype.element_ty)
        more = ()
        for part in tl.static_range(N_PARTS):
            more += (tl.dot(weights, block[part], found[part] * shrink[:, None]),)
        found = more
    for part in tl.static_range(N_PARTS):
        if SPLITS == 1:
            mean = (found[part] / total[:, None]).to(out.dtype.element_ty)
            places = (row * out_row + heads * out_head)[:, None] + columns[None, :]
            tl.store(out + places + part * PART, mean, mask=is_head[:, None])
        else:
            ends = parts + ((row * n_heads + heads) * SPLITS + split) * (width + 2)
            kept = ends[:, None] + part * PART + columns[None, :]
            tl.store(kept, found[part], mask=is_head[:, None])
            tl.store(ends + width, top, mask=is_head)
            tl.store(ends + width + 1, total, mask=is_head)


def absorbed_splits(n: int, n_heads: int) -> int:
    """Parts of a window that programs of their own attend to; a power of two."""
    splits, programs = 1, n * triton.cdiv(n_heads, _GROUP)
    while splits < _MAX_SPLITS and programs * splits < ENOUGH_PROGRAMS:
        splits *= 2
    return splits


def absorbed_parts(queries: torch.Tensor, splits: int) -> torch.Tensor:
    """Room for what the programs of `absorbed_launch` found; empty if there is one a query."""
    n, heads, width = queries.shape
    shape = (n, heads, splits, width + 2)
    return torch.empty(shape if splits > 1 else 0, dtype=torch.float32, device=queries.device)


class Absorbed(NamedTuple):
    """The launches that one tiling is chosen for."""

    heads: int
    frames: int
    width: int
    dtype: torch.dtype
    splits: int


def tilings(target: int) -> tuple[Tiling, ...]:
    """What may be chosen for a capability such as 90; the first unless something else is known."""
    first = _usual(target)
    others = (Tiling(_BLOCK, stages) for stages in (1, 2, 3, 4) if stages != first.stages)
    return (first, *others)


def _usual(target: int) -> Tiling:
    # Blocks of frames that are on their way: each takes 41 kB of shared memory at large's width.
    return Tiling(_BLOCK, 3 if target in _LARGE_SHARED else 2)


def absorbed_launch(
    queries: torch.Tensor,
    windows: torch.Tensor | int,
    states: torch.Tensor,
    parts: torch.Tensor,
    splits: int,
    out: torch.Tensor,
    wanted: int = PRESENT,
    lengths: torch.Tensor | None = None,
    chosen: Tilings = NONE_CHOSEN,
) -> Launch:
    """(n, H, C), already scaled -> (n, H, C), or the parts that `combine_launch` adds up.

    Args:
        queries, out: with a stride of 1 over C.
        windows: (n,) int64, each row's slot; or the first of n slots in order.
        states: (S, F, C), contiguous, 16-bit as the queries.
        lengths: as in `attention.cross_attention_launch`.
        chosen: by `Absorbed`; the first of `tilings` where there is none.
    """
    n, n_heads, width = queries.shape
    n_frames = states.shape[1]
    n_groups = triton.cdiv(n_heads, _GROUP)
    part = next(size for size in (128, 64) if width % size == 0)
    in_order = isinstance(windows, int)
    arguments: dict[str, Argument] = {
        "queries": queries,
        "windows": queries if in_order else windows,
        "lengths": queries if lengths is None else lengths,
        "states": states,
        "out": out,
        "parts": parts,
        "first": windows if in_order else 0,
        "n_heads": n_heads,
        "group_heads": triton.cdiv(n_heads, n_groups),
        "n_frames": n_frames,
        "query_row": queries.stride(0),
        "query_head": queries.stride(1),
        "out_row": out.stride(0),
        "out_head": out.stride(1),
    }
    constants = {
        "HAS_WINDOWS": not in_order,
        "HAS_LENGTHS": lengths is not None,
        "SPLITS": splits,
        "N_PARTS": width // part,
        "PART": part,
        "GROUP": _GROUP,
        "BLOCK": _BLOCK,
    }
    grid = (n_groups, n, splits)
    of = Absorbed(n_heads, n_frames, width, queries.dtype, splits)
    _, stages = chosen.get(of) or _usual(capability(queries, wanted))
    return Launch(absorbed_kernel, grid, arguments, constants, num_warps=8, num_stages=stages)
