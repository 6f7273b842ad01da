"""Log-mel of int16 samples, in two launches for a batch of windows.

The first cuts frames, multiplies them with the window and the DFT as one table, and powers with the
mel filters, and takes logarithms; of each block of frames it leaves the greatest. The second knows
the greatest of a window, clamps what is 8 below it, and scales. All is float32 without TF32, and a
window is computed alone, so its numbers do not depend on what else is in the batch.

Shapes: B windows of L samples, T = L / 160 frames.
"""

import torch
import triton
import triton.language as tl

from engine.config import HOP_LENGTH
from engine.kernels.triton.launch import Launch, power_of_two
from engine.kernels.triton.mel_tables import BINS, POINTS, MelTables

_FRAMES = 32
_BLOCK = 1024
_FLOOR = tl.constexpr(1e-10)
_LOG10_OF_2 = tl.constexpr(0.30102999566398120)


@triton.jit
def log_mel_kernel(
    samples, cosines, sines, filters, out, tops, n_samples, n_frames, n_mels, n_blocks,
    HOP: tl.constexpr, N_POINTS: tl.constexpr, N_BINS: tl.constexpr, N_BANDS: tl.constexpr,
    FRAMES: tl.constexpr, POINTS: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """A program computes all bands of FRAMES frames. At the ends samples are reflected."""
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    own = samples + row * n_samples
    frames = block * FRAMES + tl.arange(0, FRAMES)
    is_frame = frames < n_frames
    centres = (frames * HOP)[:, None]
    bands = tl.arange(0, N_BANDS)
    mel = tl.zeros((FRAMES, N_BANDS), tl.float32)
    for first in range(0, N_BINS, BINS):
        bins = first + tl.arange(0, BINS)
        real = tl.zeros((FRAMES, BINS), tl.float32)
        imaginary = tl.zeros((FRAMES, BINS), tl.float32)
        for start in range(0, N_POINTS, POINTS):
            points = start + tl.arange(0, POINTS)
            after = centres + points[None, :]
            after = tl.where(after < n_samples, after, 2 * (n_samples - 1) - after)
            left = tl.load(own + tl.abs(centres - points[None, :]), mask=is_frame[:, None], other=0)
            right = tl.load(own + after, mask=is_frame[:, None], other=0)
            left, right = left.to(tl.int32), right.to(tl.int32)
            places = points[:, None] * N_BINS + bins[None, :]
            even, odd = (right + left).to(tl.float32), (right - left).to(tl.float32)
            real += tl.dot(even, tl.load(cosines + places), input_precision="ieee")
            imaginary += tl.dot(odd, tl.load(sines + places), input_precision="ieee")
        power = real * real + imaginary * imaginary
        weights = tl.load(filters + bins[:, None] * N_BANDS + bands[None, :])
        mel += tl.dot(power, weights, input_precision="ieee")
    logs = tl.log2(tl.maximum(mel, _FLOOR)) * _LOG10_OF_2
    inside = is_frame[:, None] & (bands < n_mels)[None, :]
    places = bands[None, :] * n_frames + frames[:, None]
    tl.store(out + row * n_mels * n_frames + places, logs, mask=inside)
    top = tl.max(tl.max(tl.where(inside, logs, float("-inf")), 1), 0)
    tl.store(tops + row * n_blocks + block, top)


@triton.jit
def clamp_kernel(out, tops, size, n_blocks, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """A program clamps and scales BLOCK values of a window, in place."""
    block, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    each = tl.arange(0, BLOCKS)
    of_blocks = tl.load(tops + row * n_blocks + each, mask=each < n_blocks, other=float("-inf"))
    at = block * BLOCK + tl.arange(0, BLOCK)
    places = out + row * size + at
    values = tl.load(places, mask=at < size, other=0.0)
    values = tl.maximum(values, tl.max(of_blocks, 0) - 8.0)
    tl.store(places, (values + 4.0) * 0.25, mask=at < size)


def log_mel_launches(
    samples: torch.Tensor, tables: MelTables, out: torch.Tensor
) -> tuple[Launch, Launch]:
    """(B, L) int16 -> (B, n_mels, L / 160) float32: the two launches, in order.

    Args:
        samples: contiguous; L is a multiple of 160 and more than half of a frame.
    """
    n, n_samples = samples.shape
    n_points, n_bins = tables.cosines.shape
    n_frames = n_samples // HOP_LENGTH
    assert n_samples % HOP_LENGTH == 0 and n_samples >= n_points
    n_blocks = triton.cdiv(n_frames, _FRAMES)
    tops = torch.empty(n, n_blocks, dtype=torch.float32, device=samples.device)
    first = Launch(
        log_mel_kernel,
        (n_blocks, n),
        {
            "samples": samples,
            "cosines": tables.cosines,
            "sines": tables.sines,
            "filters": tables.filters,
            "out": out,
            "tops": tops,
            "n_samples": n_samples,
            "n_frames": n_frames,
            "n_mels": tables.n_mels,
            "n_blocks": n_blocks,
        },
        {
            "HOP": HOP_LENGTH,
            "N_POINTS": n_points,
            "N_BINS": n_bins,
            "N_BANDS": tables.filters.shape[1],
            "FRAMES": _FRAMES,
            "POINTS": POINTS,
            "BINS": BINS,
        },
        num_warps=4,
    )
    size = tables.n_mels * n_frames
    second = Launch(
        clamp_kernel,
        (triton.cdiv(size, _BLOCK), n),
        {"out": out, "tops": tops, "size": size, "n_blocks": n_blocks},
        {"BLOCKS": power_of_two(n_blocks), "BLOCK": _BLOCK},
        num_warps=4,
    )
    return first, second
