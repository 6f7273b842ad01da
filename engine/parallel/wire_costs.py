"""Computes what each rank sends in an operation: what `Traffic` counts when it happens.

Bytes are those that one rank sends, summed over receivers. Over gloo, a small sum sends the whole
tensor to all others; a large one sends slices to the ranks that sum them, and then its own sum to
all others (`engine.parallel.collectives`). NCCL's ring cuts the tensor into as many slices as ranks
and sends each one twice, except its own.
"""

from collections import Counter
from dataclasses import dataclass, field

from engine.config import ModelDimensions
from engine.parallel.collectives import DIRECT_BYTES
from engine.parallel.distributed import Mesh
from engine.parallel.partition import partition
from engine.parallel.traffic import Kind

_BEST_BYTES = 2 * 5 * 8
"""A row's candidates: five float64 each for text and for timestamps (`Sampler`)."""
_TOKEN_BYTES = 8
_PROBABILITY_BYTES = 2 * 8


@dataclass
class WireCost:
    """Calls in which a rank sends something, and the bytes that it sends, by kind."""

    calls: Counter[Kind] = field(default_factory=Counter)
    sent_bytes: Counter[Kind] = field(default_factory=Counter)

    def add(self, kind: Kind, n_calls: int, bytes_each: int) -> None:
        if n_calls and bytes_each:
            self.calls[kind] += n_calls
            self.sent_bytes[kind] += n_calls * bytes_each

    def __add__(self, other: "WireCost") -> "WireCost":
        return WireCost(self.calls + other.calls, self.sent_bytes + other.sent_bytes)


@dataclass(frozen=True, slots=True)
class WireModel:
    """A rank's wires.

    Attributes:
        rank: the rank.
        itemsize: bytes of a number that layers pass on.
        by_nccl: NCCL carries the tensors, otherwise gloo.
    """

    dims: ModelDimensions
    mesh: Mesh
    rank: int
    itemsize: int
    by_nccl: bool = False

    def encode(self, n_windows: int) -> WireCost:
        """A batch of windows through the stage's encoder layers."""
        dims, layers = self.dims, self.mesh.stages[self.stage].encoder
        state_bytes = n_windows * dims.n_audio_ctx * dims.n_audio_state * self.itemsize
        cost = WireCost()
        cost.add("reduce", 2 * len(layers), self._reduced(state_bytes))
        if layers:
            is_last = layers.stop == dims.n_audio_layer
            receivers = sum(index != self.stage for index in self._decoders) if is_last else 1
            cost.add("windows", receivers, state_bytes)
        return cost

    def prefill(self, n_prompts: int, length: int) -> WireCost:
        """Prompts, `length` positions each with padding, and their first tokens."""
        cost = self._tokens(n_prompts * length, n_prompts)
        if self._ends:
            cost.add("gather", 1, self._others * n_prompts * _PROBABILITY_BYTES)
        return cost

    def decode(self, n: int, rows: int) -> WireCost:
        """One token in each of `n` slots, computed in `rows` rows."""
        return self._tokens(rows, n)

    def _tokens(self, n_positions: int, n_sampled: int) -> WireCost:
        layers = self.mesh.stages[self.stage].decoder
        cost = WireCost()
        if not layers:
            return cost
        hidden_bytes = n_positions * self.dims.n_text_state * self.itemsize
        embeds = int(self.stage == self._decoders[0])
        cost.add("reduce", embeds + 3 * len(layers), self._reduced(hidden_bytes))
        if not self._ends:
            cost.add("hidden", 1, hidden_bytes)
            return cost
        cost.add("gather", 1, self._others * n_sampled * _BEST_BYTES)
        cost.add("tokens", int(len(self._decoders) > 1), n_sampled * _TOKEN_BYTES)
        return cost

    def _reduced(self, n_bytes: int) -> int:
        size = self.mesh.tensor_parallel
        if self.by_nccl:
            return 2 * n_bytes * self._others // size
        if size <= 2 or n_bytes <= DIRECT_BYTES:
            return self._others * n_bytes
        numbers = partition(n_bytes // self.itemsize, size)[self.mesh.tensor_rank_of(self.rank)]
        own_bytes = len(numbers) * self.itemsize
        return n_bytes - own_bytes + self._others * own_bytes

    @property
    def stage(self) -> int:
        return self.mesh.stage_of(self.rank)

    @property
    def _others(self) -> int:
        return self.mesh.tensor_parallel - 1

    @property
    def _decoders(self) -> list[int]:
        return [index for index, stage in enumerate(self.mesh.stages) if stage.decoder]

    @property
    def _ends(self) -> bool:
        return self.stage == self._decoders[-1]
