"""Runs each kernel once on a device, beside its twin, before the kernels are used there."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from engine.kernels.quantize import quantize_groups, quantize_rows, quantize_weight
from engine.kernels.triton import twins
from engine.kernels.triton.calls import GpuKernels, Scales
from engine.kernels.triton.launch import FAILURES
from engine.kernels.triton.mel_tables import mel_tables
from engine.kernels.triton.weights import ALWAYS, AT_FIRST, Norm, Weight

_HEADS, _HEAD_DIM, _LENGTH = 3, 64, 100
_WIDTH = _HEADS * _HEAD_DIM
_ROWS = 3
_SPLITS = (1, 4)
_SHORT = (_LENGTH, 1, 37)
TOLERANCE = 0.02
"""Of the greatest value: 16-bit numbers have 8 to 11 bits, and sums come in other orders."""
_MEL_TOLERANCE = 1e-4
"""Of log-mel, which is float32 throughout."""


class Case(NamedTuple):
    """What a kernel gives, and what it should; `tolerance` is a part of the greatest value."""

    name: str
    run: Callable[[], torch.Tensor]
    twin: Callable[[], torch.Tensor]
    tolerance: float = TOLERANCE


def fault(kernels: GpuKernels, device: torch.device) -> str | None:
    """Why the kernels cannot be used on the device; None if they can."""
    try:
        for case in cases(kernels, device):
            error = difference(case.run(), case.twin())
            if not error <= case.tolerance:
                return f"{case.name} is off by {error:.2g} of its greatest value"
    except FAILURES as error:
        words = str(error).strip().splitlines()
        return f"{type(error).__name__}: {words[0] if words else 'no reason given'}"
    return None


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference, as a part of the greatest value."""
    greatest = expected.float().abs().max().clamp(min=1e-6)
    return float(((found.float() - expected.float()).abs().max() / greatest).item())


@torch.inference_mode()
def cases(
    kernels: GpuKernels, device: torch.device, dtype: torch.dtype | None = None
) -> Iterator[Case]:
    """Each kernel, in each of its ways, on little data.

    Args:
        dtype: None: bfloat16 if the device has it, else float16.
    """
    generator = torch.Generator().manual_seed(0)
    if dtype is None:
        dtype = torch.bfloat16 if kernels.multiplies else torch.float16

    def draw(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, of)

    norm = _norm(draw, device)
    yield from _attention(kernels, draw, device)
    yield _choice(kernels, draw, device)
    yield _sum_and_norm(kernels, draw(_ROWS, _WIDTH), draw(_ROWS, _WIDTH), norm)
    yield _log_mel(kernels, draw)
    if kernels.multiplies:
        yield from _linears(kernels, draw, norm)
        yield from _absorbed(kernels, draw, device)


def _norm(draw: Callable[..., torch.Tensor], device: torch.device) -> nn.LayerNorm:
    norm = nn.LayerNorm(_WIDTH, device="meta")
    norm.weight = nn.Parameter(draw(_WIDTH), requires_grad=False)
    norm.bias = nn.Parameter(draw(_WIDTH), requires_grad=False)
    return norm


def of_module(norm: nn.LayerNorm) -> Norm:
    return Norm(norm.weight, norm.bias, norm.eps)


