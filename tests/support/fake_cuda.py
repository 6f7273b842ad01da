"""A CUDA device that computes nothing: shapes, number formats and devices of every operation are
checked by torch's fake tensors, and what makes the host wait for the device is noted.

Where there is no CUDA, a copy between devices, a stream and an event have stand-ins, and a launch
of a Triton kernel only looks at what it would be given; all else is torch's own (`FakeTensorMode`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from os import environ
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.kernels import triton as kernels
from engine.kernels.triton import launch, trial

CAPABILITY = (9, 0)
_NUMPY = {torch.int16: np.int16, torch.float32: np.float32, torch.int64: np.int64}
_OPERATIONS = {"copy_": "copy_", "__invert__": "bitwise_not", "contiguous": "contiguous"}
"""Methods for which torch asks for the current device, and the operation behind each."""
_PRODUCTS = {"mm", "bmm", "addmm", "linear", "matmul", "scaled_dot_product_attention"}
"""A device wants their operands in one number format; fake tensors do not check that."""
_ROOM = ("aten.empty", "aten.new_empty")
_WAITS = {"item", "tolist", "nonzero", "masked_select", "unique", "cpu", "numpy", "__bool__"}


@dataclass
class Device:
    """What was seen.

    Attributes:
        waits: operations for which the host waits for the device, since `clear`.
        launches: operations on the device, by name.
    """

    waits: list[str] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.waits.clear()
        self.launches.clear()


class _Generator:
    def __init__(self, device: object = None) -> None:
        return

    def manual_seed(self, seed: int) -> None:
        return


class _Event:
    def record(self, stream: object = None) -> None:
        return

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        return


class _Stream:
    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda")

    def wait_event(self, event: _Event) -> None:
        return

    def wait_stream(self, stream: "_Stream") -> None:
        return

    def record_event(self) -> _Event:
        return _Event()


class _Copies(TorchFunctionMode):
    """Copies between devices, which a build of torch without CUDA does not have, and waits."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._pinned: set[int] = set()
        self._kept: list[torch.Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("__getitem__", "__setitem__") and args[0].is_cuda:
            return self._item(*args)
        if name == "pin_memory":
            return self._pin(args[0])
        if name == "to" and isinstance(args[0], torch.Tensor):
            return self._to(func, args, options)
        if name == "copy_" and args[0].device.type != args[1].device.type:
            self._note_copy(args[1], args[0].device, bool(options.get("non_blocking")))
            return args[0]
        if name in _OPERATIONS and args[0].is_cuda:
            return getattr(torch.ops.aten, _OPERATIONS[name])(*args)
        if name in ("tensor", "as_tensor") and _is_cuda(options.get("device")):
            self._device.waits.append(f"torch.{name} on the device")
            made = func(*args, **(options | {"device": "cpu"}))
            return torch.empty(made.shape, dtype=made.dtype, device=kwargs["device"])
        if name == "empty" and options.pop("pin_memory", False):
            return self._pin(func(*args, **options))
        if name in _WAITS and isinstance(args[0], torch.Tensor) and args[0].is_cuda:
            self._device.waits.append(name)
        if name == "__bool__" and args[0].is_cuda:
            return True  # it has no value; weights that are loaded are good
        if name == "numpy" and not args[0].is_cuda:
            return np.zeros(args[0].shape, _NUMPY[args[0].dtype])  # has no values either
        return func(*args, **options)

    def _item(self, tensor: torch.Tensor, key: Any, *value: Any) -> torch.Tensor | None:
        """`tensor[key]`, or `tensor[key] = value`: torch's own code asks for the current device."""
        tensor, places = _viewed(tensor, key if isinstance(key, tuple) else (key,))
        if any(place is not None and place.dtype == torch.bool for place in places):
            self._device.waits.append("an index of truth values")
        if not value:
            whole = all(place is None for place in places)
            return tensor if whole else torch.ops.aten.index(tensor, places)
        new = value[0]
        if not isinstance(new, torch.Tensor):
            new = torch.full((), new, dtype=tensor.dtype, device=tensor.device)
        if all(place is None for place in places):
            torch.ops.aten.copy_(tensor, new)
        else:
            torch.ops.aten.index_put_(tensor, places, new)
        return None

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self._pinned.add(id(tensor))
        self._kept.append(tensor)  # so that no other one gets its id
        return tensor

    def _to(
        self, func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]
    ) -> torch.Tensor:
        tensor = args[0]
        wanted = {key: value for key, value in options.items() if key != "copy"}
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args[1:], **wanted)
        if device is None or device.type == tensor.device.type:
            found: torch.Tensor = func(*args, **options)
            return found
        self._note_copy(tensor, device, non_blocking)
        return torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device)

    def _note_copy(self, source: torch.Tensor, device: torch.device, non_blocking: bool) -> None:
        is_free = non_blocking and (source.is_cuda or id(source) in self._pinned)
        if not is_free:
            self._device.waits.append(f"copy from {source.device.type} to {device.type}")


