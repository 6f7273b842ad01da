"""How the leader directs windows through a gang's encoder stages."""

import math
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.gang.orders import Encode, Expect, Fill, Order
from engine.parallel.distributed import Mesh
from engine.sequence import Sequence as Running
from engine.sequence import by_window

_AHEAD = 2
"""Batches that may be past the encoder stages: one under way and one that is ready."""
_WINDOW_TOKENS = 30
"""Fewer tokens than most windows have, so that encoding keeps up with decoding."""


class Director(Protocol):
    """Gives orders to stages."""

    mesh: Mesh

    def order(self, stage: int, order: Order) -> None: ...

    def take_answers(self, wait: bool = False) -> None:
        """Take in the stages' answers; with `wait`, at least one."""


@dataclass
class _Batch:
    """Windows under way, of `n_frames` frames each, with the same `adapter`. `n_done` counts the
    layers done in the stage that decodes as well."""

    number: int
    n_frames: int
    adapter: int
    sequences: list[Running]
    has_arrived: bool = False
    n_done: int = 0


class GangEncoding:
    """Encodes in stages.

    Stages that only encode continue by themselves, as fast as they can, until they are a number of
    batches ahead of decoding. A stage that also decodes gets its part of the encoding from the
    leader between decoder steps: all of it at once, or a few layers at a time if other stages
    decode after it and would otherwise stand still.

    Args:
        batch: windows encoded at once.
    """

    def __init__(self, gang: Director, batch: int, n_slots: int) -> None:
        self._gang = gang
        self._batch = batch
        stages = list(enumerate(gang.mesh.stages))
        self._decoders = [index for index, stage in stages if stage.decoder]
        self._pure = [index for index, stage in stages if stage.encoder and not stage.decoder]
        self._shared = next((i for i, stage in stages if stage.encoder and stage.decoder), None)
        self._n_layers = (
            len(gang.mesh.stages[self._shared].encoder) if self._shared is not None else 0
        )
        self._has_others_behind = self._shared is not None and len(self._decoders) > 1
        self._slice = self._n_layers
        if self._has_others_behind:
            rows = n_slots / len(self._decoders)
            self._slice = min(math.ceil(self._n_layers * rows / _WINDOW_TOKENS), self._n_layers)
        self._enough = n_slots * 2 // 3 if self._has_others_behind else 0
        self._limit = len(self._pure) + _AHEAD if self._pure or self._has_others_behind else 1
        self._under_way: deque[_Batch] = deque()
        self._done: list[Running] = []
        self._is_slicing = False
        self._n_batches = 0

    @property
    def room(self) -> int:
        return self._batch if len(self._under_way) < self._limit else 0

    def submit(self, sequences: Sequence[Running]) -> None:
        for n_frames, adapter, equal in by_window(sequences):
            batch = _Batch(self._n_batches, n_frames, adapter, equal, has_arrived=not self._pure)
            self._n_batches += 1
            self._under_way.append(batch)
            for stage in range(1, len(self._gang.mesh.stages)):
                self._gang.order(stage, Expect(batch.number, len(equal), n_frames))
            for stage in self._pure:
                last = len(self._gang.mesh.stages[stage].encoder)
                pcm = self._pcm(batch, stage)
                order = Encode(batch.number, 0, last, n_frames, adapter, pcm)
                self._gang.order(stage, order)

    def collect(self, n_decoding: int) -> list[Running]:
        self._gang.take_answers()
        self._go_on(n_decoding)
        while not n_decoding and self._under_way and not self._done:
            self._gang.take_answers(wait=True)
            self._go_on(n_decoding)
        done, self._done = self._done, []
        return done

    def beside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def on_encoded(self, number: int, stage: int) -> None:
        """A stage has completed its order for a batch."""
        if stage == self._shared and self._is_slicing:
            self._is_slicing = False
            batch = self._under_way[0]
            if batch.n_done == self._n_layers:
                self._finish(batch)
        elif self._pure and stage == self._pure[-1]:
            batch = next(item for item in self._under_way if item.number == number)
            batch.has_arrived = True
            if self._shared is None:
                self._finish(batch)

    def _go_on(self, n_decoding: int) -> None:
        """Give the stage that also decodes its next part of the encoding, unless it has one."""
        if self._shared is None or self._is_slicing or not self._under_way:
            return
        batch = self._under_way[0]
        if not batch.has_arrived:
            return
        has_few = n_decoding <= self._enough
        n_layers = self._n_layers - batch.n_done if has_few else self._slice
        start, stop = batch.n_done, min(batch.n_done + n_layers, self._n_layers)
        pcm = self._pcm(batch, self._shared) if start == 0 else None
        order = Encode(batch.number, start, stop, batch.n_frames, batch.adapter, pcm)
        self._gang.order(self._shared, order)
        batch.n_done = stop
        if self._has_others_behind:
            self._is_slicing = True
        else:  # its next orders wait for this one anyway
            self._finish(batch)

    def _finish(self, batch: _Batch) -> None:
        """Finish a batch whose states are at the stages that decode, or on their way."""
        self._under_way.remove(batch)
        slots = tuple(sequence.slot for sequence in batch.sequences)
        fill = Fill(batch.number, slots, batch.adapter)
        for stage in self._decoders:
            self._gang.order(stage, fill)
        self._done += batch.sequences

    def _pcm(self, batch: _Batch, stage: int) -> tuple[npt.NDArray[np.int16], ...] | None:
        if stage > 0:
            return None
        return tuple(sequence.request.pcm for sequence in batch.sequences)
