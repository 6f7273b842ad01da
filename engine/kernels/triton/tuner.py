"""Finds the fastest tiling of each kernel on the device at hand, when a layer is loaded.

Every tiling must give the bits of the first one, on the device itself, or it is not taken. So it
does not matter to a result which was chosen: ranks of a gang, replicas and starts may differ.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from triton.testing import do_bench

from engine.kernels.triton.choice_file import ChoiceFile
from engine.kernels.triton.launch import FAILURES, Launch
from engine.kernels.triton.tiling import Choice, Tiling, Trial

_BUDGET_S = 20.0
"""For measuring, of a process: a replica must come soon. What is left is chosen at a later
start."""
_GAIN = 0.97
"""Of the first one's time, which another tiling must not need to be taken: less may be noise."""
_WARM_UP_MS, _MEASURE_MS = 3, 12
_NEVER = 0x5A
"""What bytes are before a launch, so that what it does not write is not taken for its result."""
_logger = logging.getLogger(__name__)


def seconds_of(launch: Launch) -> float:
    """The median of many launches on the current device, each of which finds nothing in its
    cache."""
    found = do_bench(launch.run, _WARM_UP_MS, _MEASURE_MS, return_mode="median")
    return 1e-3 * float(found)


@dataclass
class Tuner:
    """The tilings of one device.

    Attributes:
        tilings: what was chosen, by `Choice.of`.
        clock: seconds that a launch takes.
    """

    device: torch.device
    file: ChoiceFile
    clock: Callable[[Launch], float] = seconds_of
    budget_s: float = _BUDGET_S
    tilings: dict[tuple[object, ...], Tiling] = field(default_factory=dict)

    def settle(self, choices: Iterable[Choice]) -> None:
        """Choose, by the file or else by the clock, what has not been chosen yet. Not while a graph
        is captured, for measuring waits for the device."""
        open_ones = [choice for choice in choices if choice.of not in self.tilings]
        if not open_ones or _is_capturing(self.device):
            return
        known, found = self.file.read(), {}
        for choice in open_ones:
            kept = known.get(choice.name)
            if kept in choice.tilings:
                self.tilings[choice.of] = kept
            elif self.budget_s > 0 and len(choice.tilings) > 1:
                tiling = self._measured(choice)
                if tiling is not None:
                    found[choice.name] = self.tilings[choice.of] = tiling
        if found:
            self.file.add(found)

    def _measured(self, choice: Choice) -> Tiling | None:
        """None: the device has no room to measure."""
        start = time.monotonic()
        try:
            chosen = fastest(choice.name, choice.tilings, choice.trial(), self.clock)
        except FAILURES as error:
            _logger.warning("%s is not measured: %s", choice.name, error)
            return None
        finally:
            self.budget_s -= time.monotonic() - start
            # `do_bench` empties the GPU's cache with a tensor of 256 MB, which torch would keep.
            torch.cuda.empty_cache()
        _logger.info("%s: %s of %d", choice.name, chosen, len(choice.tilings))
        return chosen


def fastest(
    name: str, tilings: Sequence[Tiling], trial: Trial, clock: Callable[[Launch], float]
) -> Tiling:
    """The fastest of the tilings that give the bits of the first."""
    first, *others = tilings
    expected = _bits(trial, first)
    best, least_s = first, _GAIN * clock(trial.launch(first))
    for tiling in others:
        try:
            if not torch.equal(_bits(trial, tiling), expected):
                _logger.warning("%s: %s gives other bits, and is not used", name, tiling)
                continue
            seconds = clock(trial.launch(tiling))
        except FAILURES as error:
            _logger.debug("%s: %s does not run: %s", name, tiling, error)
            continue
        if seconds < least_s:
            best, least_s = tiling, seconds
    return best


def _bits(trial: Trial, tiling: Tiling) -> torch.Tensor:
    """The bytes of what a launch writes."""
    out = trial.out.view(torch.uint8)
    out.fill_(_NEVER)
    trial.launch(tiling).run()
    return out.clone()


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
