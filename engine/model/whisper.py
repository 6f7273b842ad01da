"""The parts of a Whisper model that one rank holds."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from engine.config import ModelDimensions
from engine.kernels.linear import LinearKernel
from engine.model.decoder import DecoderStage
from engine.model.encoder import EncoderStage
from engine.parallel.group import Group
from engine.parallel.stages import Stage
from engine.precision import NumberFormats
from engine.weights.source import LoadContext, WeightSource


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

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights as they are kept, shared ones counted once. oneDNN's own padding is
        not shown."""
        modules = [m for part in (self.encoder, self.decoder) if part for m in part.modules()]
        tensors = [tensor for module in modules for tensor in _tensors(module)]
        opaque = [tensor for tensor in tensors if tensor.is_mkldnn]
        storages = [tensor.untyped_storage() for tensor in tensors if not tensor.is_mkldnn]
        by_address = {storage._cdata: storage.nbytes() for storage in storages}
        return sum(by_address.values()) + sum(t.numel() * t.itemsize for t in opaque)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
    if isinstance(module, LinearKernel):
        yield from module.hidden_tensors()
