"""What there is to choose for the layers of a model: each kernel in its tilings, on random numbers
of the shapes that it will meet.

Products are as wide as the layer, for each number of rows that a program holds. Attention is that
of the fewest rows with each number of parts that a window is split into.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from engine.kernels.triton import absorbed, attention, linear
from engine.kernels.triton.absorbed import Absorbed
from engine.kernels.triton.attention import Attention
from engine.kernels.triton.launch import Launch, capability_of
from engine.kernels.triton.linear import Product
from engine.kernels.triton.tiling import Choice, Tiling, Trial
from engine.kernels.triton.weights import ENOUGH_PROGRAMS, MAX_ROWS, Norm, Weight

_ROWS = (16, 32, MAX_ROWS)
_TOKENS = 60
"""Of a text so far, in the middle of one of usual length."""
_EPSILON = 1e-5


def products(like: Weight, dtype: torch.dtype) -> Iterator[Choice]:
    """Of a layer's weight, with inputs of that number format, after a norm and without one."""
    stored, size = like.values, like.group_size
    (width, columns), target = stored.shape, capability_of(stored.device)
    depth = 2 * columns if size else columns
    for rows in _ROWS:
        for has_norm in (True, False):
            of = Product(rows, depth, width, dtype, stored.dtype, size, has_norm)
            yield Choice(of, linear.tilings(of, target), partial(_product, like, of))


def _product(like: Weight, of: Product) -> Trial:
    draw, scale = _drawing(like.values.device), like.scale
    scales = None if scale is None else draw(*scale.shape, of=scale.dtype)
    weight = Weight(draw(*like.values.shape, of=of.stored), scales, of.group_size)
    x, bias = draw(of.rows, of.depth, of=of.dtype), draw(of.width, of=of.dtype)
    gain, shift = (draw(of.depth, of=of.dtype) for _ in range(2))
    norm = Norm(gain, shift, _EPSILON) if of.has_norm else None
    out = draw(of.rows, of.width, of=of.dtype)

    def launch(tiling: Tiling) -> Launch:
        return linear.linear_launch(x, weight, bias, norm, False, None, out, chosen={of: tiling})

    return Trial(launch, out)


def self_attention(like: torch.Tensor, dtype: torch.dtype) -> Iterator[Choice]:
    """Of a cache of keys, (slots, H, P, D), to which queries of that number format attend."""
    _, _, positions, head_dim = like.shape
    of = Attention(positions, head_dim, dtype, like.dtype, splits=0)
    tilings = attention.tilings(capability_of(like.device))
    yield Choice(of, tilings, partial(_of_tokens, like, of))


def _of_tokens(like: torch.Tensor, of: Attention) -> Trial:
    draw, (slots, heads, positions, head_dim) = _drawing(like.device), like.shape
    n = min(slots, -(-ENOUGH_PROGRAMS // heads))
    keys, values, scales = _stored(draw, n, like)
    qkv, out = (draw(n, m * heads * head_dim, of=of.dtype) for m in (3, 1))
    at = torch.full((n,), min(_TOKENS, positions - 1), device=like.device)

    def launch(tiling: Tiling) -> Launch:
        return attention.self_attention_launch(qkv, at, keys, values, scales, out, {of: tiling})

    return Trial(launch, out)


def cross_attention(like: torch.Tensor, dtype: torch.dtype) -> Iterator[Choice]:
    """Of keys of windows, (slots, H, F, D), to which queries of that number format attend."""
    slots, heads, frames, head_dim = like.shape
    tilings = attention.tilings(capability_of(like.device))
    for n, splits in _rows_by_splits(slots, lambda n: attention.cross_splits(n * heads)):
        of = Attention(frames, head_dim, dtype, like.dtype, splits)
        yield Choice(of, tilings, partial(_of_windows, like, n, of))


def _of_windows(like: torch.Tensor, n: int, of: Attention) -> Trial:
    draw, heads = _drawing(like.device), like.shape[1]
    keys, values, scales = _stored(draw, n, like)
    queries, out = (draw(n, heads * of.head_dim, of=of.dtype) for _ in range(2))
    parts = attention.cross_parts(queries, heads, of.splits)

    def launch(tiling: Tiling) -> Launch:
        return attention.cross_attention_launch(
            queries, 0, keys, values, scales, parts, of.splits, out, chosen={of: tiling}
        )

    return Trial(launch, out if of.splits == 1 else parts)


def absorbed_attention(like: torch.Tensor, heads: int) -> Iterator[Choice]:
    """Of the encoder's output of windows, (slots, F, C), for the queries of so many heads."""
    slots, frames, width = like.shape
    tilings = absorbed.tilings(capability_of(like.device))
    for n, splits in _rows_by_splits(slots, lambda n: absorbed.absorbed_splits(n, heads)):
        of = Absorbed(heads, frames, width, like.dtype, splits)
        yield Choice(of, tilings, partial(_of_states, like, n, of))


def _of_states(like: torch.Tensor, n: int, of: Absorbed) -> Trial:
    draw, shape = _drawing(like.device), (n, of.heads, of.width)
    states = draw(n, of.frames, of.width, of=of.dtype)
    queries, out = (draw(*shape, of=of.dtype) / of.width**0.5 for _ in range(2))
    parts = absorbed.absorbed_parts(queries, of.splits)

    def launch(tiling: Tiling) -> Launch:
        return absorbed.absorbed_launch(
            queries, 0, states, parts, of.splits, out, chosen={of: tiling}
        )

    return Trial(launch, out if of.splits == 1 else parts)


def _rows_by_splits(slots: int, splits_of: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """The fewest rows for each number of parts that windows are split into."""
    seen: set[int] = set()
    for n in range(1, slots + 1):
        splits = splits_of(n)
        if splits not in seen:
            seen.add(splits)
            yield n, splits


def _stored(
    draw: Callable[..., torch.Tensor], n: int, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
    """Keys and values of n slots, and the scales of 8-bit ones."""
    keys, values = (draw(n, *like.shape[1:], of=like.dtype) for _ in range(2))
    if like.dtype != torch.int8:
        return keys, values, None
    of_keys, of_values = (
        draw(n, *like.shape[1:3], of=torch.float32).abs() / 127.0 for _ in range(2)
    )
    return keys, values, (of_keys, of_values)


def _drawing(device: torch.device) -> Callable[..., torch.Tensor]:
    """Random numbers, made on the device."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, of: torch.dtype) -> torch.Tensor:
        if of.is_floating_point:
            return torch.randn(shape, generator=generator, device=device).to(of)
        return torch.randint(0, 128, shape, generator=generator, device=device).to(of)

    return draw