def _choice(kernels: GpuKernels, draw: Callable[..., torch.Tensor], device: torch.device) -> Case:
    """Rows in each state of the rules."""
    words, vocab = 5000, 6600
    n_sampled, flags = [0, 0, 1, 5, 5, 5], [[0, 0], [0, 0], [1, 0], [1, 0], [1, 1], [0, 1]]
    last, penultimate = torch.tensor(flags, dtype=torch.bool, device=device).unbind(1)
    state = {
        "n_sampled": torch.tensor(n_sampled, device=device),
        "last_was_timestamp": last.contiguous(),
        "penultimate_was_timestamp": penultimate.contiguous(),
        "min_timestamp": torch.full((6,), words + 120, device=device),
        "with_timestamps": torch.tensor([True] + [False] + [True] * 4, device=device),
        "max_initial_timestamp": torch.full((6,), words + 150, device=device),
    }
    suppressed = torch.zeros(vocab, dtype=torch.uint8, device=device)
    suppressed[:4000], suppressed[4500] = ALWAYS, AT_FIRST
    logits = 3 * draw(6, vocab, of=torch.float32)
    ask = (logits, suppressed, state, words, words + 100)

    def both(choose: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        tokens, logprobs = choose(*ask)
        return torch.stack([tokens.float(), 1000 * logprobs])

    return Case("choice of tokens", partial(both, kernels.choose), partial(both, twins.choose))


def _log_mel(kernels: GpuKernels, draw: Callable[..., torch.Tensor]) -> Case:
    """Two windows of odd lengths of sound; what follows is silence."""
    samples = (3000 * draw(2, 4800, of=torch.float32)).to(torch.int16)
    samples[1, 1234:] = 0
    tables = mel_tables(draw(20, 201, of=torch.float32).abs())
    ask = samples, tables
    kernel, twin = partial(kernels.log_mel, *ask), partial(twins.log_mel, *ask)
    return Case("log-mel", kernel, twin, _MEL_TOLERANCE)


def _sum_and_norm(
    kernels: GpuKernels, x: torch.Tensor, added: torch.Tensor, norm: nn.LayerNorm
) -> Case:
    def run() -> torch.Tensor:
        total = x.clone()
        return torch.cat([kernels.add_norm(total, added, norm), total])

    def twin() -> torch.Tensor:
        return torch.cat([twins.normalised(x + added, of_module(norm)), x + added])

    return Case("sum and norm", run, twin)


def _linears(
    kernels: GpuKernels, draw: Callable[..., torch.Tensor], norm: nn.LayerNorm
) -> Iterator[Case]:
    x, bias, residual = draw(_ROWS, _WIDTH), draw(_WIDTH), draw(_ROWS, _WIDTH)
    wide = draw(_WIDTH, _WIDTH) / _WIDTH**0.5
    values, scale = quantize_weight(wide.float())
    weights = {"16-bit": Weight(wide), "8-bit": Weight(values, scale.to(wide.dtype))}
    for group_size in (32, 64):
        quantized, step, zero = quantize_groups(wide, group_size, wide.dtype)
        low, high = quantized.view(_WIDTH, -1, 2).unbind(-1)
        kept = torch.stack([step, zero], -1)
        weights[f"4-bit of {group_size}"] = Weight(low | high << 4, kept, group_size)

    def added(weight: Weight) -> torch.Tensor:
        return kernels.linear(x, weight, bias, residual=residual.clone())

    of = of_module(norm)
    for name, weight in weights.items():
        product = partial(kernels.linear, x, weight, bias, norm, True)
        twin = partial(twins.linear, x, weight, bias, of, True)
        yield Case(f"{name} product of a norm", product, twin)
        twin = partial(twins.linear, x, weight, bias, residual=residual)
        yield Case(f"{name} product added", partial(added, weight), twin)


def _attention(
    kernels: GpuKernels, draw: Callable[..., torch.Tensor], device: torch.device
) -> Iterator[Case]:
    positions = torch.tensor([0, _LENGTH - 1, 64], device=device)
    windows = torch.tensor([2, 0, 2], device=device)
    lengths = torch.tensor(_SHORT, device=device)
    qkv, queries = draw(_ROWS, 3 * _WIDTH), draw(_ROWS, _WIDTH)
    shape = _ROWS, _HEADS, _LENGTH, _HEAD_DIM
    for name in ("16-bit", "8-bit"):
        keys, values, scales = draw(*shape), draw(*shape), None
        if name == "8-bit":
            keys, values, scales = _in_8_bits(keys, values)

        stored = partial(_and_what_is_stored, qkv, positions, keys, values, scales)
        run = partial(stored, kernels.self_attention)
        yield Case(f"attention to {name} tokens", run, partial(stored, twins.self_attention))
        ask = partial(kernels.cross_attention, queries, windows, keys, values, scales)
        twin = partial(twins.cross_attention, queries, windows, keys, values, scales)
        short = partial(twin, lengths=lengths)
        for splits in _SPLITS:
            yield Case(
                f"attention to {name} windows, split by {splits}", partial(ask, splits), twin
            )
            asked = partial(ask, splits, lengths)
            yield Case(f"attention to short {name} windows, split by {splits}", asked, short)


def _and_what_is_stored(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: Scales | None,
    attend: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """What attention gives, beside the keys and values of each row after it."""
    kept = [keys.clone(), values.clone()]
    ours = None if scales is None else (scales[0].clone(), scales[1].clone())
    return torch.cat([attend(qkv, positions, *kept, ours), *map(_per_row, kept)], 1)


def _per_row(kept: torch.Tensor) -> torch.Tensor:
    return kept.flatten(1).to(torch.float32) / 100.0


def _in_8_bits(
    keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Scales]:
    (keys, key_scales), (values, value_scales) = quantize_rows(keys), quantize_rows(values)
    return keys, values, (key_scales[..., 0].contiguous(), value_scales[..., 0].contiguous())


def _absorbed(
    kernels: GpuKernels, draw: Callable[..., torch.Tensor], device: torch.device
) -> Iterator[Case]:
    states = draw(_ROWS, _LENGTH, _WIDTH)
    queries = draw(_ROWS, _HEADS, _WIDTH) / _WIDTH**0.5
    windows = torch.tensor([2, 0, 2], device=device)
    ask = partial(kernels.absorbed_attention, queries, windows, states)
    twin = partial(twins.absorbed_attention, queries, windows, states)
    lengths = torch.tensor(_SHORT, device=device)
    short = partial(twin, lengths=lengths)
    for splits in _SPLITS:
        yield Case(f"absorbed attention, split by {splits}", partial(ask, splits), twin)
        name = f"absorbed attention to short windows, split by {splits}"
        yield Case(name, partial(ask, splits, lengths), short)
