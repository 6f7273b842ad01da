"""The kernels as functions of tensors: they make room for what comes out, and start the launches.

A model that runs without CUDA graphs pays for each launch on the host, so nothing here does more
than it must.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from engine.config import HOP_LENGTH
from engine.kernels.triton import (
    absorbed,
    attention,
    linear,
    log_mel,
    norm,
    sampling,
    tuned_shapes,
)
from engine.kernels.triton.launch import capability_of
from engine.kernels.triton.mel_tables import MelTables
from engine.kernels.triton.tiling import Tilings
from engine.kernels.triton.tuner import Tuner
from engine.kernels.triton.weights import MIN_PRODUCTS, Norm, Weight

_HALVES = (torch.float16, torch.bfloat16)
Scales = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class GpuKernels:
    """The kernels of a device.

    Attributes:
        multiplies: whether those with matrix products run there; the others need no more than
            torch does.
        tuner: chooses tilings when a layer is loaded; None: the usual ones are taken.
        tilings: what it has chosen so far.
    """

    multiplies: bool
    tuner: Tuner | None = None
    tilings: Tilings = field(default_factory=dict)

    @classmethod
    def on(cls, device: torch.device) -> "GpuKernels":
        return cls(capability_of(device) >= MIN_PRODUCTS)

    def takes(self, product: torch.dtype) -> bool:
        """Whether `linear` and `absorbed_attention` multiply in the number format."""
        return self.multiplies and product in _HALVES

    def tuned_by(self, tuner: Tuner) -> "GpuKernels":
        return replace(self, tuner=tuner, tilings=tuner.tilings)

    def load_linear(self, weight: Weight, dtype: torch.dtype) -> None:
        """A layer of this weight will be asked for its products with inputs of `dtype`."""
        if self.tuner is not None:
            self.tuner.settle(tuned_shapes.products(weight, dtype))

    def load_self_attention(self, keys: torch.Tensor, dtype: torch.dtype) -> None:
        """Queries of `dtype` will attend to tokens in such a cache, (S, H, P, D)."""
        if self.tuner is not None:
            self.tuner.settle(tuned_shapes.self_attention(keys, dtype))

    def load_cross_attention(self, keys: torch.Tensor, dtype: torch.dtype) -> None:
        """Queries of `dtype` will attend to windows in such a cache, (S, H, F, D)."""
        if self.tuner is not None:
            self.tuner.settle(tuned_shapes.cross_attention(keys, dtype))

    def load_absorbed_attention(self, states: torch.Tensor, heads: int) -> None:
        """The queries of so many heads will attend to such states, (S, F, C)."""
        if self.tuner is not None:
            self.tuner.settle(tuned_shapes.absorbed_attention(states, heads))

    def linear(
        self,
        x: torch.Tensor,
        weight: Weight,
        bias: torch.Tensor | None,
        norm: nn.LayerNorm | None = None,
        gelu: bool = False,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(..., K) -> (..., N), at most `MAX_ROWS` rows.

        Args:
            norm: the input is normalised first.
            residual: (..., N) contiguous; the output is added to it, and it is returned.
        """
        depth = x.shape[-1]
        rows = x.reshape(-1, depth)
        if residual is None:
            out = rows.new_empty(*x.shape[:-1], len(weight.values))
        else:
            out = residual
        flat = out.view(-1, len(weight.values))
        before = None if norm is None else Norm(norm.weight, norm.bias, norm.eps)
        added = None if residual is None else flat
        linear.linear_launch(
            rows, weight, bias, before, gelu, added, flat, chosen=self.tilings
        ).run()
        return out

    def add_norm(self, x: torch.Tensor, added: torch.Tensor, weights: nn.LayerNorm) -> torch.Tensor:
        """(..., C) each: x becomes x + added, in place; returns its normalisation."""
        out = torch.empty_like(x)
        rows, more = x.view(-1, x.shape[-1]), added.reshape(-1, x.shape[-1])
        of = Norm(weights.weight, weights.bias, weights.eps)
        norm.add_norm_launch(rows, more, of, out.view(rows.shape)).run()
        return out

    def self_attention(
        self,
        qkv: torch.Tensor,
        positions: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scales: Scales | None = None,
    ) -> torch.Tensor:
        """(n, 3*H*D) -> (n, H*D); stores keys and values as `SelfCache.attend` does."""
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        attention.self_attention_launch(
            qkv.contiguous(), positions, keys, values, scales, out, self.tilings
        ).run()
        return out

    def cross_attention(
        self,
        queries: torch.Tensor,
        windows: torch.Tensor | int,
        keys: torch.Tensor,
        values: torch.Tensor,
        scales: Scales | None = None,
        splits: int | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(n, H*D) -> (n, H*D).

        Args:
            windows: (n,) slots, or the first of n in order.
            splits: programs that share a head's frames, a power of two; None: as many as keep the
                device busy. More than one take a second launch.
            lengths: frames of each slot that are read; None: all.
        """
        n, heads = len(queries), keys.shape[1]
        splits = splits or attention.cross_splits(n * heads)
        parts = attention.cross_parts(queries, heads, splits)
        out = torch.empty_like(queries)
        attention.cross_attention_launch(
            queries.contiguous(),
            windows,
            keys,
            values,
            scales,
            parts,
            splits,
            out,
            lengths,
            self.tilings,
        ).run()
        if splits > 1:
            attention.combine_launch(parts, out).run()
        return out

    def choose(
        self,
        logits: torch.Tensor,
        suppressed: torch.Tensor,
        state: Mapping[str, torch.Tensor],
        eot: int,
        split: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest token of each row under the timestamp rules: (n, V) logits -> (n,) ids,
        int64, and (n,) their log-probabilities, float32; see `sampling.sampling_launches`."""
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        logprobs = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for launch in sampling.sampling_launches(
            logits.contiguous(), suppressed, state, eot, split, tokens, logprobs
        ):
            launch.run()
        return tokens, logprobs

    def log_mel(self, samples: torch.Tensor, tables: MelTables) -> torch.Tensor:
        """(B, L) int16 -> (B, n_mels, L / 160) float32; see `log_mel.log_mel_launches`."""
        n, n_samples = samples.shape
        shape = (n, tables.n_mels, n_samples // HOP_LENGTH)
        out = torch.empty(shape, dtype=torch.float32, device=samples.device)
        for launch in log_mel.log_mel_launches(samples.contiguous(), tables, out):
            launch.run()
        return out

    def absorbed_attention(
        self,
        queries: torch.Tensor,
        windows: torch.Tensor | int,
        states: torch.Tensor,
        splits: int | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(n, H, C), already scaled -> (n, H, C), of which heads lie before rows in memory.

        Args:
            splits, lengths: as in `cross_attention`.
        """
        n, heads, width = queries.shape
        splits = splits or absorbed.absorbed_splits(n, heads)
        parts = absorbed.absorbed_parts(queries, splits)
        out = queries.new_empty(heads, n, width).transpose(0, 1)
        absorbed.absorbed_launch(
            queries, windows, states, parts, splits, out, lengths=lengths, chosen=self.tilings
        ).run()
        if splits > 1:
            attention.combine_launch(parts, out).run()
        return out
