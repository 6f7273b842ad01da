"""Which slots a batch touches."""

import torch

Slots = slice | torch.Tensor
"""A range, or indices of shape (n,) int64."""


def n_slots(slots: Slots) -> int:
    return slots.stop - slots.start if isinstance(slots, slice) else len(slots)


def slot_indices(slots: Slots, device: torch.device) -> torch.Tensor:
    """(n,) int64, on the device."""
    if isinstance(slots, slice):
        return torch.arange(slots.start, slots.stop, device=device)
    return slots
