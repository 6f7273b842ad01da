"""How much of a device's memory a model needs, by kind: arithmetic on its sizes, without tensors.

All figures are for the first rank of a stage, whose share is the largest. Activations are the most
that are alive at once; the rounding of allocators comes on top.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch

from engine.kernels import native_builds
from engine.kernels.convolution import convolution_dtype
from engine.model.slots import COPIED_ROWS
from engine.parallel.adapter_shares import adapter_bytes, adapter_peak_bytes
from engine.parallel.shares import (
    LayerShare,
    LinearShare,
    RankShare,
    is_bfloat16_on_cpu,
    is_native,
    is_packed_float32,
)
from engine.precision import CrossAttentionMode, WeightFormat
from engine.weights.adapters import Adapter

_LOG_MEL_BYTES = 30_000_000
"""A window's waveform, its overlapping frames, their spectrum and power, and the buffers of the
Fourier transform; measured on a CPU."""
_FP8_HIDDEN_BYTES = 12
"""Per hidden unit in 8-bit floating point: 16 bits, a copy, float32, scaled, and 8 bits."""
_INT8_HIDDEN_BYTES = 14
"""Per hidden unit that torch quantises: bfloat16, and float32 as it was, scaled and shifted."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a rank works on at once.

    Attributes:
        n_slots: sequences in all groups together.
        n_groups: batches that take turns.
        max_length: positions of a self-attention slot.
        encode_batch: windows encoded, or prompts run, as one batch.
        n_encoders: how many such batches run at once.
        prompt_length: the most positions of a prompt (`longest_prompt`).
        loads_here: loading uses the device's own memory, because it is the host's.
    """

    n_slots: int
    max_length: int
    encode_batch: int
    n_groups: int = 1
    prompt_length: float = 4.0
    n_encoders: int = 1
    loads_here: bool = False

    @property
    def rows(self) -> float:
        """Sequences of a decoder step."""
        return self.n_slots / self.n_groups


@dataclass(frozen=True, slots=True)
class BytesByKind:
    """The base of dataclasses whose fields are bytes, a kind each."""

    @property
    def total(self) -> int:
        return sum(n_bytes for _, n_bytes in self.kinds())

    def kinds(self) -> Iterator[tuple[str, int]]:
        """Each kind by its name."""
        for field in fields(self):
            yield field.name, getattr(self, field.name)


@dataclass(frozen=True, slots=True)
class MemoryUse(BytesByKind):
    """Bytes that a rank uses on its device.

    Attributes:
        encoder_weights, decoder_weights: as loaded; embeddings and logits count as decoder.
        cross: keys and values of windows in all slots, or the encoder's output in their place.
        own: keys and values of tokens in all slots.
        activations: the peak of encoding and decoding at once, or what loading needs beyond what
            stays.
        runtime: what the device's libraries use before a model is loaded: a CUDA context, or on a
            CPU the process itself.
        adapters: what adapters add to the weights.
    """

    encoder_weights: int
    decoder_weights: int
    cross: int
    own: int
    activations: int
    runtime: int = 0
    adapters: int = 0

    @property
    def weights(self) -> int:
        return self.encoder_weights + self.decoder_weights

    @property
    def cache(self) -> int:
        return self.cross + self.own


def longest_prompt(max_length: int) -> int:
    """Positions of the longest prompt: previous text in half of a slot, and the start sequence."""
    return max_length // 2 + 4


def memory_use(
    share: RankShare, load: Load, runtime: int = 0, adapters: Sequence[Adapter] = ()
) -> MemoryUse:
    """What a rank with that share of the model needs for that load."""
    return MemoryUse(
        encoder_weights=share.encoder_bytes,
        decoder_weights=share.decoder_bytes,
        cross=_cross_bytes(share, load),
        own=_own_bytes(share, load),
        activations=_activation_bytes(share, load, adapters),
        runtime=runtime,
        adapters=adapter_bytes(share, adapters),
    )


def _cross_bytes(share: RankShare, load: Load) -> int:
    n_layers = len(share.stage.decoder)
    return load.n_slots * (n_layers * share.cross_bytes + share.state_bytes)


def _own_bytes(share: RankShare, load: Load) -> int:
    return load.n_slots * len(share.stage.decoder) * load.max_length * share.position_bytes


def _activation_bytes(share: RankShare, load: Load, adapters: Sequence[Adapter]) -> int:
    encoder = decoder = 0.0
    if share.stage.encoder:
        encoder = _encoder_peak_bytes(share, load)
        encoder += adapter_peak_bytes(share.encoder, _frames(share, load), adapters, "encoder")
    if share.stage.decoder:
        rows = max(load.rows, load.encode_batch * load.prompt_length)
        decoder = _decoder_peak_bytes(share, load)
        decoder += adapter_peak_bytes(share.decoder, rows, adapters, "decoder")
    states = _frames(share, load) * share.dims.n_audio_state * share.formats.dtype.itemsize
    # The thread that encodes a second batch is the one that decodes: it never does both at once.
    beside = max(decoder, encoder) if load.n_encoders > 1 else decoder
    running = encoder + beside + (0 if share.is_whole else 2 * states)
    return math.ceil(max(running, _loading_bytes(share, load) if load.loads_here else 0))


def _loading_bytes(share: RankShare, load: Load) -> int:
    """What loading the vocabulary's layer needs. It is the largest layer and a decoder's first. It
    takes most as read from the file, in 16 bits, or before it is packed, in 8 bits or float32. What
    is loaded or allocated after it does not exist yet, and is subtracted."""
    if not (share.embeds or share.gives_logits):
        return 0
    output = share.output
    in_8_bits = output.kept is WeightFormat.INT8_DYNAMIC
    unpacked = in_8_bits + torch.float32.itemsize * is_packed_float32(share.formats)
    n_bytes = max(output.n_values * torch.float16.itemsize - share.output_copy_bytes,
                  output.n_values * unpacked)  # fmt: skip
    return n_bytes - share.decoder_layer_bytes - _cross_bytes(share, load) - _own_bytes(share, load)


def _frames(share: RankShare, load: Load) -> int:
    """Frames of a batch of windows."""
    return load.encode_batch * share.dims.n_audio_ctx


def _encoder_peak_bytes(share: RankShare, load: Load) -> float:
    """Activations of a layer (its scores are computed in blocks and count as nothing) and the
    buffers that receive sums over ranks. Where encoding begins, also log-mel, and the convolutions'
    3000 frames before and after the GELU. These are added up, because the allocator keeps freed
    blocks in sizes that the next operation does not ask for."""
    frames = _frames(share, load)
    width = share.dims.n_audio_state
    peak = _layer_peak_bytes(share.encoder, frames, 0, many_rows=True)
    if share.size > 1:
        parts = 2 if share.size == 2 else 1
        peak += parts * frames * width * share.formats.dtype.itemsize
    if share.has_stem:
        product = share.formats.product
        dtype = convolution_dtype(product, is_bfloat16_on_cpu(share.formats))
        mel = 2 * share.dims.n_mels * (torch.float32.itemsize + dtype.itemsize)
        peak += frames * (mel + 4 * width * dtype.itemsize) + load.encode_batch * _LOG_MEL_BYTES
        if dtype != product:  # frames in both formats, and the weights again in oneDNN's layout
            peak += frames * width * (dtype.itemsize + 3 * product.itemsize)
            peak += 2 * 3 * width * width * dtype.itemsize
    return peak


def _decoder_peak_bytes(share: RankShare, load: Load) -> float:
    """The largest of three. Filling the cross-attention takes the encoder's output, and keys and
    values with a copy. A step or a prompt takes a layer's activations; a step also takes logits: as
    computed, and in float32 as returned, with noise, and two temporaries. A text whose words get
    times fills its slot, and counts as a prompt."""
    decoder, product = share.decoder, share.formats.product.itemsize
    fill = _frames(share, load) * decoder.width * share.formats.dtype.itemsize
    if not decoder.is_absorbed:
        fill += 4 * _frames(share, load) * decoder.columns * product
        fill += decoder.cross_kv.temporary_bytes(share.formats, many_rows=True)
    prompt_rows = max(load.encode_batch * load.prompt_length, load.max_length)
    prompt = _layer_peak_bytes(decoder, prompt_rows, share.dims.n_audio_ctx, many_rows=False)
    rows = max(load.rows, 2 * load.encode_batch)
    step = _layer_peak_bytes(decoder, rows, share.dims.n_audio_ctx, many_rows=False)
    step += _cache_copies(share, load) + _window_copies(share, load)
    if share.gives_logits:
        step += rows * share.output.n_out * (product + 4 * torch.float32.itemsize)
    return max(fill, step, prompt)


def _cache_copies(share: RankShare, load: Load) -> float:
    """The 16-bit copies of one layer's 8-bit keys and values that torch multiplies."""
    position = 2 * share.decoder.columns
    n_bytes = 0.0
    if share.formats.cross is CrossAttentionMode.CACHED_8BIT and not share.has_native_cross:
        n_bytes = share.dims.n_audio_ctx * position * share.formats.product.itemsize
    if share.formats.int8_self:
        n_bytes = max(n_bytes, load.max_length * position * share.formats.dtype.itemsize)
    return load.rows * n_bytes


