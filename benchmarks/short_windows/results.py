"""What was heard of each clip in each way, scored."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks import scoring
from benchmarks.short_windows.clips import Clip
from benchmarks.words.results import Difference, Result
from benchmarks.words.results import compare as compare_results


class Done(Protocol):
    """See `ways.Done`, whose module is slow to import."""

    text: str
    n_short: int
    n_again: int
    took_s: float


@dataclass(frozen=True)
class Line:
    """One clip in one way. Counts are words; `text` and `said` are normalised. `length` names the
    clip's range of seconds."""

    name: str
    way: str
    language: str
    condition: str
    length: str
    words: int
    errors: int
    deletions: int
    insertions: int
    text: str
    said: str
    n_short: int
    n_again: int
    took_s: float


def score(clip: Clip, way: str, done: Done) -> Line:
    """Accents do not count outside English: some references were written without them."""
    fold = clip.language != "en"
    rate = scoring.wer(clip.text, done.text, clip.language, fold_accents=fold)
    low_s, high_s = clip.length_s
    return Line(
        name=clip.name,
        way=way,
        language=clip.language,
        condition=clip.condition,
        length=f"{low_s:g} to {high_s:g} s",
        words=rate.length,
        errors=rate.errors,
        deletions=rate.deletions,
        insertions=rate.insertions,
        text=scoring.normalise(clip.text, clip.language, fold_accents=fold),
        said=scoring.normalise(done.text, clip.language, fold_accents=fold),
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
    return compare_results(*zip(*[(_result(a), _result(b)) for a, b in pairs], strict=True))


def _result(line: Line) -> Result:
    return Result(
        name=line.name,
        language=line.language,
        condition=line.condition,
        words=line.words,
        errors=line.errors,
        deletions=line.deletions,
        insertions=line.insertions,
        text=line.text,
        said=line.said,
    )
