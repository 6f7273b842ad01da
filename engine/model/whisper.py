"""The parts of a Whisper model that one rank holds."""

from dataclasses import dataclass

import torch

from engine.config import ModelDimensions, NumberFormats
from engine.model.decoder import DecoderStage
from engine.model.encoder import EncoderStage
from engine.parallel.group import Group
from engine.weights.source import LoadContext, WeightSource


@dataclass(frozen=True)
class Stage:
    """The layers of a pipeline stage: a contiguous part of [encoder layers, decoder layers]."""

    encoder: range
    decoder: range

    @classmethod
    def whole(cls, dims: ModelDimensions) -> "Stage":
        return cls(range(dims.n_audio_layer), range(dims.n_text_layer))


@dataclass(frozen=True)
class Whisper:
    """A stage's modules; None where the stage has no layer of that kind."""

    encoder: EncoderStage | None
    decoder: DecoderStage | None

    @classmethod
    def load(
        cls,
        source: WeightSource,
        dims: ModelDimensions,
        stage: Stage,
        group: Group,
        device: torch.device,
        formats: NumberFormats,
    ) -> "Whisper":
        """Read this rank's slices of this stage's layers, and nothing else."""
        context = LoadContext(source, group, device, formats)
        return cls(
            EncoderStage(context, dims, stage.encoder).eval() if stage.encoder else None,
            DecoderStage(context, dims, stage.decoder).eval() if stage.decoder else None,
        )
