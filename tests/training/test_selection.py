"""Which weights are chosen: a pure function of the measurements."""

from typing import Any

import pytest

from training.selection import selection
from training.settings import ValidationSet

SETS = (
    ValidationSet(name="words", manifest="a.jsonl"),
    ValidationSet(name="general", manifest="b.jsonl", max_rise=0.5),
)


def _measured(step: int, words: float, general: float) -> dict[str, Any]:
    return {"kind": "measured", "step": step, "wer": {"words": words, "general": general}}


@pytest.mark.parametrize(
    ("rates", "best", "stale"),
    [
        ([(40, 3)], 0, 0),
        ([(40, 3), (20, 3.4), (30, 3)], 1, 1),
        ([(40, 3), (20, 3.6), (30, 3)], 2, 0),  # the lowest loses too much elsewhere
        ([(40, 3), (40, 2), (41, 2)], 0, 2),  # no better is not better
        ([(40, 3), (10, 9), (9, 9)], 0, 2),
        ([(40, 3), (20, 3.5)], 1, 0),  # the bound itself is kept
    ],
)
def test_the_lowest_that_keeps_its_bounds(
    rates: list[tuple[float, float]], best: int, stale: int
) -> None:
    records = [_measured(step, *pair) for step, pair in enumerate(rates)]
    chosen = selection([{"kind": "step", "step": 0}, *records], SETS)
    assert chosen is not None
    assert (chosen.best_step, chosen.stale) == (best, stale)
    assert chosen.before == records[0]["wer"] and chosen.best == records[best]["wer"]


def test_nothing_measured_nothing_chosen() -> None:
    assert selection([{"kind": "step", "step": 1, "loss": 1.0}], ()) is None
