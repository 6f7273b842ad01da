"""Sizes of models, without weights, and the ways to cut them into stages."""

from itertools import combinations

import torch

from engine import ModelDimensions
from engine.parallel.device_model import DeviceModel
from engine.parallel.stages import Stage, cut_stages
from engine.precision import NumberFormats

GPU_BFLOAT16 = NumberFormats(torch.bfloat16, torch.bfloat16)
H200 = DeviceModel(flops_per_s=790e12, bytes_per_s=4.8e12, memory_bytes=139e9)
N_SLOTS, MAX_LENGTH, ENCODE_BATCH = 3, 64, 2


def sizes(heads: int, head_dim: int = 64, encoder: int = 2, decoder: int = 3) -> ModelDimensions:
    """A model whose vocabulary and frames are multiples of no number of ranks or columns."""
    return ModelDimensions(
        n_mels=80,
        n_vocab=1003,
        n_audio_ctx=150,
        n_audio_state=heads * head_dim,
        n_audio_head=heads,
        n_audio_layer=encoder,
        n_text_ctx=64,
        n_text_state=heads * head_dim,
        n_text_head=heads,
        n_text_layer=decoder,
    )


SMALL = sizes(heads=3, head_dim=32)


def cuts(dims: ModelDimensions, n_stages: int) -> list[tuple[Stage, ...]]:
    n_layers = dims.n_audio_layer + dims.n_text_layer
    bounds = ((0, *ends, n_layers) for ends in combinations(range(1, n_layers), n_stages - 1))
    return [
        cut_stages(dims, [b - a for a, b in zip(ends, ends[1:], strict=False)]) for ends in bounds
    ]
