"""How much memory a step of training needs, by kind: arithmetic on a model's sizes.

The sums follow transformers' Whisper as `training.model` runs it, operator by operator: what
autograd keeps of each for the backward pass, and the moments at which most is alive. Here n values
of a stream mean batch * positions * width. GB of a GPU's own context come on top.

Kept of an encoder layer, in values of its stream: the inputs of two norms, the norms' outputs
(which linear layers keep), queries, keys, values, the attention's output, and four times the width
twice in the MLP: before and after the GELU. 16 in all. The stream and what norms read stay in
float32 in any format; products read copies in theirs, one for each product that keeps it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.config import EngineConfig, ModelDimensions
from engine.fit import rank_memory
from engine.memory import BytesByKind
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from engine.weights.shapes import tensor_shapes
from training.settings import EncoderMode, FinetuneSettings, Method, TrainingPrecision

MEASURING_SLOTS = 8
"""Chunks that are decoded at once while word errors are measured."""
_FLOAT32 = 4
_WINDOW_FRAMES = 3000
_MLP = 4
"""Width of an MLP's inner values, in widths of the stream."""


@dataclass(frozen=True, slots=True)
class TrainingLoad:
    """How a model is trained.

    Attributes:
        batch: windows computed at once.
        positions: tokens of a window that the decoder reads, padding included.
        learnt_positions: of these, tokens that are learnt, on average; None: all.
        compute_bytes: of a value in products: 4 for float32, 2 for 16 bits.
        accumulates: several batches make a step, so gradients wait while the next is computed.
        on_cpu: torch's attention for CPUs lays its output out in a way that is copied for the
            next product, and both are kept.
        lora_rank: None: the weights themselves learn.
        lora_layers: linear layers with additions, of each attention and MLP.
    """

    batch: int = 4
    positions: int = 128
    learnt_positions: int | None = None
    compute_bytes: int = _FLOAT32
    accumulates: bool = True
    checkpoints_activations: bool = False
    encoder_learns: bool = True
    on_cpu: bool = False
    lora_rank: int | None = None
    lora_layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    @classmethod
    def of(
        cls,
        settings: FinetuneSettings,
        positions: int,
        learnt_positions: int | None = None,
        on_cpu: bool = False,
    ) -> "TrainingLoad":
        """What the settings of a run mean for one worker."""
        is_float32 = settings.precision is TrainingPrecision.FLOAT32
        return cls(
            batch=settings.batch_size,
            positions=positions,
            learnt_positions=learnt_positions,
            compute_bytes=_FLOAT32 if is_float32 else 2,
            accumulates=settings.accumulate > 1,
            checkpoints_activations=settings.checkpoint_activations,
            encoder_learns=settings.encoder is EncoderMode.TRAINED,
            on_cpu=on_cpu,
            lora_rank=settings.lora.rank if settings.method is Method.LORA else None,
            lora_layers=settings.lora.layers,
        )


@dataclass(frozen=True, slots=True)
class TrainingMemory(BytesByKind):
    """Bytes at the moment at which most is alive.

    Attributes:
        weights: of the model, additions included, and copies of them in the products' format.
        gradients: of what learns.
        optimiser: two means of each gradient (AdamW).
        activations: what the forward pass keeps for the backward pass, and what that makes of it.
        logits: of the tokens that are learnt, with their gradients, if they are alive then.
    """

    weights: int
    gradients: int
    optimiser: int
    activations: int
    logits: int


def training_memory(dims: ModelDimensions, load: TrainingLoad) -> TrainingMemory:
    """The fullest moment of a step, once the optimiser has its state."""
    sizes = _Sizes(dims, load)
    moments = [
        sizes.at_the_logits(),
        sizes.at_the_embedding(),
        *sizes.in_a_layer(),
        sizes.at_the_end(),
        *([sizes.while_loading()] if load.on_cpu else []),
    ]
    return max(moments, key=lambda memory: memory.total)


def measuring_bytes(dims: ModelDimensions, load: TrainingLoad, arithmetic: Arithmetic) -> int:
    """What is there while words are measured: what stays between steps, and an engine that has the
    same weights in the device's default precision."""
    config = EngineConfig(precision=arithmetic.default, max_slots=MEASURING_SLOTS)
    engine = rank_memory(dims, config, arithmetic, (Stage.whole(dims),), 0)
    sizes = _Sizes(dims, load)
    staying = sizes.at_the_end()
    return staying.weights + staying.optimiser + engine.total


