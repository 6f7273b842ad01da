"""Whisper on torch: audio features, model, decoding and continuous batching.

It knows nothing of Ray, HTTP or audio files: int16 chunks of at most 30 s come in, and text goes
out with times relative to the chunk.
"""

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
