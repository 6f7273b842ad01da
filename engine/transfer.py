"""Copies values between host and device without making either wait for the other."""

from typing import Protocol

import torch


class Pending(Protocol):
    """Values on their way to the host."""

    @property
    def ready(self) -> bool:
        """Whether `get` would return at once."""

    def get(self) -> list[torch.Tensor]:
        """The values, on the CPU; waits for them."""


def upload(
    values: list[int] | list[list[int]] | list[float],
    device: torch.device,
    dtype: torch.dtype = torch.int64,
) -> torch.Tensor:
    """Numbers on the device. They are copied from pinned memory: from any other memory, CUDA first
    waits for everything launched before."""
    tensor = torch.tensor(values, dtype=dtype)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """Copies tensors to the host; `get` waits for these copies only.

    Work launched after this may overwrite the tensors.
    """

    def __init__(self, *tensors: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if tensors[0].is_cuda:
            # torch keeps pinned blocks for reuse, so these cost no allocation after the first.
            self._values = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for tensor in tensors
            ]
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._values = list(tensors)

    @property
    def ready(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def get(self) -> list[torch.Tensor]:
        """The tensors, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._values
