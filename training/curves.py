"""Loss and word error rate of a run by step, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.pictures import save_picture
from training.selection import MEASURED, STEPPED

_SMOOTHED = 20


def draw(records: Sequence[Mapping[str, Any]], stem: Path, title: str) -> None:
    """Write STEM.png and STEM.svg."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "murmur"  # the same file from the same numbers
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    steps = [record for record in records if record["kind"] == STEPPED]
    measured = [record for record in records if record["kind"] == MEASURED]
    losses = [record["loss"] for record in steps]
    left.plot([r["step"] for r in steps], losses, alpha=0.3, label="training, each step")
    left.plot([r["step"] for r in steps], _smooth(losses), label=f"mean of {_SMOOTHED} steps")
    for name in measured[0]["loss"] if measured else ():
        points = [(r["step"], r["loss"][name]) for r in measured]
        left.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    for name in measured[0]["wer"] if measured else ():
        points = [(r["step"], r["wer"][name]) for r in measured]
        right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="loss of a token", title=title)
    right.set(xlabel="step", ylabel="word error rate, %", ylim=(0, None))
    left.legend(fontsize=8)
    if measured:
        right.legend(fontsize=8)
    save_picture(figure, stem)
    pyplot.close(figure)


def _smooth(values: Sequence[float]) -> list[float]:
    return [
        sum(part) / len(part)
        for end in range(1, len(values) + 1)
        if (part := values[max(0, end - _SMOOTHED) : end])
    ]
