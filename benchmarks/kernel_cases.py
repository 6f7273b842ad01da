"""The launches of a decoder step and of log-mel in a model's sizes, on tensors without memory: to
compile them, or to count what they move."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.config import HOP_LENGTH, N_FFT, ModelDimensions
from engine.kernels.triton import absorbed, attention, linear, log_mel, norm, sampling
from engine.kernels.triton.launch import Launch
from engine.kernels.triton.mel_tables import mel_tables
from engine.kernels.triton.weights import MAX_ROWS, MIN_PRODUCTS, Norm, Weight

POSITIONS = 60
"""Tokens of a text so far, in the middle of one of usual length."""


@dataclass(frozen=True)
class Case:
    """A launch.

    Attributes:
        moved_bytes: what has to be read and written at least, in the memory of the device.
    """

    name: str
    rows: int
    launch: Launch
    moved_bytes: int


def cases(
    dims: ModelDimensions, n: int, target: int, device: torch.device | None = None
) -> Iterator[Case]:
    """All kernels with `n` rows, for a compute capability such as 90.

    Args:
        device: where the tensors are, to run the launches; None: nowhere.
    """
    # Triton's interpreter multiplies no bfloat16.
    has_bfloat16 = target >= MIN_PRODUCTS and (device is None or device.type == "cuda")
    dtype = torch.bfloat16 if has_bfloat16 else torch.float16
    make = _Cases(dims, n, target, dtype, device or torch.device("meta"))
    yield from make.attention()
    yield from make.choice()
    yield make.norm()
    yield from make.log_mel()
    if target >= MIN_PRODUCTS:
        yield from make.absorbed()
        if n <= MAX_ROWS:
            yield from make.linears()


@dataclass(frozen=True)
class _Cases:
    dims: ModelDimensions
    n: int
    target: int
    dtype: torch.dtype
    device: torch.device

    @property
    def width(self) -> int:
        return self.dims.n_text_state

    def empty(self, *shape: int, of: torch.dtype | None = None) -> torch.Tensor:
        return torch.zeros(shape, dtype=of or self.dtype, device=self.device)

    def case(self, name: str, launch: Launch, moved_bytes: int) -> Case:
        return Case(name, self.n, launch, moved_bytes)

    def attention(self) -> Iterator[Case]:
        n, heads, head_dim = self.n, self.dims.n_text_head, self.dims.head_dim
        x, qkv = self.empty(n, self.width), self.empty(n, 3 * self.width)
        own = n, heads, self.dims.n_text_ctx, head_dim
        cross = n, heads, self.dims.n_audio_ctx, head_dim
        positions = torch.full((n,), POSITIONS, device=self.device)
        splits = attention.cross_splits(n * heads)
        parts = attention.cross_parts(x, heads, splits)
        for name, stored in (("16-bit", self.dtype), ("8-bit", torch.int8)):
            scales = None
            of_position = 2 * heads * (head_dim * stored.itemsize + 4 * (stored is torch.int8))
            if stored is torch.int8:
                scales = (self.empty(*own[:3], of=torch.float32),) * 2
            kept = self.empty(*own, of=stored)
            yield self.case(
                f"self-attention, {name}",
                attention.self_attention_launch(qkv, positions, kept, kept, scales, x),
                qkv.nbytes + x.nbytes + n * (POSITIONS + 1) * of_position,
            )
            if scales is not None:
                scales = (self.empty(*cross[:3], of=torch.float32),) * 2
            kept = self.empty(*cross, of=stored)
            yield self.case(
                f"cross-attention, {name}",
                attention.cross_attention_launch(x, 0, kept, kept, scales, parts, splits, x),
                2 * x.nbytes + n * self.dims.n_audio_ctx * of_position + parts.nbytes,
            )
        if splits > 1:
            launch = attention.combine_launch(parts, x)
            yield self.case("cross-attention, combined", launch, parts.nbytes + x.nbytes)

    def choice(self) -> Iterator[Case]:
        vocab, n = self.dims.n_vocab, self.n
        logits, bits = self.empty(n, vocab, of=torch.float32), self.empty(vocab, of=torch.uint8)
        numbers, flags = self.empty(n, of=torch.int64), self.empty(n, of=torch.bool)
        state = {
            "n_sampled": numbers,
            "last_was_timestamp": flags,
            "penultimate_was_timestamp": flags,
            "min_timestamp": numbers,
            "with_timestamps": flags,
            "max_initial_timestamp": numbers,
        }
        logprobs = self.empty(n, of=torch.float32)
        eot, split = vocab - 1609, vocab - 1501
        launches = sampling.sampling_launches(logits, bits, state, eot, split, numbers, logprobs)
        yield self.case("logits reduced", launches[0], logits.nbytes + bits.nbytes)
        yield self.case("token chosen", launches[1], 12 * n)

    def norm(self) -> Case:
        x = self.empty(self.n, self.width)
        launch = norm.add_norm_launch(x, x, self.weights(), x)
        return self.case("sum and norm", launch, 4 * x.nbytes)

    def log_mel(self) -> Iterator[Case]:
        """Of `n` windows."""
        n_mels, n_frames = self.dims.n_mels, 2 * self.dims.n_audio_ctx
        samples = self.empty(self.n, n_frames * HOP_LENGTH, of=torch.int16)
        tables = mel_tables(self.empty(n_mels, 1 + N_FFT // 2, of=torch.float32))
        out = self.empty(self.n, n_mels, n_frames, of=torch.float32)
        launches = log_mel.log_mel_launches(samples, tables, out)
        kept = tables.cosines.nbytes + tables.sines.nbytes + tables.filters.nbytes
        yield self.case("log-mel", launches[0], samples.nbytes + kept + out.nbytes)
        yield self.case("log-mel, clamped", launches[1], 2 * out.nbytes)

    def weights(self) -> Norm:
        return Norm(self.empty(self.width), self.empty(self.width), 1e-5)

    def absorbed(self) -> Iterator[Case]:
        n, heads = self.n, self.dims.n_text_head
        queries = self.empty(heads, n, self.width).transpose(0, 1)
        states = self.empty(n, self.dims.n_audio_ctx, self.width)
        splits = absorbed.absorbed_splits(n, heads)
        parts = absorbed.absorbed_parts(queries, splits)
        launch = absorbed.absorbed_launch(queries, 0, states, parts, splits, queries, self.target)
        moved = states.nbytes + 2 * queries.nbytes + parts.nbytes
        yield self.case("absorbed attention", launch, moved)
        if splits > 1:
            launch = attention.combine_launch(parts, queries)
            yield self.case("absorbed, combined", launch, parts.nbytes + queries.nbytes)

    def linears(self) -> Iterator[Case]:
        width = self.width
        for name, n_out, n_in, is_first, gelu in (
            ("qkv", 3 * width, width, True, False),
            ("query", width, width, True, False),
            ("output", width, width, False, False),
            ("fc1", 4 * width, width, True, True),
            ("fc2", width, 4 * width, False, False),
        ):
            x, out, bias = self.empty(self.n, n_in), self.empty(self.n, n_out), self.empty(n_out)
            for kind, weight in self.stored(n_out, n_in):
                launch = linear.linear_launch(
                    x,
                    weight,
                    bias,
                    self.weights() if is_first else None,
                    gelu,
                    None if is_first else out,
                    out,
                    self.target,
                )
                scale = 0 if weight.scale is None else weight.scale.nbytes
                moved = weight.values.nbytes + scale + x.nbytes + out.nbytes
                moved += 0 if is_first else out.nbytes
                yield self.case(f"{name}, {kind}", launch, moved)

    def stored(self, n_out: int, n_in: int) -> Iterator[tuple[str, Weight]]:
        yield "16-bit", Weight(self.empty(n_out, n_in))
        yield "8-bit", Weight(self.empty(n_out, n_in, of=torch.int8), self.empty(n_out))
        for size in (32, 64, 128):
            n_groups = -(-n_in // size)
            packed = self.empty(n_out, n_groups * size // 2, of=torch.uint8)
            yield f"4-bit of {size}", Weight(packed, self.empty(n_out, n_groups, 2), size)
