"""Random weights of any model's shape: to measure memory and speed where no weights can be had.

A model made of them writes no meaningful text.
"""

import zlib

import torch

from engine.config import ModelDimensions
from engine.errors import WeightsError
from engine.weights.source import Rows


class RandomSource:
    """Tensors drawn by name from a seeded generator: equal at every sharding."""

    def __init__(self, dims: ModelDimensions, seed: int = 0) -> None:
        self.seed = seed
        self._shapes = _shapes(dims)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise WeightsError(f"this model has no tensor {name!r}")
        return self._shapes[name]

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        shape = self.shape(name)
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ self.seed)
        if name.endswith("layer_norm.weight"):
            tensor = torch.ones(shape)
        else:
            fan_in = max(1, torch.Size(shape[1:]).numel())
            tensor = torch.randn(shape, generator=generator) * fan_in**-0.5
        tensor = tensor[rows or slice(None)]
        return tensor if columns is None else tensor[:, columns]


def _shapes(dims: ModelDimensions) -> dict[str, tuple[int, ...]]:
    audio, text = dims.n_audio_state, dims.n_text_state
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (audio, dims.n_mels, 3),
        "encoder.conv1.bias": (audio,),
        "encoder.conv2.weight": (audio, audio, 3),
        "encoder.conv2.bias": (audio,),
        "encoder.embed_positions.weight": (dims.n_audio_ctx, audio),
        "decoder.embed_tokens.weight": (dims.n_vocab, text),
        "decoder.embed_positions.weight": (dims.n_text_ctx, text),
    }
    shapes |= _norm("encoder.layer_norm", audio) | _norm("decoder.layer_norm", text)
    for layer in range(dims.n_audio_layer):
        shapes |= _layer(f"encoder.layers.{layer}", audio, ("self_attn",))
    for layer in range(dims.n_text_layer):
        shapes |= _layer(f"decoder.layers.{layer}", text, ("self_attn", "encoder_attn"))
    return shapes


def _layer(prefix: str, width: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = _norm(f"{prefix}.final_layer_norm", width)
    shapes |= {f"{prefix}.fc1.weight": (4 * width, width), f"{prefix}.fc1.bias": (4 * width,)}
    shapes |= {f"{prefix}.fc2.weight": (width, 4 * width), f"{prefix}.fc2.bias": (width,)}
    for attention in attentions:
        shapes |= _norm(f"{prefix}.{attention}_layer_norm", width)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.{attention}.{projection}.weight"] = (width, width)
            if projection != "k_proj":
                shapes[f"{prefix}.{attention}.{projection}.bias"] = (width,)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
