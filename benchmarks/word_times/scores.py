"""How far the edges of words are off, where they are known."""

import difflib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scoring import TimedText
from benchmarks.word_times.corpus import Prompt


@dataclass(frozen=True)
class Edge:
    """An edge of a word that was recognised.

    Attributes:
        off_s: how much later it was said to be.
    """

    language: str
    is_start: bool
    off_s: float


@dataclass(frozen=True)
class _Known:
    word: str
    start_s: float | None
    end_s: float | None


def edges(language: str, prompts: Sequence[Prompt], said: Sequence[TimedText]) -> list[Edge]:
    """The known edges of the words that were recognised: where each prompt begins and ends."""
    known = [item for prompt in prompts for item in _known(prompt)]
    heard = [each for each in said if _plain(each.text)]
    matcher = difflib.SequenceMatcher(
        None, [item.word for item in known], [_plain(each.text) for each in heard], autojunk=False
    )
    found = []
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            item, word = known[block.a + offset], heard[block.b + offset]
            if item.start_s is not None:
                found.append(Edge(language, True, word.start_s - item.start_s))
            if item.end_s is not None:
                found.append(Edge(language, False, word.end_s - item.end_s))
    return found


def faults(said: Sequence[TimedText], duration_s: float) -> dict[str, int]:
    """Words that are outside the file, overlap, go back, or have no length."""
    pairs = list(zip(said, said[1:], strict=False))
    return {
        "outside": sum(w.start_s < 0 or w.end_s > duration_s + 0.001 for w in said),
        "overlapping": sum(b.start_s < a.end_s - 1e-6 for a, b in pairs),
        "going back": sum(b.start_s < a.start_s for a, b in pairs),
        "without length": sum(w.end_s <= w.start_s for w in said),
    }


def share_off(found: Sequence[Edge], limit_s: float) -> float:
    """The share of edges that are off by more than `limit_s`."""
    return float(np.mean([abs(edge.off_s) > limit_s for edge in found]))


def median_off_ms(found: Sequence[Edge], is_start: bool) -> float:
    return 1000 * float(np.median([abs(e.off_s) for e in found if e.is_start == is_start]))


def _known(prompt: Prompt) -> list[_Known]:
    words = [word for word in map(_plain, prompt.text.split()) if word]
    last = len(words) - 1
    return [
        _Known(word, None if at else prompt.start_s, prompt.end_s if at == last else None)
        for at, word in enumerate(words)
    ]


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if c.isalnum())
