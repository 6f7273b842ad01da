"""Sizes of the published models, by openai/whisper's names (`whisper/__init__.py`, `_MODELS`)."""

from dataclasses import replace

from engine.config import ModelDimensions


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
MODEL_SIZES = {
    "tiny": _sizes(384, 4, 6),
    "base": _sizes(512, 6, 8),
    "small": _sizes(768, 12, 12),
    "medium": _sizes(1024, 24, 16),
    "large-v2": _LARGE_V2,
    "large-v3": LARGE_V3,
    "turbo": replace(LARGE_V3, n_text_layer=4),
    "distil-large-v3.5": replace(LARGE_V3, n_text_layer=2),
}
"""English-only models of the same names have one token less."""


def short_name(name: str) -> str:
    """A published model's, such as `turbo` of `openai/whisper-large-v3-turbo`; others as they
    are."""
    short = name.removeprefix("demo:").removeprefix("openai/whisper-")
    return short.removeprefix("distil-whisper/").removeprefix("large-v3-")


def known_sizes(name: str) -> ModelDimensions | None:
    """Of a published model by its short name, its hub id or as a demo model, without a file of it;
    None for all others."""
    short = short_name(name)
    if short.endswith(".en"):
        sizes = MODEL_SIZES.get(short.removesuffix(".en"))
        return sizes and replace(sizes, n_vocab=sizes.n_vocab - 1)
    return MODEL_SIZES.get(short)
