"""What a pipeline stage costs in time and memory.

Arithmetic on the sizes of the model: no tensors, no measurement. A time is a roofline (Williams et
al. 2009, doi:10.1145/1498765.1498785): computing or moving data, whichever takes longer; a
multiplication with its addition is 2 FLOP. All figures are for one rank, the first of its
tensor-parallel group, whose share is the largest. They leave out norms, launches, transfers between
ranks, and the memory that a device's runtime takes for itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from engine.config import ModelDimensions
from engine.kernels.triton.weights import MAX_ROWS
from engine.memory import Load, MemoryUse, longest_prompt, memory_use
from engine.parallel.device_model import DeviceModel
from engine.parallel.shares import LayerShare, LinearShare, RankShare
from engine.parallel.stages import Stage, group_sizes
from engine.precision import CrossAttentionMode, NumberFormats, Offload


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded.

    Attributes:
        n_slots: sequences held at once, all of them busy.
        tokens_per_window: sampled tokens, on average.
        prompt_tokens: prompt tokens per window, on average.
        n_groups: batches that take turns, each with an equal part of the slots
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
    """The cost of one rank of a stage.

    Attributes:
        encode_s: per window: the stage's encoder layers and, if it decodes, what cross-attention
            stores of the encoder's output.
        decode_s: per window: its prompt, and its share of the decoder's steps.
    """

    encode_s: float
    decode_s: float
    memory: MemoryUse

    @property
    def window_s(self) -> float:
        """Seconds of the stage's device per window, at a full batch."""
        return self.encode_s + self.decode_s

    @property
    def memory_bytes(self) -> int:
        return self.memory.total


