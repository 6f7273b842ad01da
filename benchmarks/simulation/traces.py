"""Requests that arrive over a day, generated from a seed.

Rates are in requests per second. A trace is an iterator in order of time, so that a day of millions
needs no memory.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deployments.fleet import Priority

DAY_S = 86_400.0
_BLOCK_S = 60.0
"""Random numbers drawn at once: one by one they cost more than everything else."""
Seconds = npt.NDArray[np.float64]
Rate = Callable[[Seconds], Seconds]


class Arrival(NamedTuple):
    """A request.

    Attributes:
        audio_s: its length.
        language: ISO code.
        work_s: seconds of ordinary audio that would take as long, if known; None: `audio_s`.
    """

    at_s: float
    audio_s: float
    language: str
    priority: Priority
    work_s: float | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind.

    Attributes:
        rate: the rate at each second; never above `peak`.
        median_s: median of their lengths, which are log-normal.
        spread: standard deviation of the lengths' logarithms.
    """

    rate: Rate
    peak: float
    priority: Priority = Priority.INTERACTIVE
    median_s: float = 20.0
    spread: float = 0.8
    english: float = 0.6
    longest_s: float = 4 * 3600.0

    def arrivals(self, start_s: float, end_s: float, rng: np.random.Generator) -> Iterator[Arrival]:
        """A Poisson process with a changing rate, by thinning one with the peak rate."""
        begins_s = start_s
        while begins_s < end_s:
            ends_s = min(begins_s + _BLOCK_S, end_s)
            n = rng.poisson(self.peak * (ends_s - begins_s))
            at_s = np.sort(rng.uniform(begins_s, ends_s, n))
            at_s = at_s[rng.random(n) * self.peak < self.rate(at_s)]
            lengths = self.median_s * np.exp(self.spread * rng.standard_normal(len(at_s)))
            english = rng.random(len(at_s)) < self.english
            rows = (at_s.tolist(), np.minimum(lengths, self.longest_s).tolist(), english.tolist())
            for at, audio_s, is_english in zip(*rows, strict=True):
                yield Arrival(at, audio_s, "en" if is_english else "fr", self.priority)
            begins_s = ends_s


def merged(
    streams: tuple[Stream, ...], start_s: float, end_s: float, seed: int
) -> Iterator[Arrival]:
    """All streams merged in order of time; each has its own random numbers."""
    parts = [
        stream.arrivals(start_s, end_s, np.random.default_rng([seed, index]))
        for index, stream in enumerate(streams)
    ]
    yield from parts[0] if len(parts) == 1 else heapq.merge(*parts)


def diurnal(mean: float) -> tuple[Stream, ...]:
    """A day and a night: three times as many by day as at four in the morning."""

    def rate(now: Seconds) -> Seconds:
        return mean * (1 - 0.5 * np.cos(2 * math.pi * (now - 4 * 3600) / DAY_S))

    return (Stream(rate, 1.5 * mean),)


def bursty(mean: float) -> tuple[Stream, ...]:
    """In every ten minutes, two with three times the mean and the others with half of it."""

    def rate(now: Seconds) -> Seconds:
        return mean * np.where(now % 600 < 120, 3.0, 0.5)

    return (Stream(rate, 3.0 * mean),)


def flash_crowd(mean: float) -> tuple[Stream, ...]:
    """Ten times as many from noon on, within a minute, for a quarter of an hour."""

    def rate(now: Seconds) -> Seconds:
        since = now - DAY_S / 2
        risen = np.clip(since / 60, 0.0, 1.0)
        return mean * (1 + 9 * np.where(since < 900, risen, 0.0))

    return (Stream(rate, 10.0 * mean),)


def long_files_overnight(mean: float) -> tuple[Stream, ...]:
    """A diurnal day, and one-hour recordings that come at night and may wait until morning."""

    def night(now: Seconds) -> Seconds:
        return np.where(now % DAY_S < 6 * 3600, mean / 200, 0.0)

    files = Stream(night, mean / 200, Priority.BATCH, median_s=3600.0, spread=0.3)
    return (*diurnal(mean), files)


TRACES: dict[str, Callable[[float], tuple[Stream, ...]]] = {
    "diurnal": diurnal,
    "bursty": bursty,
    "flash-crowd": flash_crowd,
    "overnight": long_files_overnight,
}
