"""What a pipeline stage costs in time and memory, and the cut of a model that evens it out.

Arithmetic on the sizes of the model: no tensors, no measurement. A time is a roofline (Williams et
al. 2009, doi:10.1145/1498765.1498785): what an operation computes or what it moves, whichever takes
longer; a multiplication with its addition is 2 FLOP. All is that of one rank, the first of its
tensor-parallel group, whose share is the largest. Norms, launches and transfers between ranks are
left out, and of memory what a device's runtime takes for itself.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.config import ModelDimensions, NumberFormats
from engine.kernels import native
from engine.parallel.partition import partition
from engine.parallel.stages import Stage, check_tensor_parallel, group_sizes

_INT8_FROM = 2_000_000
"""Values from which a decoder's MLP is quantised without native kernels (`LoadContext`)."""
_INT8_EXTRA_BYTES = 12
"""Of each output of an 8-bit layer: scale, sum of weights and bias. oneDNN has a zero point too."""
_NATIVE_COLUMNS = 32
"""Native kernels pad outputs to a multiple of this, and the frames of an 8-bit cross-attention
cache to twice as many."""
_LOG_MEL_BYTES = 30_000_000
"""Of a window's waveform, its overlapping frames, their spectrum and power, and the Fourier
transform's own; measured on a CPU."""
_INT8_HIDDEN_BYTES = 14
"""Of each hidden unit that torch quantises: bfloat16, and float32 as it was, scaled and shifted."""


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """What one rank's device can do: a GPU, or the CPU cores of a process.

    Attributes:
        flops_per_s: sustained, in the number format of products; 8-bit ones count the same.
        bytes_per_s: sustained, of its memory.
        memory_bytes: that may be used.
    """

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")

    def seconds(self, flops: float, n_bytes: float) -> float:
        """The roofline of one operation."""
        return max(flops / self.flops_per_s, n_bytes / self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded.

    Attributes:
        n_slots: sequences held at once, all of them busy.
        tokens_per_window: sampled, on average.
        prompt_tokens: of each window, on average.
        n_groups: batches that take turns, each of an equal part of the slots
            (`engine.parallel.stages.group_sizes`).
    """

    n_slots: int
    tokens_per_window: float = 100.0
    prompt_tokens: float = 4.0
    n_groups: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.n_groups <= self.n_slots:
            raise ValueError(
                f"n_slots must be at least 1 and a slot for each of n_groups, "
                f"got {self.n_slots} and {self.n_groups}"
            )
        if self.tokens_per_window < 0 or self.prompt_tokens < 0:
            raise ValueError("tokens_per_window and prompt_tokens must not be negative")

    @property
    def rows(self) -> float:
        """Sequences of a decoder step."""
        return self.n_slots / self.n_groups

    @property
    def mean_length(self) -> float:
        """Positions that a step reads of a sequence."""
        return self.prompt_tokens + self.tokens_per_window / 2


@dataclass(frozen=True, slots=True)
class StageCost:
    """Of one rank of a stage.

    Attributes:
        encode_s: of each window once: the stage's encoder layers, and, where it decodes, keys and
            values of cross-attention from the encoder's output.
        decode_s: of each window: its prompt, and its share of the decoder's steps.
        weight_bytes: as loaded.
        cache_bytes: keys and values of all slots.
        activation_bytes: at most, encoding and decoding at once; an estimate.
    """

    encode_s: float
    decode_s: float
    weight_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def window_s(self) -> float:
        """Seconds of the stage's device per window, at a full batch."""
        return self.encode_s + self.decode_s

    @property
    def memory_bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True)
class _Linear:
    """A rank's slice of a linear layer.

    Attributes:
        is_partial: the ranks' results are summed, and the bias added after that.
    """

    n_out: int
    n_in: int
    has_bias: bool = True
    is_partial: bool = False
    is_int8: bool = False

    def n_bytes(self, formats: NumberFormats) -> int:
        """What is kept of it, and what a step reads."""
        return self._kernel_bytes(formats) + self.is_partial * self.n_out * formats.dtype.itemsize

    def _kernel_bytes(self, formats: NumberFormats) -> int:
        """As the kernels of `engine.kernels.linear` keep it; oneDNN's own padding is not known."""
        is_native = _is_native(formats)
        if self.is_int8 and is_native and self.n_in % 4 == 0:
            return _padded(self.n_out) * (self.n_in + _INT8_EXTRA_BYTES)
        if self.is_int8:
            zero_point = 4 * _is_bfloat16_on_cpu(formats)
            return self.n_out * (self.n_in + _INT8_EXTRA_BYTES + zero_point)
        if is_native and self.n_in % 32 == 0:
            return _padded(self.n_out) * (2 * self.n_in + 4)
        has_bias = self.has_bias and not self.is_partial
        return self.n_out * (self.n_in + has_bias) * formats.product.itemsize