class _Sizes:
    """Counts values, then bytes."""

    def __init__(self, dims: ModelDimensions, load: TrainingLoad) -> None:
        self._dims = dims
        self._load = load
        self._learning = _learning(dims, load)
        self._encoder_stream = load.batch * dims.n_audio_ctx * dims.n_audio_state
        self._decoder_stream = load.batch * load.positions * dims.n_text_state
        self._encoder_keeps = load.encoder_learns

    def at_the_logits(self) -> TrainingMemory:
        """The backward pass begins: everything that was kept is there, with the logits' own."""
        waiting = self._gradients() if self._load.accumulates else 0
        logits = self._logits()
        if self._load.on_cpu and self._load.compute_bytes < _FLOAT32:
            # oneDNN copies the layer's weights into an order of its own.
            logits += self._embedding() * self._load.compute_bytes
        return self._memory(waiting, self._encoder_kept() + self._decoder_kept(), logits)

    def at_the_embedding(self) -> TrainingMemory:
        """The decoder is done. Its embedding has the weights of the logits' layer: both gradients
        and their sum are there, beside the one that waits from the batch before."""
        if self._load.accumulates:
            done = self._gradients() + 3 * self._embedding_gradient()
        else:
            done = self._gradients("decoder") + 2 * self._embedding_gradient()
        return self._memory(done, self._encoder_kept() + self._features(), 0)

    def in_a_layer(self) -> Iterator[TrainingMemory]:
        """The last layer of either side is gone through backwards: what it kept, or computes
        again, with the gradients of its MLP."""
        accumulates = self._load.accumulates
        decoder = self._decoder_kept() + self._backward(self._decoder_stream)
        if self._load.checkpoints_activations:
            decoder += self._decoder_layer()
        waiting = self._embedding_gradient() + (self._gradients() if accumulates else 0)
        yield self._memory(waiting, self._encoder_kept() + decoder + self._features(), 0)
        if not self._encoder_keeps:
            return
        encoder = self._encoder_kept() + self._backward(self._encoder_stream)
        if self._load.checkpoints_activations:
            encoder += self._encoder_layer()
        waiting = self._gradients() if accumulates else self._gradients("decoder")
        yield self._memory(waiting, encoder, 0)

    def at_the_end(self) -> TrainingMemory:
        """All gradients are there, and the optimiser changes the weights in their place."""
        return self._memory(self._gradients(), 0, 0)

    def while_loading(self) -> TrainingMemory:
        """All weights are made in float32, in the host's memory, before some get shorter."""
        n_values = sum(map(_product, tensor_shapes(self._dims).values()))
        return TrainingMemory(n_values * _FLOAT32, 0, 0, 0, 0)

    def _memory(self, gradients: int, activations: int, logits: int) -> TrainingMemory:
        return TrainingMemory(
            weights=self._weights(bool(activations)),
            gradients=gradients,
            optimiser=2 * self._gradients(),
            activations=activations,
            logits=logits,
        )

    def _weights(self, in_pass: bool) -> int:
        """Those that do not learn are kept in the format of products; of the others there are
        copies in it from the forward pass to the end of the backward pass."""
        load, total = self._load, 0
        for name, shape in tensor_shapes(self._dims).items():
            n_values, is_matrix = _product(shape), len(shape) > 1 and "embed_positions" not in name
            learns = load.lora_rank is None and name in self._learning
            total += n_values * (_FLOAT32 if learns or not is_matrix else load.compute_bytes)
            if in_pass and learns and is_matrix:
                total += n_values * self._copy_bytes()
        if load.lora_rank is not None:
            n_values = sum(self._learning.values())
            total += n_values * (_FLOAT32 + (self._copy_bytes() if in_pass else 0))
        return total

    def _copy_bytes(self) -> int:
        """Of a value that is kept in float32, and multiplied in 16 bits."""
        return 0 if self._load.compute_bytes == _FLOAT32 else self._load.compute_bytes

    def _gradients(self, side: str = "") -> int:
        named = self._learning.items()
        return sum(n * _FLOAT32 for name, n in named if name.startswith(side))

    def _embedding(self) -> int:
        return self._dims.n_vocab * self._dims.n_text_state

    def _embedding_gradient(self) -> int:
        return self._embedding() * _FLOAT32 if self._load.lora_rank is None else 0

    def _logits(self) -> int:
        """Logarithms of probabilities, their gradients and those of logits, all in float32."""
        learnt = self._load.learnt_positions or self._load.positions
        n_values = self._load.batch * learnt * self._dims.n_vocab
        return n_values * 3 * _FLOAT32

    def _features(self) -> int:
        """The encoder's output."""
        return self._encoder_stream * _FLOAT32

    def _encoder_kept(self) -> int:
        if not self._encoder_keeps:
            return 0
        layers = self._dims.n_audio_layer
        a_layer = self._encoder_stream * _FLOAT32
        if not self._load.checkpoints_activations:
            a_layer = self._encoder_layer()
        last_norm = self._features() + self._kept_features()
        return self._convolutions() + layers * a_layer + last_norm

    def _kept_features(self) -> int:
        """The encoder's output, of which 16-bit products keep copies of their own instead."""
        copied = self._load.compute_bytes < _FLOAT32 and not self._load.checkpoints_activations
        return 0 if copied else self._features()

    def _convolutions(self) -> int:
        """What both read and what their GELUs read: the first has twice as many frames. Nothing
        where additions to later layers are the first that learn."""
        if self._load.lora_rank is not None:
            return 0
        c = self._load.compute_bytes
        mel = self._load.batch * self._dims.n_mels * _WINDOW_FRAMES
        return mel * _FLOAT32 + 5 * self._encoder_stream * c

    def _decoder_kept(self) -> int:
        a_layer = self._decoder_stream * _FLOAT32
        if not self._load.checkpoints_activations:
            a_layer = self._decoder_layer()
        features = 0 if self._encoder_keeps else self._kept_features()
        return features + self._dims.n_text_layer * a_layer + 2 * self._decoder_stream * _FLOAT32

    def _encoder_layer(self) -> int:
        """An attention and an MLP."""
        return self._attention(self._encoder_stream) + self._mlp(self._encoder_stream)

    def _decoder_layer(self) -> int:
        """Two attentions and an MLP; the second has keys and values of the window."""
        c, n, window = self._load.compute_bytes, self._decoder_stream, self._encoder_stream
        cross = n * (_FLOAT32 + self._input("q_proj", 1) + c + self._output() + self._addition(3))
        cross += window * (2 * c + (0 if c == _FLOAT32 else self._input("k_proj", 1) * 2))
        return self._attention(n) + cross + self._mlp(n)

    def _attention(self, n: int) -> int:
        """The norm's input; its output, once for all three products or a copy for each; queries,
        keys, values, and what they give."""
        c = self._load.compute_bytes
        copies = 1 if c == _FLOAT32 else 3
        inputs = self._input("q_proj", copies)
        return n * (_FLOAT32 + inputs + 3 * c + self._output() + self._addition(4))

    def _output(self) -> int:
        """Bytes of an attention's output."""
        return self._load.compute_bytes * (2 if self._load.on_cpu else 1)

    def _mlp(self, n: int) -> int:
        """The norm's input and output, and the inner values before and after the GELU."""
        c = self._load.compute_bytes
        inner = _MLP * (c + self._input("fc2", 1))
        return n * (_FLOAT32 + self._input("fc1", 1) + inner + self._addition(2))

    def _input(self, layer: str, copies: int) -> int:
        """Bytes that products keep of what they read: nothing if neither their weights nor
        additions to them learn."""
        load = self._load
        keeps = load.lora_rank is None or layer in load.lora_layers
        return copies * load.compute_bytes if keeps else 0

    def _addition(self, n_products: int) -> int:
        """Inner values of additions: few, and rounded up to whole bytes of the stream."""
        rank = self._load.lora_rank
        if rank is None:
            return 0
        return -(-n_products * rank * self._load.compute_bytes // self._dims.n_text_state)

    def _backward(self, n: int) -> int:
        """Gradients of the stream and of the MLP's inner values, before and after the GELU."""
        return n * (_FLOAT32 + 2 * _MLP * self._load.compute_bytes)


def _learning(dims: ModelDimensions, load: TrainingLoad) -> dict[str, int]:
    """Number of values of each tensor that learns."""
    shapes = tensor_shapes(dims)
    named: dict[str, int] = {}
    for name, shape in shapes.items():
        if name == "encoder.embed_positions.weight":
            continue
        if name.startswith("encoder") and not load.encoder_learns:
            continue
        if load.lora_rank is None:
            named[name] = _product(shape)
        elif any(name.endswith(f".{layer}.weight") for layer in load.lora_layers):
            named[name] = load.lora_rank * sum(shape)
    return named


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
