"""What was heard of each clip in each way, scored."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.short_windows.clips import Clip
from benchmarks.words.results import Difference, Result
from benchmarks.words.results import compare as compare_results
from benchmarks.words.results import score as score_result


class Done(Protocol):
    """See `ways.Done`, whose module is slow to import."""

    text: str
    n_short: int
    n_again: int
    took_s: float


@dataclass(frozen=True)
class Line(Result):
    """One clip in one way. `length` names the clip's range of seconds."""

    way: str
    length: str
    n_short: int
    n_again: int
    took_s: float


def score(clip: Clip, way: str, done: Done) -> Line:
    low_s, high_s = clip.length_s
    return Line(
        **asdict(score_result(clip, done.text)),
        way=way,
        length=f"{low_s:g} to {high_s:g} s",
        n_short=done.n_short,
        n_again=done.n_again,
        took_s=round(done.took_s, 4),
    )


def load(path: Path) -> list[Line]:
    """Empty if there is nothing yet."""
    if not path.exists():
        return []
    return [Line(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def append(path: Path, line: Line) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(line), ensure_ascii=False) + "\n")


def compare(pairs: Sequence[tuple[Line, Line]]) -> Difference:
    """Word error rates of short and exact windows on the same clips."""
    return compare_results(*zip(*pairs, strict=True))
