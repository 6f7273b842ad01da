"""A model's folder with random weights and real tokens, which learns in seconds."""

from dataclasses import replace
from pathlib import Path

from engine import Checkpoint, ModelDimensions
from engine.weights.random import RandomSource
from training.export import Origin, export

SMALL = ModelDimensions(
    n_mels=80,
    n_vocab=51_864,
    n_audio_ctx=1500,
    n_audio_state=32,
    n_audio_head=2,
    n_audio_layer=2,
    n_text_ctx=448,
    n_text_state=32,
    n_text_head=2,
    n_text_layer=2,
)


def small_checkpoint(tiny: Checkpoint) -> Checkpoint:
    """Random weights of small sizes behind the tokenizer of tiny.en."""
    heads = ((1, 0), (1, 1))
    return replace(tiny, dims=SMALL, source=RandomSource(SMALL), alignment_heads=heads)


def write_small_model(tiny: Checkpoint, folder: Path) -> Path:
    base = small_checkpoint(tiny)
    export(base, base.source, Origin("random", "0", 0, 0.0, {}, {}, "", {}), folder)
    return folder