@dataclass(frozen=True, slots=True)
class _Share:
    """A rank's share of each layer of the encoder or of the decoder.

    Attributes:
        heads: of the rank, `columns` wide in all.
        hidden: units of the MLP.
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
    ) -> "_Share":
        heads = _largest(n_head, size)
        columns, hidden = heads * (width // n_head), _largest(4 * width, size)
        return cls(formats, is_encoder, size > 1, width, heads, columns, hidden)

    @property
    def linears(self) -> list[_Linear]:
        """Those that every row passes through: not the ones that fill the cross-attention."""
        out = _Linear(self.width, self.columns, is_partial=self.is_partial)
        attention = [_Linear(3 * self.columns, self.width), out]
        cross = [] if self.is_encoder else [_Linear(self.columns, self.width), out]
        return [*attention, *cross, *self._mlp()]

    @property
    def cross_kv(self) -> _Linear:
        return _Linear(2 * self.columns, self.width)

    @property
    def weight_bytes(self) -> int:
        """Of one layer."""
        n_norms = 2 if self.is_encoder else 3
        linears = self.linears if self.is_encoder else [*self.linears, self.cross_kv]
        return n_norms * self.norm_bytes + sum(x.n_bytes(self.formats) for x in linears)

    @property
    def norm_bytes(self) -> int:
        return 2 * self.width * self.formats.dtype.itemsize

    def peak_bytes(self, rows: float, length: int) -> float:
        """Of a layer's activations: its input, that normalised, and what is added to it, with the
        larger of two parts. Attention has q, k and v, a scaled q, the result before and after its
        heads are joined, and scores of `length` keys twice; the MLP the hidden units before and
        after the GELU, or while they are quantised."""
        formats = self.formats
        product = formats.product.itemsize
        attention = (6 * self.columns + 2 * self.heads * length) * product
        hidden_bytes = _INT8_HIDDEN_BYTES if formats.int8 else 2 * product
        residual = 3 * self.width * formats.dtype.itemsize
        return rows * (residual + max(attention, self.hidden * hidden_bytes))

    def _mlp(self) -> list[_Linear]:
        worth = self.is_encoder or _is_native(self.formats)
        is_int8 = self.formats.int8 and (worth or self.hidden * self.width >= _INT8_FROM)
        return [
            _Linear(self.hidden, self.width, is_int8=is_int8),
            _Linear(self.width, self.hidden, is_partial=self.is_partial, is_int8=is_int8),
        ]


@dataclass(frozen=True, slots=True)
class _Rank:
    """The first rank of a stage. Times are of a batch where not said to be of a window."""

    dims: ModelDimensions
    stage: Stage
    encoder: _Share
    decoder: _Share
    output: _Linear
    formats: NumberFormats
    device: DeviceModel
    workload: Workload
    max_length: int
    encode_batch: int
    size: int

    @property
    def has_stem(self) -> bool:
        return bool(self.stage.encoder) and self.stage.encoder.start == 0

    @property
    def embeds(self) -> bool:
        return bool(self.stage.decoder) and self.stage.decoder.start == 0

    @property
    def gives_logits(self) -> bool:
        return bool(self.stage.decoder) and self.stage.decoder.stop == self.dims.n_text_layer

    def weight_bytes(self) -> int:
        n_bytes = len(self.stage.encoder) * self.encoder.weight_bytes
        n_bytes += len(self.stage.decoder) * self.decoder.weight_bytes
        if self.has_stem:
            positions = self.dims.n_audio_ctx * self.dims.n_audio_state
            n_bytes += self._stem_bytes() + positions * self.formats.dtype.itemsize
        if self.stage.encoder and self.stage.encoder.stop == self.dims.n_audio_layer:
            n_bytes += self.encoder.norm_bytes
        if self.embeds or self.gives_logits:
            n_bytes += self._embedding_bytes()
        if self.embeds:
            n_bytes += self.dims.n_text_ctx * self.dims.n_text_state * self.formats.dtype.itemsize
        return n_bytes + self.gives_logits * self.decoder.norm_bytes

    def _stem_bytes(self) -> int:
        """Two convolutions of 3 taps, the same on every rank."""
        width = self.dims.n_audio_state
        values = width * (3 * self.dims.n_mels + 1) + width * (3 * width + 1)
        return values * self.formats.product.itemsize

    def _embedding_bytes(self) -> int:
        """The table; in bfloat16 on a CPU the output layer beside it, in its kernel's layout."""
        output = self.output
        n_bytes = output.n_out * output.n_in * self.formats.product.itemsize
        if _is_bfloat16_on_cpu(self.formats):
            # The scales of 8-bit logits are kept apart once more, to compute some of them again.
            n_bytes += output.n_bytes(self.formats) + 4 * output.n_out * output.is_int8
        return n_bytes

    def cache_bytes(self) -> int:
        slot = self.max_length * self._position_bytes() + self._cross_bytes()
        return len(self.stage.decoder) * self.workload.n_slots * slot

    def _position_bytes(self) -> int:
        """Of a token's key and value in one layer."""
        return 2 * self.decoder.columns * self.formats.dtype.itemsize

    def _cross_bytes(self) -> int:
        """Of a window's keys and values in one layer."""
        share, length = self.decoder, self.dims.n_audio_ctx
        is_known = self.dims.head_dim == native.HEAD_DIM and length <= native.MAX_LENGTH
        if self.formats.int8 and _is_native(self.formats) and is_known:
            scale_bytes = torch.float32.itemsize
            frames = _padded(length, 2 * _NATIVE_COLUMNS)
            return 2 * frames * share.heads * (native.HEAD_DIM + scale_bytes)
        return 2 * length * share.columns * self.formats.product.itemsize

    def activation_bytes(self) -> int:
        encoder = self._encoder_peak_bytes() if self.stage.encoder else 0.0
        decoder = self._decoder_peak_bytes() if self.stage.decoder else 0.0
        is_whole = self.stage == Stage.whole(self.dims)
        states = self._frames * self.dims.n_audio_state * self.formats.dtype.itemsize
        return math.ceil(encoder + decoder + (0 if is_whole else 2 * states))  # they come, or go

    def _encoder_peak_bytes(self) -> float:
        """A layer's, whose scores are blocked and count nothing, and what sums over ranks are
        received in; where encoding begins also log-mel, and the convolutions' 3000 frames before
        and after the GELU. All of these, not the greatest: an allocator keeps what the one has
        freed in sizes that the next does not ask for."""
        frames, product = self._frames, self.formats.product.itemsize
        width = self.dims.n_audio_state
        peak = self.encoder.peak_bytes(frames, 0)
        if self.size > 1:
            parts = 2 if self.size == 2 else 1
            peak += parts * frames * width * self.formats.dtype.itemsize
        if self.has_stem:
            mel = 2 * self.dims.n_mels * (torch.float32.itemsize + product)
            peak += frames * (mel + 4 * width * product) + self.encode_batch * _LOG_MEL_BYTES
        return peak

    def _decoder_peak_bytes(self) -> float:
        """Filling the cross-attention takes the encoder's output, and keys and values with a copy;
        a step or a prompt a layer's activations, and logits: as computed, and in float32 as given,
        with noise, and twice in passing."""
        share, product = self.decoder, self.formats.product.itemsize
        fill = self._frames * (
            share.width * self.formats.dtype.itemsize + 4 * share.columns * product
        )
        rows = max(self.workload.rows, 2 * self.encode_batch, self._prompt_rows)
        step = share.peak_bytes(rows, self.dims.n_audio_ctx)
        if self.gives_logits:
            step += rows * self.output.n_out * (product + 4 * torch.float32.itemsize)
        return max(fill, step)

    def encode_s(self) -> float:
        """Of a window."""
        seconds = len(self.stage.encoder) * self._encoder_layer_s()
        seconds += len(self.stage.decoder) * self._linear_s([self.decoder.cross_kv], self._frames)
        return (seconds + self.has_stem * self._stem_s()) / self.encode_batch

    def decode_s(self) -> float:
        """Of a window. The steps are as many as tokens: what the prompt's sampling saves, a step
        behind the end costs."""
        rows = self.workload.rows
        step_s = len(self.stage.decoder) * self._step_layer_s() + self._output_s(rows)
        prompt_s = len(self.stage.decoder) * self._prompt_layer_s()
        prompt_s += self._output_s(2 * self.encode_batch)  # at its start and at its end
        return self.workload.tokens_per_window * step_s / rows + prompt_s / self.encode_batch

    @property
    def _frames(self) -> int:
        return self.encode_batch * self.dims.n_audio_ctx

    @property
    def _prompt_rows(self) -> float:
        return self.encode_batch * self.workload.prompt_tokens

    def _stem_s(self) -> float:
        """(3000 frames, 3 n_mels) and (1500 frames, 3 n_state) times (n_state) outputs."""
        width, n_mels = self.dims.n_audio_state, self.dims.n_mels
        flops = 6 * self._frames * width * (2 * n_mels + width)
        moved = self._frames * (2 * n_mels + 5 * width) * self.formats.product.itemsize
        return self.device.seconds(flops, self._stem_bytes() + moved)

    def _encoder_layer_s(self) -> float:
        share = self.encoder
        moved = 4 * self._frames * share.columns * self.formats.product.itemsize
        flops = 4 * self._frames * self.dims.n_audio_ctx * share.columns
        return self._linear_s(share.linears, self._frames) + self.device.seconds(flops, moved)

    def _step_layer_s(self) -> float:
        """Each row has keys and values of its own, of which it reads all."""
        length = min(self.workload.mean_length, self.max_length)
        flops = 4 * (self.dims.n_audio_ctx + length) * self.decoder.columns
        read = self._cross_bytes() + length * self._position_bytes()
        rows = self.workload.rows
        attention_s = self.device.seconds(rows * flops, rows * read)
        return self._linear_s(self.decoder.linears, rows) + attention_s

    def _prompt_layer_s(self) -> float:
        """The rows of a window share its keys and values."""
        length, rows = self.workload.prompt_tokens, self._prompt_rows
        flops = 4 * rows * (self.dims.n_audio_ctx + length) * self.decoder.columns
        read = self.encode_batch * (self._cross_bytes() + length * self._position_bytes())
        return self._linear_s(self.decoder.linears, rows) + self.device.seconds(flops, read)

    def _output_s(self, rows: float) -> float:
        return self._linear_s([self.output], rows) if self.gives_logits else 0.0

    def _linear_s(self, linears: Iterable[_Linear], rows: float) -> float:
        """Weights are read once for all rows."""
        flops = n_bytes = 0.0
        for x in linears:
            flops += 2 * rows * x.n_out * x.n_in
            moved = rows * (x.n_out + x.n_in) * self.formats.product.itemsize
            n_bytes += x.n_bytes(self.formats) + moved
        return self.device.seconds(flops, n_bytes)