def _launch(device: Device) -> Callable[[launch.Launch], None]:
    """A stand-in for `Launch.run`."""

    def run(wanted: launch.Launch) -> None:
        name = wanted.kernel.__name__
        given = {key: x for key, x in wanted.arguments.items() if isinstance(x, torch.Tensor)}
        elsewhere = [key for key, x in given.items() if not x.is_cuda]
        if elsewhere:
            raise RuntimeError(f"{name} is given tensors of the host: {elsewhere}")
        if min(wanted.grid) < 1:
            raise RuntimeError(f"{name} has the grid {wanted.grid}")
        missing = set(wanted.kernel.arg_names) - {*wanted.arguments, *wanted.constants}
        if missing:
            raise RuntimeError(f"{name} is given no {missing}")
        device.launches.append(f"triton.{name}")

    return run


class _Launches(TorchDispatchMode):
    """Operations that run on the device; views do not."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func)
        if name.split(".")[1] in _PRODUCTS:
            formats = {x.dtype for x in args if isinstance(x, torch.Tensor)}
            if len({dtype for dtype in formats if dtype.is_floating_point}) > 1:
                raise RuntimeError(f"{name} of several number formats: {formats}")
        found = func(*args, **(kwargs or {}))
        first = found[0] if isinstance(found, (tuple, list)) and found else found
        on_device = isinstance(first, torch.Tensor) and first.is_cuda
        if on_device and not func.is_view and not name.startswith(_ROOM):
            self._device.launches.append(name)
        return found


def _viewed(
    tensor: torch.Tensor, key: Sequence[Any]
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The view that numbers, ranges, None and ... of an index make, and for each of its dimensions
    the tensor that is an index of it."""
    n_used = sum(part is not None and part is not Ellipsis for part in key)
    gap = [slice(None)] * (tensor.dim() - n_used)
    at = next((place for place, part in enumerate(key) if part is Ellipsis), len(key))
    places: list[torch.Tensor | None] = []
    for part in [*key[:at], *gap, *key[at + 1 :]]:
        dim = len(places)
        if part is None:
            tensor = tensor.unsqueeze(dim)
            places.append(None)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
            places.append(None)
        elif isinstance(part, int):
            tensor = tensor.select(dim, part)
        else:
            places.append(part if isinstance(part, torch.Tensor) else torch.tensor(part))
    return tensor, places


def _is_cuda(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "cuda"


@contextmanager
def fake_cuda() -> Iterator[Device]:
    """A context with a device `cuda` of compute capability 9.0 and unlimited memory."""
    device = Device()
    stand_ins: dict[str, Any] = {
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: _Stream(),
        "mem_get_info": lambda device=None: (1 << 50, 1 << 50),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_name": lambda device=None: "a device that computes nothing",
        "is_available": lambda: True,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch.object(torch.cuda, name, stand_in))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.dict(environ, {kernels.TUNE_VARIABLE: "0"}))
        for known in (kernels._trusted, launch.capability_of):
            known.cache_clear()
            stack.callback(known.cache_clear)
        stack.enter_context(patch.object(trial, "fault", lambda kernels, device: None))
        stack.enter_context(patch.object(launch.Launch, "run", _launch(device)))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_Launches(device))
        stack.enter_context(_Copies(device))
        yield device
