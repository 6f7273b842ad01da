"""How many frames of each slot's window there are, and attention that reads no others.

Shapes: B batch, T tokens, L frames.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Protocol

import torch

from engine.model.slots import Slots, a_few_at_a_time


class Attend(Protocol):
    """Attention of some rows to their windows."""

    def __call__(
        self, queries: torch.Tensor, slots: Slots, n_frames: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Args:
            n_frames: frames to read of each slot.
            mask: (B, n_frames), True for the frames of each row's window; None: all are.
        """


class WindowLengths:
    """Frames of the window in each slot. What lies behind them is left from earlier windows.

    On a CPU, neighbours whose windows are equally long are computed together, and nothing else is
    read: so a row's bits depend on the length of its own window alone. On a GPU the host does not
    know the lengths, shapes stay as they are, and kernels or masks leave out what lies behind.

    Args:
        n_frames: of a whole window.
        may_be_short: whether a window may have fewer.
    """

    def __init__(
        self, n_slots: int, n_frames: int, device: torch.device, may_be_short: bool = False
    ) -> None:
        self.n_frames = n_frames
        self.frames = torch.full((n_slots,), n_frames, dtype=torch.int64, device=device)
        self._vary = may_be_short

    @property
    def varying(self) -> torch.Tensor | None:
        """`frames`, for kernels that read them on the device; None if all windows are whole."""
        return self.frames if self._vary else None

    def put(self, slots: Slots, n_frames: int) -> None:
        """Windows of that length come into the slots."""
        assert n_frames == self.n_frames or (self._vary and n_frames < self.n_frames)
        if not self._vary:
            return
        if isinstance(slots, slice):
            self.frames[slots] = n_frames
        else:
            self.frames.index_fill_(0, slots, n_frames)

    def attend(self, attend: Attend, queries: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Let queries, (B, ...), attend to the windows in their slots."""
        if not self._vary:
            return self._attend(attend, queries, slots, self.n_frames)
        if self.frames.device.type != "cpu":
            return a_few_at_a_time(
                lambda some, where: attend(some, where, self.n_frames, self._mask(where)),
                queries,
                slots,
            )
        parts = [
            self._attend(attend, queries[rows], where, n_frames)
            for rows, where, n_frames in self._runs(slots)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def _attend(attend: Attend, queries: torch.Tensor, slots: Slots, n_frames: int) -> torch.Tensor:
        return a_few_at_a_time(
            lambda some, where: attend(some, where, n_frames, None), queries, slots
        )

    def _mask(self, slots: Slots) -> torch.Tensor:
        reach = torch.arange(self.n_frames, device=self.frames.device)
        return reach < self.frames[slots][:, None]

    def _runs(self, slots: Slots) -> Iterator[tuple[slice, Slots, int]]:
        """Rows that follow each other and have equally long windows, and their slots."""
        start = 0
        for n_frames, run in groupby(self.frames[slots].tolist()):
            stop = start + sum(1 for _ in run)
            if isinstance(slots, slice):
                yield slice(start, stop), slice(slots.start + start, slots.start + stop), n_frames
            else:
                yield slice(start, stop), slots[start:stop], n_frames
            start = stop
