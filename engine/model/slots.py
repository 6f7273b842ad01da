"""Which slots a batch touches."""

from collections.abc import Callable

import torch

COPIED_ROWS = 8
"""Rows whose windows are copied at once, where rows are not in the order of their windows."""

Slots = slice | torch.Tensor
"""A range, or indices of shape (n,) int64."""


def n_slots(slots: Slots) -> int:
    return slots.stop - slots.start if isinstance(slots, slice) else len(slots)


def slot_indices(slots: Slots, device: torch.device) -> torch.Tensor:
    """(n,) int64, on the device."""
    if isinstance(slots, slice):
        return torch.arange(slots.start, slots.stop, device=device)
    return slots


def a_few_at_a_time(
    attend: Callable[[torch.Tensor, Slots], torch.Tensor], queries: torch.Tensor, slots: Slots
) -> torch.Tensor:
    """`attend(queries, slots)`, by `COPIED_ROWS` rows where indexing copies what they attend to:
    the texts of a beam search share a window; a copy for each would take as much as all slots."""
    if isinstance(slots, slice):
        return attend(queries, slots)
    pieces = zip(*(torch.split(x, COPIED_ROWS) for x in (queries, slots)), strict=True)
    return torch.cat([attend(*piece) for piece in pieces])
