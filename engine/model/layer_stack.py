"""The layers of an encoder or decoder: all on the device, or streamed there from the host.

With streaming, the device holds two layers: while one computes, the weights of the next one arrive.
If several windows are encoded at once, an encoder layer computes for longer than the transfer
takes. A decoder's step does not, and waits.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from engine.kernels.linear import LinearKernel

Layer = TypeVar("Layer", covariant=True)
Made = TypeVar("Made", bound=nn.Module)
_ON_DEVICE = 2


class LayerStack(Protocol[Layer]):
    """Layers of one kind, in order."""

    def __len__(self) -> int: ...

    def run(self, todo: range) -> Iterator[Layer]:
        """Some of the layers, in order; each may be used until the next one is asked for."""


class ResidentLayers(nn.ModuleList):
    """All layers on the device."""

    def run(self, todo: range) -> Iterator[Any]:
        for index in todo:
            yield self[index]


class StreamedLayers(nn.Module):
    """Two layers on the device, all in the host's memory, which is pinned if the device is a GPU.

    Args:
        layers: layers, each made on the device when asked for; all of the same sizes.
    """

    def __init__(self, layers: Iterable[nn.Module], device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._host: list[list[torch.Tensor]] = []
        self._places = nn.ModuleList()
        for layer in layers:
            self._host.append([_to_host(tensor) for tensor in tensors_of(layer)])
            if len(self._places) < _ON_DEVICE:
                self._places.append(layer)
        self._targets = [list(tensors_of(place)) for place in self._places]
        self._held = list(range(len(self._places)))
        self._copies = _CopyStream(device)

    def __len__(self) -> int:
        return len(self._host)

    @property
    def host_bytes(self) -> int:
        return sum(tensor.nbytes for layer in self._host for tensor in layer)

    def run(self, todo: range) -> Iterator[Any]:
        for index in todo:
            self._bring(index)
            if index + 1 in todo:
                self._bring(index + 1)
            place = index % len(self._places)
            self._copies.wait_arrived(place)
            yield self._places[place]
            self._copies.mark_used(place)

    def _bring(self, index: int) -> None:
        """Start copying a layer's weights to its place, unless they are there or on their way."""
        place = index % len(self._places)
        if self._held[place] == index:
            return
        self._held[place] = index
        self._copies.copy(place, self._host[index], self._targets[place])


def stack_layers(layers: Iterable[Made], device: torch.device, streamed: bool) -> LayerStack[Made]:
    """The layers, each made when asked for."""
    made = StreamedLayers(layers, device) if streamed else ResidentLayers(layers)
    return cast(LayerStack[Made], made)


class _CopyStream:
    """Copies to the device while it computes; on a CPU, copies at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == "cuda"
        if self._on_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._arrived: dict[int, torch.cuda.Event] = {}
            self._used: dict[int, torch.cuda.Event] = {}

    def copy(
        self, place: int, sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]
    ) -> None:
        if not self._on_gpu:
            _copy_all(sources, targets)
            return
        if place in self._used:
            self._stream.wait_event(self._used[place])
        with torch.cuda.stream(self._stream):
            _copy_all(sources, targets)
        self._arrived[place] = self._stream.record_event()

    def wait_arrived(self, place: int) -> None:
        if self._on_gpu and place in self._arrived:
            torch.cuda.current_stream(self._device).wait_event(self._arrived[place])

    def mark_used(self, place: int) -> None:
        if self._on_gpu:
            self._used[place] = torch.cuda.current_stream(self._device).record_event()


@torch.no_grad()
def _copy_all(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source, non_blocking=True)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return copy.copy_(tensor.detach())


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """All tensors of a module, including those that its kernels keep beside parameters and
    buffers."""
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from part.buffers(recurse=False)
        if isinstance(part, LinearKernel):
            yield from part.hidden_tensors()
