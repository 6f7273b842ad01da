"""The audio encoder, or the contiguous part of it that a pipeline stage holds."""

import torch
from torch import nn
from torch.nn import functional as F

from engine.config import ModelDimensions
from engine.kernels.convolution import convolve
from engine.model.attention import EncoderSelfAttention
from engine.model.layer_stack import stack_layers
from engine.model.layers import MLP, LayerNorm
from engine.parallel.low_rank import Chosen
from engine.weights.source import LoadContext


class ConvStem(nn.Module):
    """(B, n_mels, 2 T) -> (B, T, n_audio_state): two convolutions and the positions. T is 1500, or
    less for short windows."""

    def __init__(self, context: LoadContext) -> None:
        super().__init__()
        dtype = context.formats.product
        self.conv1_weight = context.parameter("encoder.conv1.weight", dtype)
        self.conv1_bias = context.parameter("encoder.conv1.bias", dtype)
        self.conv2_weight = context.parameter("encoder.conv2.weight", dtype)
        self.conv2_bias = context.parameter("encoder.conv2.bias", dtype)
        self.positions = context.parameter("encoder.embed_positions.weight")

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        mel = mel.to(self.conv1_weight.dtype)
        x = F.gelu(convolve(mel, self.conv1_weight, self.conv1_bias))
        x = F.gelu(convolve(x, self.conv2_weight, self.conv2_bias, stride=2))
        # Row by row in memory: the sum of a transposed tensor would be transposed too, and with it
        # all that the layers add to it.
        out = x.new_empty(len(x), x.shape[2], x.shape[1])
        return torch.add(x.transpose(1, 2), self.positions[: out.shape[1]], out=out)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP, each added to its input."""

    def __init__(self, context: LoadContext, dims: ModelDimensions, index: int) -> None:
        super().__init__()
        prefix = f"encoder.layers.{index}"
        head_dim = dims.n_audio_state // dims.n_audio_head
        self.attn_norm = LayerNorm(context, f"{prefix}.self_attn_layer_norm")
        self.attn = EncoderSelfAttention(
            context,
            f"{prefix}.self_attn",
            dims.n_audio_head,
            head_dim,
            context.formats.product,
            many_rows=True,
        )
        self.mlp_norm = LayerNorm(context, f"{prefix}.final_layer_norm")
        self.mlp = MLP(context, prefix)

    def forward(self, x: torch.Tensor, adapters: Chosen = None) -> torch.Tensor:
        normed = self.mlp_norm.of_sum(x, self.attn(self.attn_norm(x), adapters))
        return x.add_(self.mlp(normed, adapters))


class EncoderStage(nn.Module):
    """Encoder layers `layers`; the first stage has the convolutions, the last the final norm."""

    def __init__(self, context: LoadContext, dims: ModelDimensions, layers: range) -> None:
        super().__init__()
        self.stem = ConvStem(context) if layers.start == 0 else None
        made = (EncoderLayer(context, dims, index) for index in layers)
        self.layers = stack_layers(made, context.device, context.streams)
        is_last = layers.stop == dims.n_audio_layer
        self.norm = LayerNorm(context, "encoder.layer_norm") if is_last else None

    def forward(
        self, x: torch.Tensor, layers: range | None = None, adapters: Chosen = None
    ) -> torch.Tensor:
        """Mel (B, n_mels, 2 T) in the first stage, else the stage before's output
        (B, T, n_audio_state) -> (B, T, n_audio_state). T is 1500, or less for short windows.

        Args:
            layers: which of the stage's layers to run, counted from its first; those before them
                have run already. All by default.
            adapters: the number of the windows' adapter, the same for all of them.
        """
        todo = range(len(self.layers)) if layers is None else layers
        if self.stem is not None and todo.start == 0:
            x = self.stem(x)
        for layer in self.layers.run(todo):
            x = layer(x, adapters)
        if self.norm is not None and todo.stop == len(self.layers):
            x = self.norm(x)
        return x
