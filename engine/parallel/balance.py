"""The cut of a model into pipeline stages that evens out their work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from engine.config import ModelDimensions
from engine.errors import NoRoomError
from engine.parallel.cost import StageCost, Workload, stage_cost
from engine.parallel.device_model import DeviceModel
from engine.parallel.stages import (
    Stage,
    check_pipeline_parallel,
    check_tensor_parallel,
    cut_stages,
    layers_between,
)
from engine.precision import NumberFormats, Offload


def balance(
    dims: ModelDimensions,
    devices: Sequence[DeviceModel],
    tensor_parallel: int,
    formats: NumberFormats,
    workload: Workload,
    max_length: int,
    encode_batch: int,
    offload: Offload = Offload.NONE,
) -> tuple[Stage, ...]:
    """The cut into one stage per device, in order, whose slowest stage takes the least time.

    Each stage fits its device; `workload.n_groups` is replaced by each cut's own number. Among
    equally fast cuts, one in which no stage has both encoder and decoder layers is preferred, then
    the one whose stages take the least time together.

    Raises:
        ShardingError: there are more stages than layers or more ranks than heads.
        NoRoomError: no cut fits.
    """
    check_tensor_parallel(dims, tensor_parallel)
    check_pipeline_parallel(dims, len(devices))

    @cache
    def cost(stage: Stage, device: DeviceModel, n_decoding: int) -> StageCost:
        load = replace(workload, n_groups=max(1, min(n_decoding, workload.n_slots)))
        return stage_cost(
            dims, stage, tensor_parallel, formats, device, load, max_length, encode_batch, offload
        )

    return _Cutter(dims, tuple(devices), cost).balanced()


_Weight = tuple[float, ...]
_Cut = tuple[_Weight, tuple[int, ...]]
"""A cut's cost, and the layer after each of its stages: compared in that order."""
_Weigh = Callable[[Stage, DeviceModel, int], _Weight | None]
"""A stage's cost on a device, in a cut in which so many decode; None if it is not allowed."""
_Join = Callable[[_Weight, _Weight], _Weight]


@dataclass(frozen=True, slots=True)
class _Cutter:
    """Searches all cuts by dynamic programming over their ends."""

    dims: ModelDimensions
    devices: tuple[DeviceModel, ...]
    cost: Callable[[Stage, DeviceModel, int], StageCost]

    def balanced(self) -> tuple[Stage, ...]:
        """Which beginning of a cut is better depends on the slowest stage of all. So its time is
        found first, and then the best of the cuts that keep to it."""
        fastest = self._search(self._time, max)
        if fastest is None:
            raise NoRoomError(self._shortfall())
        limit_s = fastest[0][0]

        def within(stage: Stage, device: DeviceModel, n_decoding: int) -> _Weight | None:
            own = self._time(stage, device, n_decoding)
            is_mixed = bool(stage.encoder and stage.decoder)
            return (float(is_mixed), own[0]) if own and own[0] <= limit_s else None

        best = self._search(within, lambda a, b: (a[0] + b[0], a[1] + b[1]))
        assert best is not None, "the fastest cut is one of them"
        return self._stages(best)

    def _time(self, stage: Stage, device: DeviceModel, n_decoding: int) -> _Weight | None:
        cost = self.cost(stage, device, n_decoding)
        return (cost.window_s,) if cost.memory_bytes <= device.memory_bytes else None

    def _excess(self, stage: Stage, device: DeviceModel, n_decoding: int) -> _Weight:
        return (self.cost(stage, device, n_decoding).memory_bytes - device.memory_bytes,)

    def _shortfall(self) -> str:
        nearest = self._search(self._excess, max)
        assert nearest is not None, "without limits there is a cut"
        stages = self._stages(nearest)
        n_decoding = sum(bool(stage.decoder) for stage in stages)
        costs = [self.cost(*pair, n_decoding) for pair in zip(stages, self.devices, strict=True)]
        lacking = [
            c.memory_bytes - d.memory_bytes for c, d in zip(costs, self.devices, strict=True)
        ]
        index = lacking.index(max(lacking))
        needed = sum(cost.memory_bytes for cost in costs)
        available = sum(device.memory_bytes for device in self.devices)
        return (
            f"no cut of the model into {len(stages)} stages fits in memory: the nearest one needs "
            f"{_gigabytes(needed)} a rank of each stage in all, of {_gigabytes(available)}; stage "
            f"{index} ({stages[index]}) needs {_gigabytes(costs[index].memory_bytes)} and lacks "
            f"{_gigabytes(lacking[index])}"
        )

    def _search(self, weigh: _Weigh, join: _Join) -> _Cut | None:
        found = [self._search_decoding(n, weigh, join) for n in range(1, len(self.devices) + 1)]
        return min((cut for cut in found if cut is not None), default=None)

    def _search_decoding(self, n_decoding: int, weigh: _Weigh, join: _Join) -> _Cut | None:
        """The cheapest cut whose last so many stages hold decoder layers."""
        best: dict[int, _Cut] = {0: ((), ())}
        for index, device in enumerate(self.devices):
            reached: dict[int, _Cut] = {}
            for start, (weight, ends) in best.items():
                for stop in self._stops(index, start, n_decoding):
                    own = weigh(layers_between(self.dims, start, stop), device, n_decoding)
                    if own is not None:
                        cut = (join(weight, own) if ends else own, (*ends, stop))
                        reached[stop] = min(reached.get(stop, cut), cut)
            best = reached
        return best.get(self._n_layers)

    def _stops(self, index: int, start: int, n_decoding: int) -> range:
        """Where a stage from `start` may end, so that each stage after it gets a layer."""
        n_encoder, n_behind = self.dims.n_audio_layer, len(self.devices) - index - 1
        if n_behind >= n_decoding:
            return range(start + 1, n_encoder + 1)
        first = max(start, n_encoder) + 1 if n_behind else self._n_layers
        return range(first, self._n_layers - n_behind + 1)

    @property
    def _n_layers(self) -> int:
        return self.dims.n_audio_layer + self.dims.n_text_layer

    def _stages(self, cut: _Cut) -> tuple[Stage, ...]:
        stops = cut[1]
        counts = [stop - start for start, stop in zip((0, *stops), stops, strict=False)]
        return cut_stages(self.dims, counts)


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.3g} GB"
