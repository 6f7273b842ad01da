"""Results by file, kept as JSON lines, and what they say of two systems.

A system's word error rate in a language is all its errors over all words. Whether two systems
differ is told by a paired bootstrap over files: files, with both systems' errors in them, are drawn
again and again, and 95 % of the differences lie in the interval.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks import scoring

_N_DRAWS = 10_000


@dataclass(frozen=True)
class Result:
    """One file as one system heard it. Counts are words; `text` and `said` are normalised."""

    name: str
    language: str
    condition: str
    words: int
    errors: int
    deletions: int
    insertions: int
    text: str
    said: str


@dataclass(frozen=True)
class Difference:
    """Word error rates of two systems on the same files, and their difference with the ends of its
    95 % interval; all in percent."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    words: int

    @property
    def interval(self) -> str:
        """The difference and its ends, as tables have them."""
        return f"{self.difference:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


class Spoken(Protocol):
    """Anything of which it is known what is said in it."""

    @property
    def name(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def condition(self) -> str: ...
    @property
    def text(self) -> str: ...


def score(recording: Spoken, said: str) -> Result:
    """Accents do not count outside English: some references were written without them."""
    fold = recording.language != "en"
    rate = scoring.wer(recording.text, said, recording.language, fold_accents=fold)
    return Result(
        name=recording.name,
        language=recording.language,
        condition=recording.condition,
        words=rate.length,
        errors=rate.errors,
        deletions=rate.deletions,
        insertions=rate.insertions,
        text=scoring.normalise(recording.text, recording.language, fold_accents=fold),
        said=scoring.normalise(said, recording.language, fold_accents=fold),
    )


def load(path: Path) -> dict[str, Result]:
    """Results by file name; empty if there are none yet."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {result.name: result for result in (Result(**json.loads(line)) for line in lines)}


def append(path: Path, result: Result) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")


def compare(ours: Sequence[Result], theirs: Sequence[Result]) -> Difference:
    """Compare two systems on the same files, in the same order."""
    counts = np.array([(a.errors, b.errors, a.words) for a, b in zip(ours, theirs, strict=True)])
    draws = np.random.default_rng(1).integers(len(counts), size=(_N_DRAWS, len(counts)))
    sums = counts[draws].sum(1)
    differences = 100 * (sums[:, 0] - sums[:, 1]) / sums[:, 2]
    low, high = np.percentile(differences, (2.5, 97.5))
    mine, other, words = counts.sum(0)
    return Difference(
        ours=100 * mine / words,
        theirs=100 * other / words,
        difference=100 * (mine - other) / words,
        low=float(low),
        high=float(high),
        words=int(words),
    )


def moved(before: Result, after: Result) -> Iterable[str]:
    """The words that changed between two results of a file, each change with a word before and
    behind it; those of the reference follow."""
    old, new, truth = before.said.split(), after.said.split(), before.text.split()
    changes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for kind, i, j, k, m in changes:
        if kind == "equal":
            continue
        left, right = " ".join(old[max(0, i - 3) : i]), " ".join(old[j : j + 3])
        was, now = " ".join(old[i:j]), " ".join(new[k:m])
        yield f"{left} [{was or '-'} -> {now or '-'}] {right}   | {_nearby(truth, old, i)}"


def _nearby(truth: Sequence[str], said: Sequence[str], position: int) -> str:
    """The reference's words around a position of what was said."""
    blocks = SequenceMatcher(None, said, truth, autojunk=False).get_matching_blocks()
    before = [block for block in blocks if block.a <= position]
    shift = before[-1].b - before[-1].a if before else 0
    place = max(0, position + shift)
    return " ".join(truth[max(0, place - 3) : place + 6])
