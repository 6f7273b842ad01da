"""The model that learns: which weights do, in which formats, and what it has learnt.

transformers' modules do the arithmetic; this module loads our checkpoints into them, freezes and
adds what the settings say, and gives the result back as a `WeightSource` that the engine reads.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint as checkpointed

from engine import Checkpoint
from engine.weights.source import Rows, WeightSource
from training.labels import IGNORED
from training.settings import EncoderMode, FinetuneSettings, Method, TrainingPrecision
from training.transformers_model import transformers_model

_ADAPTER = "default"


class Learner(nn.Module):
    """Whisper with a loss.

    Args:
        checkpoint: what it begins with.
        device: where it computes.
    """

    def __init__(
        self, checkpoint: Checkpoint, settings: FinetuneSettings, device: torch.device
    ) -> None:
        super().__init__()
        self.whisper = transformers_model(checkpoint)
        # The padding token is an ordinary one, "!" or the end: it learns like all others.
        self.whisper.model.decoder.embed_tokens.padding_idx = None
        self._checkpoint = checkpoint
        self._precision = settings.precision
        self._encoder_learns = settings.encoder is EncoderMode.TRAINED
        self._choose_what_learns(settings)
        if settings.checkpoint_activations:
            self._checkpoint_activations()
        self.to(device)
        self.train()

    def forward(
        self, mel: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The sum of the losses of all tokens that are learnt, a scalar in float32.

        Args:
            mel: (batch, n_mels, 3000).
            inputs, labels: (batch, n_positions).
        """
        with self.autocast(mel.device):
            with nullcontext() if self._encoder_learns else torch.no_grad():
                features = self.whisper.model.encoder(mel).last_hidden_state
            hidden = self.whisper.model.decoder(
                input_ids=inputs, encoder_hidden_states=features, use_cache=False
            ).last_hidden_state
            # Logits are the largest tensor of all: only those that count are computed.
            learnt = labels != IGNORED
            logits = self.whisper.proj_out(hidden[learnt])
            loss: torch.Tensor = cross_entropy(logits.float(), labels[learnt], reduction="sum")
            return loss

    def autocast(self, device: torch.device) -> torch.autocast:
        """The number format of products on the device."""
        dtype = {
            TrainingPrecision.BFLOAT16: torch.bfloat16,
            TrainingPrecision.FLOAT16: torch.float16,
        }.get(self._precision)
        return torch.autocast(device.type, dtype, enabled=dtype is not None)

    def learnt(self) -> dict[str, nn.Parameter]:
        """Weights that learn, by their names in the modules."""
        named = self.whisper.named_parameters()
        return {name: weight for name, weight in named if weight.requires_grad}

    def load_learnt(self, state: dict[str, torch.Tensor]) -> None:
        """Set the weights that learn."""
        own = self.learnt()
        assert own.keys() == state.keys()
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(state[name])

    def source(self) -> "LearntSource":
        """The model's present weights as the engine reads them."""
        return LearntSource(self._checkpoint.source, self.whisper)

    def additions(self) -> dict[str, torch.Tensor]:
        """Matrices of low rank that learn, float32 on the CPU, by their names in PEFT's files."""
        return {
            f"base_model.model.{name.replace(f'.{_ADAPTER}.', '.')}": weight.detach().float().cpu()
            for name, weight in self.learnt().items()
            if "lora_" in name
        }

    def _choose_what_learns(self, settings: FinetuneSettings) -> None:
        if settings.method is Method.LORA:
            self.whisper.requires_grad_(False)
            inject_adapter_in_model(lora_config(settings), self.whisper, _ADAPTER)
        if not self._encoder_learns:
            self.whisper.model.encoder.requires_grad_(False)
        self._shorten_frozen(settings.precision)

    def _shorten_frozen(self, precision: TrainingPrecision) -> None:
        """Keep matrices that do not learn in the format in which they are multiplied."""
        dtype = getattr(torch, precision.value)
        for name, weight in self.whisper.named_parameters():
            if not weight.requires_grad and weight.dim() > 1 and "embed_positions" not in name:
                weight.data = weight.data.to(dtype)

    def _checkpoint_activations(self) -> None:
        """Wrap each layer. Not by transformers' own switch, whose name changes in every version."""
        for layer in _layers(self.whisper):
            layer.forward = partial(checkpointed, layer.forward, use_reentrant=False)


def _layers(whisper: Any) -> Iterator[nn.Module]:
    yield from whisper.model.encoder.layers
    yield from whisper.model.decoder.layers


def lora_config(settings: FinetuneSettings) -> LoraConfig:
    """Without a task type: those of peft wrap a forward that takes text, not sound."""
    names = "|".join(settings.lora.layers)
    side = "(encoder|decoder)" if settings.encoder is EncoderMode.TRAINED else "decoder"
    return LoraConfig(
        r=settings.lora.rank,
        lora_alpha=cast(int, settings.lora.alpha),
        lora_dropout=settings.lora.dropout,
        target_modules=rf"model\.{side}\.layers\..*\.({names})",
    )


class LearntSource:
    """A checkpoint's tensors with what was learnt in them; additions are merged as they are read.

    It reads the modules' present weights, so it is to be used before they change again.
    """

    def __init__(self, base: WeightSource, whisper: nn.Module) -> None:
        self._base = base
        self._learnt = {
            name.removeprefix("model."): weight
            for name, weight in whisper.named_parameters()
            if weight.requires_grad and "lora_" not in name
        }
        self._additions = {
            f"{name.removeprefix('model.')}.weight": module
            for name, module in whisper.named_modules()
            if isinstance(module, LoraLayer)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._base

    def shape(self, name: str) -> tuple[int, ...]:
        return self._base.shape(name)

    def read(self, name: str, rows: Rows = None, columns: Rows = None) -> torch.Tensor:
        if name in self._learnt:
            tensor = self._learnt[name].detach()
        elif name in self._additions:
            tensor = self._base.read(name).float() + self._addition(name)
        else:
            return self._base.read(name, rows, columns)
        tensor = tensor.cpu()[rows or slice(None)]
        return tensor if columns is None else tensor[:, columns]

    def release(self) -> None:
        self._base.release()

    @torch.no_grad()
    def _addition(self, name: str) -> torch.Tensor:
        module = cast(Any, self._additions[name])
        added: torch.Tensor = module.get_delta_weight(_ADAPTER)
        return added.float().cpu()