def stage_cost(
    dims: ModelDimensions,
    stage: Stage,
    tensor_parallel: int,
    formats: NumberFormats,
    device: DeviceModel,
    workload: Workload,
    max_length: int,
    encode_batch: int,
) -> StageCost:
    """Time and memory of the first of `tensor_parallel` ranks of a stage.

    Where `formats` are those of a CPU, native kernels are taken to run there if they run here.

    Args:
        max_length: positions of a self-attention slot.
        encode_batch: windows encoded, or prompts run, as one batch.

    Raises:
        ShardingError: there are more ranks than heads.
    """
    check_tensor_parallel(dims, tensor_parallel)
    shape = (tensor_parallel, formats)
    rank = _Rank(
        dims,
        stage,
        _Share.of(dims.n_audio_state, dims.n_audio_head, *shape, is_encoder=True),
        _Share.of(dims.n_text_state, dims.n_text_head, *shape, is_encoder=False),
        _output(dims, *shape),
        formats,
        device,
        workload,
        max_length,
        encode_batch,
        tensor_parallel,
    )
    return StageCost(
        encode_s=rank.encode_s(),
        decode_s=rank.decode_s(),
        weight_bytes=rank.weight_bytes(),
        cache_bytes=rank.cache_bytes(),
        activation_bytes=rank.activation_bytes(),
    )


