"""Sizes of the published models, by their names (engine/weights/names.py)."""

from dataclasses import replace

from engine.config import ModelDimensions
from engine.weights.names import short_name


def _sizes(width: int, layers: int, heads: int) -> ModelDimensions:
    return ModelDimensions(
        n_mels=80,
        n_vocab=51_865,
        n_audio_ctx=1500,
        n_audio_state=width,
        n_audio_head=heads,
        n_audio_layer=layers,
        n_text_ctx=448,
        n_text_state=width,
        n_text_head=heads,
        n_text_layer=layers,
    )


_LARGE_V2 = _sizes(1280, 32, 20)
LARGE_V3 = replace(_LARGE_V2, n_mels=128, n_vocab=51_866)
_SMALL = _sizes(768, 12, 12)
_MEDIUM = _sizes(1024, 24, 16)
MODEL_SIZES = {
    "tiny": _sizes(384, 4, 6),
    "base": _sizes(512, 6, 8),
    "small": _SMALL,
    "medium": _MEDIUM,
    "large-v1": _LARGE_V2,
    "large-v2": _LARGE_V2,
    "large-v3": LARGE_V3,
    "turbo": replace(LARGE_V3, n_text_layer=4),
    "distil-small.en": replace(_SMALL, n_text_layer=4, n_vocab=_SMALL.n_vocab - 1),
    "distil-medium.en": replace(_MEDIUM, n_text_layer=2, n_vocab=_MEDIUM.n_vocab - 1),
    "distil-large-v2": replace(_LARGE_V2, n_text_layer=2),
    "distil-large-v3": replace(LARGE_V3, n_text_layer=2),
    "distil-large-v3.5": replace(LARGE_V3, n_text_layer=2),
}
"""Those of OpenAI's English-only models are those of the others, with one token less."""


def known_sizes(name: str) -> ModelDimensions | None:
    """Of a published model by any of its names, without a file of it; None for all others."""
    short = short_name(name)
    if short in MODEL_SIZES:
        return MODEL_SIZES[short]
    sizes = MODEL_SIZES.get(short.removesuffix(".en"))
    return sizes and replace(sizes, n_vocab=sizes.n_vocab - 1)
