"""Requests that arrive over a day, made up with a seed.

Rates are of requests a second. A trace is an iterator in order of time, so that a day of millions
needs no memory.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from deployments.fleet import Priority

DAY_S = 86_400.0
Rate = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request.

    Attributes:
        audio_s: its length.
        language: ISO code.
    """

    at_s: float
    audio_s: float
    language: str
    priority: Priority


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind.

    Attributes:
        rate: at each second; never above `peak`.
        median_s: of their lengths, which are log-normal.
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
        """A Poisson process of a changing rate, by thinning one of the greatest."""
        now = start_s
        while True:
            now += rng.exponential(1 / self.peak)
            if now >= end_s:
                return
            if rng.random() * self.peak >= self.rate(now):
                continue
            audio_s = min(self.median_s * math.exp(self.spread * rng.standard_normal()),
                          self.longest_s)  # fmt: skip
            language = "en" if rng.random() < self.english else "fr"
            yield Arrival(now, audio_s, language, self.priority)


def merged(
    streams: tuple[Stream, ...], start_s: float, end_s: float, seed: int
) -> Iterator[Arrival]:
    """All streams, in order of time; each has random numbers of its own."""
    parts = [
        stream.arrivals(start_s, end_s, np.random.default_rng([seed, index]))
        for index, stream in enumerate(streams)
    ]
    yield from heapq.merge(*parts, key=lambda arrival: arrival.at_s)


def diurnal(mean: float) -> tuple[Stream, ...]:
    """A day with its night: three times as many by day as at four in the morning."""

    def rate(now: float) -> float:
        return mean * (1 - 0.5 * math.cos(2 * math.pi * (now - 4 * 3600) / DAY_S))

    return (Stream(rate, 1.5 * mean),)


def bursty(mean: float) -> tuple[Stream, ...]:
    """Quiet for 8 of 10 minutes and three times the mean in the others, over half of it."""

    def rate(now: float) -> float:
        return mean * (3.0 if now % 600 < 120 else 0.5)

    return (Stream(rate, 3.0 * mean),)


def flash_crowd(mean: float) -> tuple[Stream, ...]:
    """Ten times as many from noon on, within a minute, for a quarter of an hour."""

    def rate(now: float) -> float:
        since = now - DAY_S / 2
        if not 0 <= since < 900:
            return mean
        return mean * (1 + 9 * min(1.0, since / 60))

    return (Stream(rate, 10.0 * mean),)


def long_files_overnight(mean: float) -> tuple[Stream, ...]:
    """A diurnal day, and recordings of an hour that come at night with time until the morning."""

    def night(now: float) -> float:
        return mean / 200 if now % DAY_S < 6 * 3600 else 0.0

    files = Stream(night, mean / 200, Priority.BATCH, median_s=3600.0, spread=0.3)
    return (*diurnal(mean), files)


TRACES: dict[str, Callable[[float], tuple[Stream, ...]]] = {
    "diurnal": diurnal,
    "bursty": bursty,
    "flash-crowd": flash_crowd,
    "overnight": long_files_overnight,
}
