"""Which weights of a run are its result: a pure function of its measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.settings import FinetuneSettings, ValidationSet

MEASURED = "measured"
STEPPED = "step"


@dataclass(frozen=True, slots=True)
class Selection:
    """What measurements say.

    Attributes:
        best_step: the step whose weights are the best that keep all bounds; 0: those that the run
            began with.
        stale: measurements since then.
        before, best: word error rates of each set, in percent, at step 0 and at `best_step`.
    """

    best_step: int
    stale: int
    before: Mapping[str, float]
    best: Mapping[str, float]

    def is_over(self, settings: FinetuneSettings) -> bool:
        """Whether patience has run out."""
        return settings.patience is not None and self.stale >= settings.patience


def selection(
    records: Sequence[Mapping[str, Any]], sets: Sequence[ValidationSet]
) -> Selection | None:
    """Choose among the measurements of a history; None if there are none.

    The best has the lowest mean of word error rates over the sets without a bound, the first of
    equals. Measurements at which a set with a bound lost more than it may are left out.
    """
    measured = [record for record in records if record["kind"] == MEASURED]
    if not measured:
        return None
    before: Mapping[str, float] = measured[0]["wer"]
    chosen = [each.name for each in sets if each.max_rise is None]
    rises = {each.name: each.max_rise for each in sets if each.max_rise is not None}
    bounds = {name: before[name] + rise for name, rise in rises.items()}
    best, best_index = measured[0], 0
    for index, record in enumerate(measured):
        rates = record["wer"]
        keeps = all(rates[name] <= bound for name, bound in bounds.items())
        if keeps and _mean(rates, chosen) < _mean(best["wer"], chosen):
            best, best_index = record, index
    return Selection(best["step"], len(measured) - 1 - best_index, before, best["wer"])


def _mean(rates: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(rates[name] for name in names) / len(names)
