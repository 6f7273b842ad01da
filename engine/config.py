"""What the model is (`ModelDimensions`) and how it is run (`EngineConfig`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.precision import Arithmetic, CrossAttentionMode, NumberFormats, Offload, Precision
from engine.window import Window

if TYPE_CHECKING:
    import torch

N_FFT = 400
"""Samples of one STFT window: 25 ms at 16 kHz."""
HOP_LENGTH = 160
"""Samples between mel frames: 10 ms at 16 kHz."""
SAMPLE_RATE = 16_000
CHUNK_LENGTH_S = 30
N_SAMPLES = CHUNK_LENGTH_S * SAMPLE_RATE
TIME_PRECISION_S = 0.02
"""Seconds per timestamp token: two mel frames, the stride of the encoder's second convolution."""


@dataclass(frozen=True, slots=True)
class ModelDimensions:
    """Sizes of a Whisper checkpoint, under openai/whisper's names (`whisper/model.py`)."""

    n_mels: int
    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if self.n_audio_state % self.n_audio_head or self.n_text_state % self.n_text_head:
            raise ValueError("the model's width must be a multiple of its number of heads")

    @property
    def is_multilingual(self) -> bool:
        """English-only checkpoints have one vocabulary entry less than the others."""
        return self.n_vocab >= 51_865

    @property
    def head_dim(self) -> int:
        return self.n_text_state // self.n_text_head


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How one engine runs.

    Args:
        device: a torch device, `"cpu"` or `"cuda:0"`.
        precision: number format of weights and activations; `engine.precision.default_precision`
            names the fastest one on a device that loses no words.
        cross_attention: what is stored of a window for the decoder; None: 8-bit keys and values if
            native kernels run an int8 model, else keys and values in the precision's format.
        int8_self_attention: store keys and values of tokens in 8 bits.
        half: the 16-bit format of a quantised model; None: the device's own. Devices that share a
            model must use the same one.
        max_slots: sequences decoded at once; each holds a fixed self- and cross-attention slot.
        encode_batch: chunks encoded as one batch when admitted; a newcomer waits for one such batch
            at most. None: 1 on a CPU, where arithmetic limits the encoder; elsewhere 8, or as many
            as fit into memory.
        offload: layers that stay in the host's memory, for a device that is too small for them.
        memory_bytes: limit of the device's memory for weights, slots and activations. None: what is
            free when the model is loaded.
        max_length: positions of a self-attention slot, prompt included; a multiple of 4. The prompt
            gets half of it at most. None: the model's 448.
        overlap_encoding: encode windows while others are decoded, on a CUDA stream or on half of
            the CPU's threads; False: between decoder steps.
        lag_steps: steps between the sampling of a token and the host's reading of it; tokens
            sampled meanwhile after a text's end are dropped. None: 2 on a GPU, which would
            otherwise wait for the host at each token, and 0 on a CPU.
        cuda_graphs: replay decoder steps as graphs; on a GPU only.
        window: what the encoder sees of a chunk, unless a request says otherwise.
        margin_frames: frames of silence behind the chunk in a short window, at least.
        aging_s: a group of requests gains one step of priority each time it gets no slot for this
            many seconds.
    """

    device: str = "cpu"
    precision: Precision = Precision.FLOAT32
    cross_attention: CrossAttentionMode | None = None
    int8_self_attention: bool = False
    half: torch.dtype | None = None
    max_slots: int = 8
    encode_batch: int | None = None
    max_length: int | None = None
    offload: Offload = Offload.NONE
    memory_bytes: float | None = None
    overlap_encoding: bool = True
    lag_steps: int | None = None
    cuda_graphs: bool = True
    window: Window = Window.EXACT
    margin_frames: int = 128
    aging_s: float = 30.0

    def __post_init__(self) -> None:
        if self.max_slots < 1:
            raise ValueError(f"max_slots must be at least 1, got {self.max_slots}")
        if self.encode_batch is not None and self.encode_batch < 1:
            raise ValueError(f"encode_batch must be at least 1, got {self.encode_batch}")
        if self.max_length is not None and (self.max_length < 32 or self.max_length % 4):
            raise ValueError(f"max_length must be a multiple of 4 from 32, got {self.max_length}")
        if self.lag_steps is not None and self.lag_steps < 0:
            raise ValueError(f"lag_steps must not be negative, got {self.lag_steps}")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise ValueError(f"memory_bytes must be positive, got {self.memory_bytes}")
        if self.margin_frames < 0:
            raise ValueError(f"margin_frames must not be negative, got {self.margin_frames}")
        if self.aging_s <= 0:
            raise ValueError(f"aging_s must be positive, got {self.aging_s}")

    @property
    def formats(self) -> NumberFormats:
        """The number formats of the precision on the device.

        Raises:
            PrecisionError: the device does not have it.
        """
        import torch

        return self.formats_on(Arithmetic.of(torch.device(self.device)))

    def formats_on(self, arithmetic: Arithmetic) -> NumberFormats:
        """As `formats`, for a device that need not be present."""
        return self.precision.formats(
            arithmetic, self.cross_attention, self.int8_self_attention, self.half
        )

    @property
    def on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"

    @property
    def has_short_windows(self) -> bool:
        """Whether slots may hold short windows. On a CPU that costs nothing where all are whole; on
        a GPU kernels would read each slot's length."""
        return self.on_cpu or self.window is Window.SHORT

    @property
    def depends_on_threads(self) -> bool:
        """Whether numbers may depend on the number of a CPU's threads, as float32 products do."""
        return self.precision is Precision.FLOAT32

    @property
    def lag(self) -> int:
        return (0 if self.on_cpu else 2) if self.lag_steps is None else self.lag_steps

    def positions(self, dims: ModelDimensions) -> int:
        """Positions of a self-attention slot."""
        return min(self.max_length or dims.n_text_ctx, dims.n_text_ctx)

    @property
    def encode_limit(self) -> int:
        """The most windows encoded at once; never more than there are slots."""
        return min(self.encode_batch or (1 if self.on_cpu else 8), self.max_slots)

    @property
    def prompt_limit(self) -> int:
        """The most prompts run at once. One on a CPU, where the number of rows would change the
        bits; elsewhere no more than memory was planned for."""
        return 1 if self.on_cpu else self.encode_limit
