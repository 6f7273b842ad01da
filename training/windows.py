"""Which clips make up which window of 30 s: a pure function of seed, epoch and number.

Nothing that is drawn depends on how a run came to a window. So a run that was stopped goes on with
the very windows that it would have had, and workers agree without a word about who computes what.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine import N_SAMPLES, SAMPLE_RATE
from training.recordings import Clip
from training.settings import AugmentSettings, WindowSettings

MAX_CONTENT_TOKENS = 224
"""Tokens of a window's text with its times; a server samples no more."""
_N_KEPT_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Placed:
    """A clip in a window: its index, at which sample it begins, and how fast it plays."""

    clip: int
    first: int
    speed: float

    def n_samples(self, clip: Clip) -> int:
        """How long it is in the window."""
        return math.floor(clip.n_samples / self.speed)


@dataclass(frozen=True, slots=True)
class Window:
    """A window of 30 s.

    Attributes:
        seed: of what else is drawn for it, such as noise.
        timestamps: whether its labels have times.
        previous: index of another clip whose text it is told; None: no such text.
        tells_previous: whether it is told what was said before it, if that is known.
    """

    clips: tuple[Placed, ...]
    seed: tuple[int, int, int]
    timestamps: bool
    tells_previous: bool
    previous: int | None


class Windows:
    """The endless sequence of a run's windows.

    Args:
        clips: all clips of the training data.
        n_tokens: of each clip's label, times included.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        n_tokens: Sequence[int],
        windows: WindowSettings,
        augment: AugmentSettings,
        seed: int,
    ) -> None:
        self._clips = clips
        self._n_tokens = n_tokens
        self._settings = windows
        self._speed = augment.speed
        self._seed = seed
        self._ends: list[int] = []
        self._epochs: dict[int, list[Window]] = {}

    def __getitem__(self, number: int) -> Window:
        """The window with that number, from 0."""
        epoch = self.epoch_of(number)
        return self._epoch(epoch)[number - (self._ends[epoch - 1] if epoch else 0)]

    def epoch_of(self, number: int) -> int:
        """In which pass over the data a window lies."""
        while not self._ends or self._ends[-1] <= number:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._epoch(len(self._ends))))
        return next(epoch for epoch, end in enumerate(self._ends) if number < end)

    def _epoch(self, epoch: int) -> list[Window]:
        drawn = self._epochs.pop(epoch, None) or list(self._draw(epoch))
        self._epochs[epoch] = drawn  # last, so that those not used for long are first
        if len(self._epochs) > _N_KEPT_EPOCHS:
            del self._epochs[next(iter(self._epochs))]
        return drawn

    def _draw(self, epoch: int) -> Iterator[Window]:
        rng = np.random.default_rng([self._seed, epoch])
        order = rng.permutation(len(self._clips))
        at = number = 0
        while at < len(order):
            placed = self._fill(
                order[at:].tolist(), rng, packed=rng.random() < self._settings.packed
            )
            tells = bool(rng.random() < self._settings.previous_text)
            yield Window(
                clips=placed,
                seed=(self._seed, epoch, number),
                timestamps=bool(rng.random() < self._settings.timestamps),
                tells_previous=tells,
                previous=self._another(placed, rng) if tells else None,
            )
            at, number = at + len(placed), number + 1

    def _fill(
        self, order: Sequence[int], rng: np.random.Generator, packed: bool
    ) -> tuple[Placed, ...]:
        """The first clips of `order` that fit in one window; at least one."""
        placed: list[Placed] = []
        end = n_tokens = 0
        for index in order:
            clip = self._clips[index]
            pause = round(rng.uniform(*self._settings.pause_s) * SAMPLE_RATE) if packed else 0
            # A clip that is almost a window must not be slowed down beyond it.
            slowest = max(1 - self._speed, clip.n_samples / N_SAMPLES)
            speed = max(slowest, float(rng.uniform(1 - self._speed, 1 + self._speed)))
            first = end + pause if placed else 0
            candidate = Placed(index, first, speed)
            end = first + candidate.n_samples(clip)
            n_tokens += self._n_tokens[index]
            if placed and not self._has_room(placed[0], clip, end, n_tokens):
                break
            placed.append(candidate)
            if not packed:
                break
        return tuple(placed)

    def _has_room(self, first: Placed, clip: Clip, end: int, n_tokens: int) -> bool:
        same = self._clips[first.clip].language == clip.language
        return same and end <= N_SAMPLES and n_tokens <= MAX_CONTENT_TOKENS

    def _another(self, placed: Sequence[Placed], rng: np.random.Generator) -> int | None:
        """A clip of the same language that is not in the window; None if chance finds none."""
        inside = {each.clip for each in placed}
        language = self._clips[placed[0].clip].language
        for index in map(int, rng.integers(len(self._clips), size=8)):
            if index not in inside and self._clips[index].language == language:
                return index
        return None
