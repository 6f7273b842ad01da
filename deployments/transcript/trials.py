"""Of the chunks whose text is hopeless, a better model tries one in eight on behalf of the others.

Where a small model understands next to nothing, a larger one may do well or just as badly. That
depends on the two models and on the sound, which is much the same throughout a file.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Generic, TypeVar

_FOLLOWERS = 7
"""Number of hopeless chunks that follow the outcome of the one tried before them. Trying one in
eight costs little, and keeps up with a sound that may change within minutes."""

Waiting = TypeVar("Waiting")
"""What waits for a trial: a part of the file."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A hopeless chunk that a better tier tries on behalf of the next ones on its tier."""

    tier: str
    number: int


class Trials(Generic[Waiting]):
    """The trials of one file, and the parts that wait for them."""

    def __init__(self) -> None:
        self._n: Counter[str] = Counter()
        self._helped: dict[Trial, bool] = {}
        self._followers: list[tuple[Waiting, Trial]] = []

    def join(self, tier: str, waiting: Waiting) -> Trial | None:
        """The trial that a tier's next hopeless chunk becomes; None: it has to wait for the trial
        before it, until `released` returns it."""
        number, place = divmod(self._n[tier], 1 + _FOLLOWERS)
        self._n[tier] += 1
        trial = Trial(tier, number)
        if place == 0:
            return trial
        self._followers.append((waiting, trial))
        return None

    def end(self, trial: Trial, helped: bool) -> None:
        """Take the outcome of a trial: whether a better tier understood more. The first outcome
        counts."""
        self._helped.setdefault(trial, helped)

    def released(self) -> list[tuple[Waiting, bool]]:
        """What waited for a trial that has ended, each once, and whether the trial helped."""
        ended = [(w, self._helped[t]) for w, t in self._followers if t in self._helped]
        self._followers = [each for each in self._followers if each[1] not in self._helped]
        return ended
