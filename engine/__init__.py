"""Whisper on torch: audio features, model, decoding and continuous batching.

It knows nothing of Ray, HTTP or audio files: int16 chunks of at most 30 s come in, and text goes
out with times relative to the chunk.

Names are imported when they are first used: who needs a chunk's type or a language's name does
without torch, which takes a second and 150 MB of each process.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.config import (
        N_SAMPLES,
        SAMPLE_RATE,
        EngineConfig,
        ModelDimensions,
    )
    from engine.decoding.languages import ALL_LANGUAGES, language_code, language_name
    from engine.engine import Engine
    from engine.errors import EngineError, ModelNotFoundError, RequestError, WeightsError
    from engine.precision import CrossAttentionMode, Offload, Precision, default_precision
    from engine.request import DecodingOptions, Request, Result, Segment, Word
    from engine.weights.checkpoint import Checkpoint, open_checkpoint
    from engine.weights.hub import DEMO_MODELS, resolve_model
    from engine.weights.names import PUBLISHED
    from engine.window import Window

__all__ = [
    "ALL_LANGUAGES",
    "DEMO_MODELS",
    "N_SAMPLES",
    "PUBLISHED",
    "SAMPLE_RATE",
    "Checkpoint",
    "CrossAttentionMode",
    "DecodingOptions",
    "Engine",
    "EngineConfig",
    "EngineError",
    "ModelDimensions",
    "ModelNotFoundError",
    "Offload",
    "Precision",
    "Request",
    "RequestError",
    "Result",
    "Segment",
    "WeightsError",
    "Window",
    "Word",
    "default_precision",
    "language_code",
    "language_name",
    "open_checkpoint",
    "resolve_model",
]

_HOMES = {
    "engine.config": (
        "N_SAMPLES",
        "SAMPLE_RATE",
        "EngineConfig",
        "ModelDimensions",
    ),
    "engine.decoding.languages": (
        "ALL_LANGUAGES",
        "language_code",
        "language_name",
    ),
    "engine.engine": ("Engine",),
    "engine.errors": (
        "EngineError",
        "ModelNotFoundError",
        "RequestError",
        "WeightsError",
    ),
    "engine.precision": (
        "CrossAttentionMode",
        "Offload",
        "Precision",
        "default_precision",
    ),
    "engine.request": (
        "DecodingOptions",
        "Request",
        "Result",
        "Segment",
        "Word",
    ),
    "engine.weights.checkpoint": (
        "Checkpoint",
        "open_checkpoint",
    ),
    "engine.weights.hub": (
        "DEMO_MODELS",
        "resolve_model",
    ),
    "engine.weights.names": ("PUBLISHED",),
    "engine.window": ("Window",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value
