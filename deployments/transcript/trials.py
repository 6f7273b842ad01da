"""Of chunks whose text is hopeless, one in eight is tried by a better model for the others.

Where a small model understands next to nothing, a larger one may do well or as badly; that depends
on the two and on the sound, which is much the same all through a file.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

_FOLLOWERS = 7
"""Hopeless chunks that do as the one before them that was tried: an eighth of them costs little,
and what a file sounds like may change within minutes."""

Waiting = TypeVar("Waiting")
"""What waits for a trial: a part of the file."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A hopeless chunk that a better tier tries for those that come after it on its tier."""

    tier: str
    number: int


class Trials(Generic[Waiting]):
    """The trials of one file, and what waits for them."""

    def __init__(self) -> None:
        self._n: Counter[str] = Counter()
        self._helped: dict[Trial, bool] = {}
        self._followers: list[tuple[Waiting, Trial]] = []

    def join(self, tier: str, waiting: Waiting) -> Trial | None:
        """The trial that a tier's next hopeless chunk is to be; None: it waits for the one before
        it, until `released`."""
        number, place = divmod(self._n[tier], 1 + _FOLLOWERS)
        self._n[tier] += 1
        trial = Trial(tier, number)
        if place == 0:
            return trial
        self._followers.append((waiting, trial))
        return None

    def end(self, trial: Trial, helped: bool) -> None:
        """Take what came of it, whether a better tier understood more; the first answer counts."""
        self._helped.setdefault(trial, helped)

    def released(self) -> list[tuple[Waiting, bool]]:
        """Those whose trial has ended, each once, and whether it helped."""
        ended = [(w, self._helped[t]) for w, t in self._followers if t in self._helped]
        self._followers = [each for each in self._followers if each[1] not in self._helped]
        return ended