@dataclass(frozen=True, slots=True)
class _Times:
    """Times of the first rank of a stage, per batch unless said to be per window."""

    share: RankShare
    device: DeviceModel
    workload: Workload
    max_length: int
    encode_batch: int

    def encode_s(self) -> float:
        """Per window."""
        stage = self.share.stage
        seconds = len(stage.encoder) * self._encoder_layer_s() + len(stage.decoder) * self._fill_s()
        return (seconds + self.share.has_stem * self._stem_s()) / self.encode_batch

    def decode_s(self) -> float:
        """Per window. There are as many steps as tokens: the prompt samples one token, and one step
        is spent after the end."""
        rows, n_layers = self.workload.rows, len(self.share.stage.decoder)
        step_s = n_layers * self._step_layer_s() + self._output_s(rows)
        prompt_s = n_layers * self._prompt_layer_s()
        prompt_s += self._output_s(2 * self.encode_batch)  # at its start and at its end
        return self.workload.tokens_per_window * step_s / rows + prompt_s / self.encode_batch

    @property
    def _frames(self) -> int:
        return self.encode_batch * self.share.dims.n_audio_ctx

    @property
    def _prompt_rows(self) -> float:
        return self.encode_batch * self.workload.prompt_tokens

    @property
    def _has_gpu_kernels(self) -> bool:
        """Whether our kernels for GPUs are assumed. Layers pass on bfloat16 only on GPUs that have
        it, and on these all of the kernels run."""
        return self.share.formats.dtype == torch.bfloat16

    @property
    def _product_bytes(self) -> int:
        return self.share.formats.product.itemsize

    def _stem_s(self) -> float:
        """(3000 frames, 3 n_mels) and (1500 frames, 3 n_state) times (n_state) outputs."""
        width, n_mels = self.share.dims.n_audio_state, self.share.dims.n_mels
        flops = 6 * self._frames * width * (2 * n_mels + width)
        moved = self._frames * (2 * n_mels + 5 * width) * self._product_bytes
        return self.device.seconds(flops, self.share.stem_bytes + moved)

    def _encoder_layer_s(self) -> float:
        share = self.share.encoder
        moved = 4 * self._frames * share.columns * self._product_bytes
        flops = 4 * self._frames * self.share.dims.n_audio_ctx * share.columns
        linears_s = self._linear_s(share.linears, self._frames, many_rows=True)
        computing_s = linears_s + self.device.seconds(flops, moved)
        return self._beside_link(computing_s, share, self.share.streams_encoder)

    def _beside_link(self, computing_s: float, share: LayerShare, streamed: bool) -> float:
        """With offloading: a layer's weights arrive while the one before it computes."""
        link_s = share.weight_bytes / self.device.host_bytes_per_s
        return max(computing_s, link_s) if streamed else computing_s

    def _fill_s(self) -> float:
        """A layer's keys and values; the encoder's output is copied once for all layers."""
        share = self.share.decoder
        if share.is_absorbed:
            return 0.0
        computing_s = self._linear_s([share.cross_kv], self._frames, many_rows=True)
        return self._beside_link(computing_s, share, self.share.streams_decoder)

    def _step_layer_s(self) -> float:
        """A layer in a step: each row reads all of its own keys and values."""
        length, rows = min(self.workload.mean_length, self.max_length), self.workload.rows
        return self._decoder_layer_s(rows, self._attention_s(rows, rows, length))

    def _prompt_layer_s(self) -> float:
        """A layer in a prompt: the rows of a window share its keys and values."""
        length, rows = self.workload.prompt_tokens, self._prompt_rows
        return self._decoder_layer_s(rows, self._attention_s(rows, self.encode_batch, length))

    def _decoder_layer_s(self, rows: float, attention_s: float) -> float:
        share = self.share.decoder
        computing_s = self._linear_s(share.linears, rows, many_rows=False) + attention_s
        return self._beside_link(computing_s, share, self.share.streams_decoder)

    def _attention_s(self, rows: float, n_windows: float, length: float) -> float:
        """Attention of queries to `length` tokens and to all frames of so many windows."""
        own_flops = 4 * rows * length * self.share.decoder.columns
        own_bytes = n_windows * length * self.share.position_bytes
        cross_flops, cross_bytes = self._cross_attention(rows, n_windows)
        return self.device.seconds(own_flops + cross_flops, own_bytes + cross_bytes)

    def _cross_attention(self, rows: float, n_windows: float) -> tuple[float, float]:
        """FLOP and bytes. Absorbed, each head's queries are as wide as the model. What our kernels
        read, they read once; torch's two products read the encoder's output one after the other,
        and 8-bit keys and values that it multiplies are also written and read once in 16 bits."""
        share, decoder = self.share, self.share.decoder
        frames = share.dims.n_audio_ctx
        if decoder.is_absorbed:
            columns, width = decoder.columns, share.dims.n_audio_state
            flops = rows * (4 * frames * decoder.heads * width + 4 * columns * width)
            readings = 1 if self._has_gpu_kernels else 2
            state_bytes = readings * n_windows * frames * width * self._product_bytes
            return flops, state_bytes + decoder.absorbed_bytes
        read = share.cross_bytes
        in_8_bits = share.formats.cross is CrossAttentionMode.CACHED_8BIT
        if in_8_bits and not (share.has_native_cross or self._has_gpu_kernels):
            read += 4 * frames * decoder.columns * self._product_bytes
        return 4 * rows * frames * decoder.columns, n_windows * read

    def _output_s(self, rows: float) -> float:
        if not self.share.gives_logits:
            return 0.0
        return self._linear_s([self.share.output], rows, many_rows=False)

    def _linear_s(self, linears: Iterable[LinearShare], rows: float, many_rows: bool) -> float:
        """Weights are read once for all rows; if they have to be converted to 16 bits they are also
        written and read once more."""
        formats = self.share.formats
        in_registers = self._has_gpu_kernels and not many_rows and rows <= MAX_ROWS
        flops = n_bytes = 0.0
        for x in linears:
            flops += 2 * rows * x.n_values
            moved = rows * (x.n_out + x.n_in) * self._product_bytes
            converted = 0 if in_registers else 2 * x.temporary_bytes(formats, many_rows)
            n_bytes += x.n_bytes(formats) + moved + converted
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
    offload: Offload = Offload.NONE,
) -> StageCost:
    """Time and memory of the first of `tensor_parallel` ranks of a stage.

    If `formats` are a CPU's, native kernels are assumed to run there if they run here.

    Args:
        max_length: positions of a self-attention slot.
        encode_batch: windows encoded, or prompts run, as one batch.

    Raises:
        ShardingError: there are more ranks than heads.
    """
    share = RankShare.of(dims, stage, tensor_parallel, formats, offload)
    times = _Times(share, device, workload, max_length, encode_batch)
    longest = longest_prompt(max_length)
    load = Load(workload.n_slots, max_length, encode_batch, workload.n_groups, longest)
    return StageCost(times.encode_s(), times.decode_s(), memory_use(share, load))


def stage_costs(
    dims: ModelDimensions,
    stages: Sequence[Stage],
    devices: Sequence[DeviceModel],
    tensor_parallel: int,
    formats: NumberFormats,
    workload: Workload,
    max_length: int,
    encode_batch: int,
    offload: Offload = Offload.NONE,
) -> list[StageCost]:
    """`stage_cost` of each stage of a cut, with one slot group for each stage that decodes."""
    workload = replace(workload, n_groups=len(group_sizes(stages, workload.n_slots)))
    return [
        stage_cost(
            dims,
            stage,
            tensor_parallel,
            formats,
            device,
            workload,
            max_length,
            encode_batch,
            offload,
        )
        for stage, device in zip(stages, devices, strict=True)
    ]


def idle_share(costs: Sequence[StageCost]) -> float:
    """The average share of time that stages spend waiting for the slowest one.

    With a steady flow of windows it is 1 - mean / max. Of two stages, an encoder and a decoder, the
    slower one is never idle and the other one is idle for 1 - min / max of the time, twice the
    average.
    """
    seconds = [cost.window_s for cost in costs]
    return 1 - sum(seconds) / (len(seconds) * max(seconds))
