"""What each kernel computes, in torch's operators and float32: to compare with, in the tests and on
a device before the kernels are used there."""

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from engine.config import HOP_LENGTH
from engine.kernels.quantize import dequantize_groups, quantize_rows
from engine.kernels.triton.calls import Scales
from engine.kernels.triton.mel_tables import MelTables
from engine.kernels.triton.weights import ALWAYS, AT_FIRST, Norm, Weight


def linear(
    x: torch.Tensor,
    weight: Weight,
    bias: torch.Tensor | None,
    norm: Norm | None = None,
    gelu: bool = False,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """(n, K) -> (n, N)."""
    rows = x if norm is None else normalised(x, norm)
    wide = dequantized(weight)[:, : x.shape[1]]
    y = F.linear(rows.float(), wide, None if bias is None else bias.float())
    y = (F.gelu(y) if gelu else y).to(x.dtype)
    return y if residual is None else residual + y


def dequantized(weight: Weight) -> torch.Tensor:
    """(N, K) float32."""
    values, scale = weight.values, weight.scale
    if scale is None:
        return values.float()
    if not weight.group_size:
        return values.float() * scale.float()[:, None]
    both = torch.stack([values & 15, values >> 4], -1).flatten(1)
    return dequantize_groups(both, *scale.float().unbind(-1))


def normalised(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """(n, C) -> the same."""
    wide = F.layer_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.bias.float(), norm.eps)
    return wide.to(x.dtype)


def self_attention(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: Scales | None = None,
) -> torch.Tensor:
    """(n, 3*H*D) -> (n, H*D); stores as the kernel does."""
    _, heads, length, head_dim = keys.shape
    q, k, v = qkv.view(len(qkv), 3, heads, head_dim).unbind(1)
    rows = torch.arange(len(qkv), device=qkv.device)
    for place, (kept, new) in enumerate(((keys, k), (values, v))):
        if scales is None:
            kept[rows, :, positions] = new
        else:
            kept[rows, :, positions], scale = quantize_rows(new)
            scales[place][rows, :, positions] = scale[..., 0]
    mask = torch.arange(length, device=qkv.device) <= positions[:, None]
    return _attend(q[:, :, None], keys[rows], values[rows], _of(scales, rows), mask[:, None, None])


def cross_attention(
    queries: torch.Tensor,
    windows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: Scales | None = None,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """(n, H*D) -> (n, H*D)."""
    q = queries.view(len(queries), keys.shape[1], 1, keys.shape[3])
    mask = _reached(keys.shape[2], windows, lengths)
    by_head = None if mask is None else mask[:, None, None]
    return _attend(q, keys[windows], values[windows], _of(scales, windows), by_head)


def absorbed_attention(
    queries: torch.Tensor,
    windows: torch.Tensor,
    states: torch.Tensor,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """(n, H, C) -> (n, H, C)."""
    wide = states[windows].float()
    scores = queries.float() @ wide.transpose(1, 2)
    mask = _reached(states.shape[1], windows, lengths)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], float("-inf"))
    return (torch.softmax(scores, -1) @ wide).to(queries.dtype)


def choose(
    logits: torch.Tensor,
    suppressed: torch.Tensor,
    state: Mapping[str, torch.Tensor],
    eot: int,
    split: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, V) -> (n,) each. The rules in the order in which openai/whisper applies them."""
    at = torch.arange(logits.shape[1], device=logits.device)
    values = {name: state[name][:, None] for name in state}
    is_first, on = values["n_sampled"] == 0, values["with_timestamps"]
    after = on & values["last_was_timestamp"]
    is_whole = values["penultimate_was_timestamp"] | (values["n_sampled"] < 2)
    lowest = values["min_timestamp"] + (~is_first & ~(after & ~is_whole)).long()
    is_timestamp = at >= split
    late = is_first & (at > values["max_initial_timestamp"])
    forbidden = ((suppressed & ALWAYS) > 0) | (is_first & ((suppressed & AT_FIRST) > 0))
    forbidden = forbidden | (on & is_timestamp & ((at < lowest) | late | (after & is_whole)))
    forbidden |= on & is_first & ~is_timestamp
    forbidden |= after & ~is_whole & (at < eot)
    allowed = logits.double().masked_fill(forbidden, float("-inf"))
    of_timestamps = allowed[:, split:].logsumexp(1)
    forced = on[:, 0] & (of_timestamps > allowed[:, :split].amax(1))
    allowed[forced, :split] = float("-inf")
    tokens = allowed.argmax(1)
    logprobs = allowed.gather(1, tokens[:, None])[:, 0] - allowed.logsumexp(1)
    return tokens, logprobs.float()


def log_mel(samples: torch.Tensor, tables: MelTables) -> torch.Tensor:
    """(B, L) int16 -> (B, n_mels, L / 160). Products are float64: what is left to tell are the
    tables' and the kernel's roundings."""
    n_samples, n_points = samples.shape[1], len(tables.cosines)
    centres = torch.arange(0, n_samples, HOP_LENGTH, device=samples.device)[:, None]
    points = torch.arange(n_points, device=samples.device)
    after = centres + points
    after = torch.where(after < n_samples, after, 2 * (n_samples - 1) - after)
    left, right = samples[:, (centres - points).abs()].double(), samples[:, after].double()
    real = (right + left) @ tables.cosines.double()
    imaginary = (right - left) @ tables.sines.double()
    power = real.square() + imaginary.square()
    mel = (power @ tables.filters.double())[..., : tables.n_mels].transpose(1, 2)
    logs = mel.clamp(min=1e-10).log10()
    clamped = torch.maximum(logs, logs.amax((1, 2), keepdim=True) - 8.0)
    return ((clamped + 4.0) / 4.0).float()


def _reached(
    n_frames: int, windows: torch.Tensor, lengths: torch.Tensor | None
) -> torch.Tensor | None:
    """(n, F), the frames that each row reads; None: all."""
    if lengths is None:
        return None
    return torch.arange(n_frames, device=lengths.device) < lengths[windows][:, None]


def _of(scales: Scales | None, slots: torch.Tensor) -> Scales | None:
    return None if scales is None else (scales[0][slots], scales[1][slots])


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scales: Scales | None,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """(n, H, 1, D) x (n, H, L, D) -> (n, H*D)."""
    k, v = keys.float(), values.float()
    if scales is not None:
        k, v = k * scales[0][..., None], v * scales[1][..., None]
    return F.scaled_dot_product_attention(q.float(), k, v, mask).to(q.dtype).flatten(1)