def _window_copies(share: RankShare, load: Load) -> float:
    """The copies of windows that texts of beam searches attend to: of a layer's keys and values, or
    of the encoder's output."""
    if share.has_native_cross:
        return 0.0
    per_window = share.state_bytes or share.cross_bytes
    return min(load.rows, COPIED_ROWS) * per_window


def _layer_peak_bytes(share: LayerShare, rows: float, length: int, many_rows: bool) -> float:
    """A layer's activations: its input, the normalised input and what is added to it, plus the
    larger of two parts. Attention has q, k and v, a scaled q, the result before and after its heads
    are joined, and scores of `length` keys twice. Absorbed, it also has queries and results as wide
    as the model for each head. The MLP has the hidden units before and after the GELU, or while
    they are quantised."""
    formats = share.formats
    product = formats.product.itemsize
    attention = (6 * share.columns + 2 * share.heads * length) * product
    if share.is_absorbed and not share.is_encoder:
        attention += 3 * share.heads * share.width * product
    in_8_bits = formats.weights is WeightFormat.INT8_DYNAMIC
    hidden_bytes = _INT8_HIDDEN_BYTES if in_8_bits else 2 * product
    if is_native(formats) and not in_8_bits:
        hidden_bytes = product + native_builds.tile_itemsize()
    if formats.weights is WeightFormat.FP8:
        hidden_bytes = _FP8_HIDDEN_BYTES
    if in_8_bits and is_native(formats) and many_rows:
        hidden_bytes = 0  # they never leave a core's cache
    residual = 3 * share.width * formats.dtype.itemsize
    peak = rows * (residual + max(attention, share.hidden * hidden_bytes))
    return peak + max(_temporary(share, x, many_rows) for x in share.linears)


def _temporary(share: LayerShare, linear: LinearShare, many_rows: bool) -> int:
    return linear.temporary_bytes(share.formats, many_rows)
