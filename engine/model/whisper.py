"""The parts of a Whisper model that one rank holds."""

from dataclasses import dataclass, replace

import torch

from engine.config import ModelDimensions
from engine.model.decoder import DecoderStage
from engine.model.encoder import EncoderStage
from engine.model.layer_stack import tensors_of
from engine.parallel.group import Group
from engine.parallel.stages import Stage
from engine.precision import NumberFormats, Offload
from engine.weights.adapters import Adapter
from engine.weights.source import LoadContext, WeightSource


@dataclass(frozen=True)
class Whisper:
    """A stage's modules; None if the stage has no layer of that kind."""

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
        offload: Offload = Offload.NONE,
        adapters: tuple[Adapter, ...] = (),
    ) -> "Whisper":
        """Read this rank's slices of this stage's layers, and nothing else."""
        context = LoadContext(source, group, device, formats, adapters=adapters)
        of_encoder = replace(context, streams=offload is not Offload.NONE)
        of_decoder = replace(context, streams=offload is Offload.ALL)
        return cls(
            EncoderStage(of_encoder, dims, stage.encoder).eval() if stage.encoder else None,
            DecoderStage(of_decoder, dims, stage.decoder).eval() if stage.decoder else None,
        )

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights on the device as stored; shared ones count once. oneDNN's own
        padding is not included."""
        tensors = [x for part in (self.encoder, self.decoder) if part for x in tensors_of(part)]
        opaque = [tensor for tensor in tensors if tensor.is_mkldnn]
        storages = [tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn]
        by_address = {storage._cdata: storage.nbytes() for storage in storages}
        return sum(by_address.values()) + sum(t.numel() * t.itemsize for t in opaque)
