"""The texts that a chunk's rows stand for, on the host: which have ended, and which is the best.

`BeamSearch` is openai/whisper's `BeamSearchDecoder`, `BestOf` its sampling of several texts, and
`_rank` its `MaximumLikelihoodRanker` (whisper/decoding.py). The device chooses how rows go on
(`beam_step`); nothing here reaches it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Sampled tokens without the end token.

    Attributes:
        logprobs: one for each token.
        sum_logprob: their sum; with that of the end token if the text has ended.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    sum_logprob: float = 0.0
    has_ended: bool = False

    def extended(self, token: int, logprob: float) -> "Hypothesis":
        return Hypothesis(
            (*self.tokens, token), (*self.logprobs, logprob), self.sum_logprob + logprob
        )

    def ended(self, logprob: float) -> "Hypothesis":
        return Hypothesis(self.tokens, self.logprobs, self.sum_logprob + logprob, True)


@dataclass(frozen=True, slots=True)
class Row:
    """What a step gave for one of a chunk's rows.

    Attributes:
        token, logprob: the token that was chosen for it.
        parent: the number of the row whose text it continues.
        end_logprob: of the end token behind the text that the row stood for before; -inf if that
            was not among the best.
    """

    token: int
    logprob: float
    parent: int = 0
    end_logprob: float = float("-inf")


class Hypotheses(Protocol):
    """A chunk's texts while it is decoded."""

    def append(self, rows: Sequence[Row]) -> bool:
        """Take a step of all rows; returns whether no further step is needed."""

    def best(self) -> Hypothesis:
        """The text to keep."""


class BeamSearch:
    """The likeliest texts, as many as there are rows.

    Args:
        n_beams: rows.
        patience: the search ends when `n_beams * patience` texts have ended (arXiv:2204.05424).
        length_penalty: see `_rank`.
        gain: what keywords add to the score of a text, by its tokens.
    """

    def __init__(
        self,
        n_beams: int,
        patience: float,
        length_penalty: float | None,
        gain: Callable[[Sequence[int]], float] | None = None,
    ) -> None:
        self._n_beams = n_beams
        self._n_enough = max(1, round(n_beams * patience))
        self._length_penalty = length_penalty
        self._gain = gain
        self._going = [Hypothesis()]
        self._ended: list[Hypothesis] = []

    def append(self, rows: Sequence[Row]) -> bool:
        before = self._going
        # At the first step all rows stand for the same, empty text.
        ended = [
            text.ended(row.end_logprob)
            for text, row in zip(before, rows, strict=False)
            if row.end_logprob > float("-inf")
        ]
        ended.sort(key=self._total, reverse=True)
        self._ended += ended[: self._n_enough - len(self._ended)]
        self._going = [before[row.parent].extended(row.token, row.logprob) for row in rows]
        return len(self._ended) >= self._n_enough

    def best(self) -> Hypothesis:
        n_missing = self._n_beams - len(self._ended)
        going = sorted(self._going, key=self._total, reverse=True)
        texts = [*self._ended, *going[: max(0, n_missing)]]
        return _rank(texts, self._length_penalty, self._total)

    def _total(self, text: Hypothesis) -> float:
        gained = 0.0 if self._gain is None else self._gain(text.tokens)
        return text.sum_logprob + gained


class BestOf:
    """Independently sampled texts, one in each row.

    Args:
        eot: id of the end token.
    """

    def __init__(self, n_texts: int, length_penalty: float | None, eot: int) -> None:
        self._length_penalty = length_penalty
        self._eot = eot
        self._texts = [Hypothesis()] * n_texts

    def append(self, rows: Sequence[Row]) -> bool:
        self._texts = [self._next(text, row) for text, row in zip(self._texts, rows, strict=True)]
        return all(text.has_ended for text in self._texts)

    def best(self) -> Hypothesis:
        return _rank(self._texts, self._length_penalty)

    def _next(self, text: Hypothesis, row: Row) -> Hypothesis:
        if text.has_ended:
            return text
        return (
            text.ended(row.logprob)
            if row.token == self._eot
            else text.extended(row.token, row.logprob)
        )


def _rank(
    texts: Sequence[Hypothesis],
    length_penalty: float | None,
    total: Callable[[Hypothesis], float] = lambda text: text.sum_logprob,
) -> Hypothesis:
    """The text with the greatest total for its length: divided by the number of tokens, or, with a
    penalty, by ((5 + n) / 6) ** penalty (arXiv:1609.08144, eq. 14). The first of equals."""

    def score(text: Hypothesis) -> float:
        n = len(text.tokens)
        if length_penalty is None:
            return total(text) / n if n else float("-inf")
        return total(text) / float(((5 + n) / 6) ** length_penalty)

    return max(texts, key=score)
