"""A rank's share of each layer: its sizes, and the bytes that kernels keep of it.

Arithmetic on the sizes of the model, without tensors. All figures are for the first rank of a
tensor-parallel group, whose share is the largest.
"""

from dataclasses import dataclass

import torch

from engine.config import ModelDimensions
from engine.kernels import native, native_builds
from engine.kernels.linear import has_fast_int8
from engine.kernels.onednn import has_onednn_bfloat16
from engine.parallel.partition import partition
from engine.parallel.stages import Stage, check_tensor_parallel
from engine.precision import CrossAttentionMode, NumberFormats, Offload, WeightFormat
from engine.weights.source import WORTH_QUANTISING

_INT8_EXTRA_BYTES = 12
"""Per output of an 8-bit layer: scale, sum of weights and bias. oneDNN has a zero point too."""
_NATIVE_COLUMNS = 32
"""Native kernels pad outputs to a multiple of this, and the frames of an 8-bit cross-attention
cache to twice as many."""
_FP8_STEP = 16
"""In 8-bit floating point, outputs and inputs are padded to a multiple of this."""
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class LinearShare:
    """A rank's slice of a linear layer.

    Attributes:
        is_partial: whether the ranks' results are summed, and the bias added after that.
        kept: how its weights are stored.
    """

    n_out: int
    n_in: int
    has_bias: bool = True
    is_partial: bool = False
    kept: WeightFormat = WeightFormat.PLAIN

    @property
    def n_values(self) -> int:
        return self.n_out * self.n_in

    def n_bytes(self, formats: NumberFormats) -> int:
        """Bytes that are kept of it, and that a step reads."""
        return self._kernel_bytes(formats) + self.is_partial * self.n_out * formats.dtype.itemsize

    def temporary_bytes(self, formats: NumberFormats, many_rows: bool) -> int:
        """Bytes that its product needs beside its input and output: weights in 16 bits for the rows
        of windows, and on a GPU also for those of tokens; weights in float32 on a CPU that
        multiplies neither bfloat16 nor integers."""
        if self.kept not in (WeightFormat.INT8, WeightFormat.INT4):
            return self.n_values * 4 * self._is_widened(formats, many_rows)
        on_cpu = is_bfloat16_on_cpu(formats)
        copies = 3 if self.kept is WeightFormat.INT4 else 1
        is_copied = many_rows or not on_cpu
        return is_copied * copies * self.n_values * formats.product.itemsize

    def _is_widened(self, formats: NumberFormats, many_rows: bool) -> bool:
        if not is_bfloat16_on_cpu(formats) or is_native(formats):
            return False
        if self.kept is WeightFormat.INT8_DYNAMIC:
            return not has_fast_int8()
        return many_rows and not has_onednn_bfloat16()

    def _kernel_bytes(self, formats: NumberFormats) -> int:
        """Bytes in the kernels of `engine.kernels`; oneDNN's own padding is not known."""
        bias = self.has_bias and not self.is_partial
        product = formats.product.itemsize
        if self.kept is WeightFormat.INT8_DYNAMIC:
            return self._int8_dynamic_bytes(formats)
        if self.kept is WeightFormat.INT8:
            return self.n_out * (self.n_in + (1 + bias) * product)
        if self.kept is WeightFormat.INT4:
            n_groups = -(-self.n_in // formats.group_size)
            of_group = formats.group_size // 2 + 2 * product
            return self.n_out * (n_groups * of_group + bias * product)
        if self.kept is WeightFormat.FP8:
            n_out, n_in = padded(self.n_out, _FP8_STEP), padded(self.n_in, _FP8_STEP)
            return n_out * (n_in + _SCALE_BYTES) + bias * self.n_out * formats.dtype.itemsize
        if is_native(formats) and self.n_in % 32 == 0:
            return padded(self.n_out) * (2 * self.n_in + 4)
        # On a GPU nothing is padded; these are a vocabulary's last rows.
        n_out = padded(self.n_out) if is_packed_float32(formats) else self.n_out
        return n_out * (self.n_in + bias) * product

    def _int8_dynamic_bytes(self, formats: NumberFormats) -> int:
        if is_native(formats) and self.n_in % 4 == 0:
            return padded(self.n_out) * (self.n_in + _INT8_EXTRA_BYTES)
        zero_point = 4 * (is_bfloat16_on_cpu(formats) and has_fast_int8())
        return self.n_out * (self.n_in + _INT8_EXTRA_BYTES + zero_point)


@dataclass(frozen=True, slots=True)
class LayerShare:
    """A rank's share of each layer of the encoder or of the decoder.

    Attributes:
        heads: the rank's heads, `columns` wide together.
        hidden: the rank's hidden units of the MLP.
    """

    formats: NumberFormats
    is_encoder: bool
    is_partial: bool
    width: int
    heads: int
    columns: int
    hidden: int

    @classmethod
    def of(
        cls, width: int, n_head: int, size: int, formats: NumberFormats, is_encoder: bool
    ) -> "LayerShare":
        heads = largest(n_head, size)
        columns, hidden = heads * (width // n_head), largest(4 * width, size)
        return cls(formats, is_encoder, size > 1, width, heads, columns, hidden)

    @property
    def linears(self) -> list[LinearShare]:
        """The linear layers that every row passes through, without those that fill the
        cross-attention."""
        kept = self._kept
        out = LinearShare(self.width, self.columns, is_partial=self.is_partial, kept=kept)
        attention = [LinearShare(3 * self.columns, self.width, kept=kept), out]
        query = LinearShare(self.columns, self.width, kept=kept)
        cross = [] if self.is_encoder else [query, out]
        return [*attention, *cross, *self._mlp()]

    @property
    def is_absorbed(self) -> bool:
        return self.formats.cross is CrossAttentionMode.ABSORBED

    @property
    def cross_kv(self) -> LinearShare:
        """The projection of a window to keys and values, if those are stored."""
        return LinearShare(2 * self.columns, self.width, kept=self._kept)

    @property
    def weight_bytes(self) -> int:
        """Bytes of one layer's weights."""
        n_norms = 2 if self.is_encoder else 3
        n_bytes = n_norms * self.norm_bytes + sum(x.n_bytes(self.formats) for x in self.linears)
        return n_bytes if self.is_encoder else n_bytes + self._cross_bytes()

    @property
    def norm_bytes(self) -> int:
        return 2 * self.width * self.formats.dtype.itemsize

    @property
    def absorbed_bytes(self) -> int:
        """Bytes of the two absorbed projections, in the number format of products."""
        return 2 * self.columns * self.width * self.formats.product.itemsize

    def _cross_bytes(self) -> int:
        if self.is_absorbed:
            return self.absorbed_bytes + self.columns * self.formats.product.itemsize
        return self.cross_kv.n_bytes(self.formats)

    @property
    def _kept(self) -> WeightFormat:
        """How layers other than MLPs store weights; 8-bit activations are for MLPs alone."""
        kept = self.formats.weights
        return WeightFormat.PLAIN if kept is WeightFormat.INT8_DYNAMIC else kept

    def _mlp(self) -> list[LinearShare]:
        kept = self.formats.weights
        worth = self.is_encoder or is_native(self.formats)
        if kept is WeightFormat.INT8_DYNAMIC and not worth:
            kept = kept if self.hidden * self.width >= WORTH_QUANTISING else WeightFormat.PLAIN
        return [
            LinearShare(self.hidden, self.width, kept=kept),
            LinearShare(self.width, self.hidden, is_partial=self.is_partial, kept=kept),
        ]


@dataclass(frozen=True, slots=True)
class RankShare:
    """The first rank's share of a stage's part of the model.

    Attributes:
        size: ranks that share each layer.
        offload: which layers the device holds only two at a time.
    """

    dims: ModelDimensions
    stage: Stage
    formats: NumberFormats
    size: int
    encoder: LayerShare
    decoder: LayerShare
    output: LinearShare
    offload: Offload = Offload.NONE

    @classmethod
    def of(
        cls,
        dims: ModelDimensions,
        stage: Stage,
        size: int,
        formats: NumberFormats,
        offload: Offload = Offload.NONE,
    ) -> "RankShare":
        """
        Raises:
            ShardingError: there are more ranks than heads.
        """
        check_tensor_parallel(dims, size)
        return cls(
            dims,
            stage,
            formats,
            size,
            LayerShare.of(dims.n_audio_state, dims.n_audio_head, size, formats, is_encoder=True),
            LayerShare.of(dims.n_text_state, dims.n_text_head, size, formats, is_encoder=False),
            _output(dims, size, formats),
            offload,
        )

    @property
    def has_stem(self) -> bool:
        return bool(self.stage.encoder) and self.stage.encoder.start == 0

    @property
    def embeds(self) -> bool:
        return bool(self.stage.decoder) and self.stage.decoder.start == 0

    @property
    def gives_logits(self) -> bool:
        return bool(self.stage.decoder) and self.stage.decoder.stop == self.dims.n_text_layer

    @property
    def is_whole(self) -> bool:
        return self.stage == Stage.whole(self.dims)

    @property
    def streams_encoder(self) -> bool:
        return self.offload is not Offload.NONE

    @property
    def streams_decoder(self) -> bool:
        return self.offload is Offload.ALL

    @property
    def encoder_bytes(self) -> int:
        """Bytes of encoder layers on the device, and of what goes before and after them."""
        n_layers = _resident(len(self.stage.encoder), self.streams_encoder)
        n_bytes = n_layers * self.encoder.weight_bytes
        if self.has_stem:
            positions = self.dims.n_audio_ctx * self.dims.n_audio_state
            n_bytes += self.stem_bytes + positions * self.formats.dtype.itemsize
        is_last = self.stage.encoder and self.stage.encoder.stop == self.dims.n_audio_layer
        return n_bytes + (self.encoder.norm_bytes if is_last else 0)

    @property
    def decoder_bytes(self) -> int:
        """Bytes of decoder layers on the device, embeddings and the output layer."""
        n_bytes = self.decoder_layer_bytes
        if self.embeds or self.gives_logits:
            n_bytes += self.table_bytes + self.output_copy_bytes
        if self.embeds:
            n_bytes += self.dims.n_text_ctx * self.dims.n_text_state * self.formats.dtype.itemsize
        return n_bytes + self.gives_logits * self.decoder.norm_bytes

    @property
    def decoder_layer_bytes(self) -> int:
        """Bytes of the decoder layers alone."""
        n_layers = _resident(len(self.stage.decoder), self.streams_decoder)
        return n_layers * self.decoder.weight_bytes

    @property
    def stem_bytes(self) -> int:
        """Two convolutions of 3 taps, the same on every rank."""
        width = self.dims.n_audio_state
        values = width * (3 * self.dims.n_mels + 1) + width * (3 * width + 1)
        return values * self.formats.product.itemsize

    @property
    def table_bytes(self) -> int:
        """Bytes of the embeddings; packed float32 weights of the output layer are them, too."""
        if is_packed_float32(self.formats):
            return self.output.n_bytes(self.formats)
        return self.output.n_values * self.formats.product.itemsize

    @property
    def output_copy_bytes(self) -> int:
        """Bytes of the output layer in its kernel's layout, in addition to the table of embeddings:
        in bfloat16 on a CPU that has kernels for it."""
        packs = is_native(self.formats) or has_onednn_bfloat16()
        if not (is_bfloat16_on_cpu(self.formats) and packs):
            return 0
        # A second copy of the scales of 8-bit logits, used to compute some of them again.
        is_int8 = self.output.kept is WeightFormat.INT8_DYNAMIC
        return self.output.n_bytes(self.formats) + 4 * self.output.n_out * is_int8

    @property
    def position_bytes(self) -> int:
        """Bytes of a token's key and value in one layer."""
        columns = self.decoder.columns
        if self.formats.int8_self:
            return 2 * (columns + self.decoder.heads * _SCALE_BYTES)
        return 2 * columns * self.formats.dtype.itemsize

    @property
    def cross_bytes(self) -> int:
        """Bytes of a window's keys and values in one layer; 0 if the encoder's output replaces
        them."""
        share, length = self.decoder, self.dims.n_audio_ctx
        if share.is_absorbed:
            return 0
        if self.formats.cross is CrossAttentionMode.CACHED:
            return 2 * length * share.columns * self.formats.product.itemsize
        frames = padded(length, 2 * _NATIVE_COLUMNS) if self.has_native_cross else length
        return 2 * frames * (share.columns + share.heads * _SCALE_BYTES)

    @property
    def state_bytes(self) -> int:
        """Bytes of the encoder's output for a window, if it is stored once for all layers."""
        if not (self.decoder.is_absorbed and self.stage.decoder):
            return 0
        return self.dims.n_audio_ctx * self.dims.n_audio_state * self.formats.product.itemsize

    @property
    def has_native_cross(self) -> bool:
        """Whether native kernels store 8-bit keys and values of windows."""
        is_known = self.dims.head_dim == native.HEAD_DIM
        return is_native(self.formats) and is_known and self.dims.n_audio_ctx <= native.MAX_LENGTH


def _output(dims: ModelDimensions, size: int, formats: NumberFormats) -> LinearShare:
    """A rank's part of the output layer; only native kernels quantise it."""
    in_8_bits = formats.weights is WeightFormat.INT8_DYNAMIC
    fits = is_native(formats) and dims.n_text_state % 32 == 0
    kept = WeightFormat.INT8_DYNAMIC if in_8_bits and fits else WeightFormat.PLAIN
    return LinearShare(largest(dims.n_vocab, size), dims.n_text_state, has_bias=False, kept=kept)


def _resident(n_layers: int, streamed: bool) -> int:
    return min(n_layers, 2) if streamed else n_layers


def largest(total: int, size: int) -> int:
    """The first, and largest, of `size` parts."""
    return len(partition(total, size)[0])


def padded(n: int, step: int = _NATIVE_COLUMNS) -> int:
    return n + -n % step


def is_bfloat16_on_cpu(formats: NumberFormats) -> bool:
    """Whether a CPU multiplies in bfloat16. Only then do layers pass on another format than they
    multiply (`Precision.formats`)."""
    return formats.product == torch.bfloat16 and formats.dtype == torch.float32


def is_native(formats: NumberFormats) -> bool:
    return is_bfloat16_on_cpu(formats) and native_builds.serves(torch.device("cpu"))


def is_packed_float32(formats: NumberFormats) -> bool:
    """Whether native kernels multiply in float32. The formats of a GPU look the same; that it
    packs nothing makes its weights some KB smaller than is then computed."""
    is_float32 = formats.product == formats.dtype == torch.float32
    return is_float32 and native_builds.serves(torch.device("cpu"))