def stage_costs(
    dims: ModelDimensions,
    stages: Sequence[Stage],
    devices: Sequence[DeviceModel],
    tensor_parallel: int,
    formats: NumberFormats,
    workload: Workload,
    max_length: int,
    encode_batch: int,
) -> list[StageCost]:
    """`stage_cost` of each stage of a cut, whose slots lie in as many groups as stages decode."""
    workload = replace(workload, n_groups=len(group_sizes(stages, workload.n_slots)))
    return [
        stage_cost(
            dims, stage, tensor_parallel, formats, device, workload, max_length, encode_batch
        )
        for stage, device in zip(stages, devices, strict=True)
    ]


def idle_share(costs: Sequence[StageCost]) -> float:
    """The part of the stages' time, on average, in which they wait for the slowest one.

    Of a steady flow of windows: 1 - mean / max. Of two stages, an encoder and a decoder, the slower
    one is never idle and the other one is for 1 - min / max of the time, twice the average.
    """
    seconds = [cost.window_s for cost in costs]
    return 1 - sum(seconds) / (len(seconds) * max(seconds))


def _output(dims: ModelDimensions, size: int, formats: NumberFormats) -> _Linear:
    """A rank's part of the output layer; quantised by native kernels alone."""
    is_int8 = formats.int8 and _is_native(formats) and dims.n_text_state % 32 == 0
    n_ids = _largest(dims.n_vocab, size)
    return _Linear(n_ids, dims.n_text_state, has_bias=False, is_int8=is_int8)


def _largest(total: int, size: int) -> int:
    return len(partition(total, size)[0])


def _padded(n: int, step: int = _NATIVE_COLUMNS) -> int:
    return n + -n % step


def _is_bfloat16_on_cpu(formats: NumberFormats) -> bool:
    """No other device passes on another format than it multiplies (`Precision.formats`)."""
    return formats.product == torch.bfloat16 and formats.dtype == torch.float32


def _is_native(formats: NumberFormats) -> bool:
    return _is_bfloat16_on_cpu(formats) and native.serves(torch.device("cpu"))
