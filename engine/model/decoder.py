"""The text decoder, or the contiguous part of it that a pipeline stage holds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from torch.nn import functional as F

from engine.config import ModelDimensions
from engine.model.attention import DecoderSelfAttention
from engine.model.cross_attention import load_cross_attention
from engine.model.kv_cache import KVCache, LayerCache
from engine.model.layer_stack import stack_layers
from engine.model.layers import MLP, LayerNorm
from engine.model.slots import Slots
from engine.parallel.linear import VocabParallelEmbedding
from engine.parallel.low_rank import Chosen
from engine.weights.source import LoadContext


@dataclass(frozen=True, slots=True)
class Tap:
    """Reads how much the tokens of a prefill attend to frames, by some heads of a layer.

    Attributes:
        heads: heads of this rank, by their place in it.
        take: gets `CrossAttention.scores`.
    """

    heads: tuple[int, ...]
    take: Callable[[torch.Tensor], None]


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and MLP, each added to its input."""

    def __init__(self, context: LoadContext, dims: ModelDimensions, index: int) -> None:
        super().__init__()
        prefix = f"decoder.layers.{index}"
        heads = (dims.n_text_head, dims.head_dim)
        self.attn_norm = LayerNorm(context, f"{prefix}.self_attn_layer_norm")
        self.attn = DecoderSelfAttention(
            context, f"{prefix}.self_attn", *heads, context.dtype, many_rows=False
        )
        self.cross_norm = LayerNorm(context, f"{prefix}.encoder_attn_layer_norm")
        self.cross = load_cross_attention(context, f"{prefix}.encoder_attn", *heads)
        self.mlp_norm = LayerNorm(context, f"{prefix}.final_layer_norm")
        self.mlp = MLP(context, prefix)

    def prefill(
        self,
        x: torch.Tensor,
        cache: LayerCache,
        slots: Slots,
        mask: torch.Tensor,
        tap: Tap | None = None,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        x = x.add_(self.attn.prefill(self.attn_norm(x), cache.own, slots, mask, adapters))
        if tap is not None:
            normed = self.cross_norm(x)
            tap.take(self.cross.scores(normed, cache.cross, slots, tap.heads, adapters))
        return self._rest(x, cache, slots, adapters)

    def decode(
        self,
        x: torch.Tensor,
        cache: LayerCache,
        positions: torch.Tensor,
        mask: torch.Tensor,
        windows: Slots,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        x = self.attn.decode(self.attn_norm, x, cache.own, positions, mask, adapters)
        return self._rest(x, cache, windows, adapters)

    def _rest(
        self, x: torch.Tensor, cache: LayerCache, slots: Slots, adapters: Chosen
    ) -> torch.Tensor:
        x = self.cross.add_to(self.cross_norm, x, cache.cross, slots, adapters)
        return self.mlp.add_to(self.mlp_norm, x, adapters)


class DecoderStage(nn.Module):
    """Decoder layers `layers`; the first stage embeds tokens, the last gives logits.

    The embedding is tied to the output layer, so both the first and the last stage hold it.
    """

    def __init__(self, context: LoadContext, dims: ModelDimensions, layers: range) -> None:
        super().__init__()
        self.is_first = layers.start == 0
        self.is_last = layers.stop == dims.n_text_layer
        # First, because reading it needs the most temporary memory.
        if self.is_first or self.is_last:
            self.embedding = VocabParallelEmbedding.load(context, "decoder.embed_tokens")
        made = (DecoderLayer(context, dims, index) for index in layers)
        self.layers = stack_layers(made, context.device, context.streams)
        if self.is_first:
            self.positions = context.parameter("decoder.embed_positions.weight")
        self.norm = LayerNorm(context, "decoder.layer_norm") if self.is_last else None

    @property
    def takes_any_rows(self) -> bool:
        """Whether a token's bits are the same whatever the number of rows."""
        parts = (module for child in self.children() for module in child.modules())
        return all(getattr(part, "takes_any_rows", True) for part in parts)

    def embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """First stage: (B, T) token ids and their positions -> (B, T, n_text_state)."""
        out: torch.Tensor = self.embedding(tokens) + F.embedding(positions, self.positions)
        return out

    def fill_cross(
        self, audio_features: torch.Tensor, cache: KVCache, slots: Slots, adapters: Chosen = None
    ) -> None:
        """Store what cross-attention needs of windows (B, frames, n_audio_state) in slots.

        Args:
            adapters: the number of the windows' adapter, the same for all of them.
        """
        cache.lengths.put(slots, audio_features.shape[1])
        if cache.states is not None:
            cache.states.fill(audio_features, slots)
            return
        for layer, layer_cache in self._with_caches(cache):
            layer.cross.fill(audio_features, layer_cache.cross, slots, adapters)

    def prefill(
        self,
        x: torch.Tensor,
        cache: KVCache,
        slots: Slots,
        taps: Mapping[int, Tap] = MappingProxyType({}),
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """Run the first T positions of sequences: (B, T, n_text_state) -> the same.

        Args:
            taps: by layer, counted from the stage's first.
            adapters: numbers of the sequences' adapters, (B,).
        """
        length = x.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for index, (layer, layer_cache) in enumerate(self._with_caches(cache)):
            x = layer.prefill(x, layer_cache, slots, mask, taps.get(index), adapters)
        return x

    def decode(
        self,
        x: torch.Tensor,
        cache: KVCache,
        positions: torch.Tensor,
        length: int,
        windows: Slots,
        adapters: Chosen = None,
    ) -> torch.Tensor:
        """Run one token in each of the first n slots: (B, 1, n_text_state) -> the same.

        Args:
            x: n rows of tokens, then rows of padding.
            positions: (n,) int64, where each token stands; all below `length`.
            length: number of positions that attention reads in each slot.
            windows: the n slots whose windows the tokens attend to.
            adapters: numbers of the rows' adapters, (B,).
        """
        reach = torch.arange(length, device=x.device)
        mask = (reach <= positions[:, None])[:, None, None]
        for layer, layer_cache in self._with_caches(cache):
            x = layer.decode(x, layer_cache, positions, mask, windows, adapters)
        return x

    def _with_caches(self, cache: KVCache) -> Iterator[tuple[DecoderLayer, LayerCache]]:
        return zip(self.layers.run(range(len(self.layers))), cache.layers, strict=True)

    def local_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Last stage: (B, n_text_state) -> (B, this rank's token ids), float32."""
        assert self.norm is not None, "only the last stage gives logits"
        return self.embedding.local_logits(self.norm(x)).float()
