"""Keywords of rows, on the device: which tokens they favour, and where a choice leads.

Shapes: m rows, K tokens that go on from a state at most, R tokens that begin a keyword, C tokens
that a row favours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from engine.decoding.keyword_graph import KeywordGraph, Step
from engine.transfer import upload

NO_SPEECH = 0.6
"""From this probability of no speech on, keywords are not favoured: openai/whisper's threshold."""
OFF = -1
"""The state of a row that favours nothing, because nobody seems to speak."""
_FEW = 32
"""States with more steps than this are in a table of their own: they are the first letters of many
keywords. Most states have one or two."""


class KeywordTables:
    """A graph as tensors."""

    def __init__(self, graph: KeywordGraph, device: torch.device) -> None:
        many = [number for number, steps in enumerate(graph.steps) if len(steps) > _FEW]
        # Behind the others there is a row without anything for `OFF`.
        few = [*(steps if len(steps) <= _FEW else [] for steps in graph.steps), []]
        self._is_glued, self._opens = (
            torch.tensor(values, device=device)
            for values in (graph.texts.is_glued, graph.texts.opens)
        )
        self._opened = graph.opened
        self._few = _Steps.of(few, device)
        self._many = _Steps.of([[], *(graph.steps[number] for number in many)], device)
        self._starts = _Steps.of([graph.starts, graph.opened_starts], device)
        place = torch.zeros(len(graph) + 1, dtype=torch.int64)
        place[many] = torch.arange(1, len(many) + 1)
        self._place_among_many = place.to(device)
        self._fallbacks = torch.tensor([*graph.fallbacks, 0], device=device)
        numbers = range(len(graph))
        at_fallback = [*map(graph.at_fallback, numbers), 0.0]
        self._at_fallback = torch.tensor(at_fallback, device=device)
        lost = [[graph.lost(number, glued) for glued in (False, True)] for number in numbers]
        self._lost = torch.tensor([*lost, [0.0, 0.0]], device=device)

    def candidates(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(m,) states -> (m, C) tokens that are favoured, -1 where there are fewer, and their
        bonuses."""
        return self._all("tokens", states), self._all("bonuses", states)

    def gains(self, states: torch.Tensor) -> torch.Tensor:
        """(m,) states -> (m, n_words) float32: what each ordinary token adds to a text's score."""
        lost = self._lost[states]
        gains = -torch.where(self._is_glued, lost[:, 1:], lost[:, :1])
        gains = F.pad(gains, (0, 1))  # the last column takes what stands for no token
        nothing = gains.shape[1] - 1
        shorter = self._fallbacks[states]
        begins = self._begins(states)
        begins = begins.masked_fill(begins < 0, nothing)
        added = gains.gather(1, begins) + self._starting("gains", states)
        gains = gains.scatter(1, begins, added)
        for at, more in ((shorter, self._at_fallback[states][:, None]), (states, 0.0)):
            tokens = self._own("tokens", at)
            tokens = tokens.masked_fill(tokens < 0, nothing)
            gains = gains.scatter(1, tokens, self._own("gains", at) + more)
        return gains[:, :nothing]

    def gain_at_end(self, states: torch.Tensor) -> torch.Tensor:
        """(m,) states -> (m,) float32: what the end of the text, or a timestamp, adds."""
        return -self._lost[states, 0]

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(m,) states and the tokens chosen there -> (m,) states."""
        matches = self._all("tokens", states) == tokens[:, None]
        first = matches.int().argmax(1, keepdim=True)
        target = self._all("targets", states).gather(1, first)[:, 0]
        is_word = tokens < len(self._opens)
        opens = is_word & self._opens[torch.where(is_word, tokens, 0)] & (states != OFF)
        otherwise = torch.where(opens, self._opened, states.clamp(max=0))
        return torch.where(matches.any(1), target, otherwise)

    def _all(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """(m, C): of the steps from states, of those from their fallbacks, and last of those that
        begin a keyword."""
        own, shorter = self._own(name, states), self._own(name, self._fallbacks[states])
        if name == "tokens":
            return torch.cat([own, shorter, self._begins(states)], 1)
        return torch.cat([own, shorter, self._starting(name, states)], 1)

    def _own(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """(m, K): of the steps from states."""
        few: torch.Tensor = getattr(self._few, name)[states]
        many: torch.Tensor = getattr(self._many, name)[self._place_among_many[states]]
        return torch.cat([few, many], 1)

    def _begins(self, states: torch.Tensor) -> torch.Tensor:
        """(m, R) tokens that begin a keyword."""
        starts = self._starting("tokens", states)
        return starts.masked_fill(states[:, None] == OFF, -1)

    def _starting(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """(m, R): of the steps that begin a keyword."""
        starts: torch.Tensor = getattr(self._starts, name)
        return starts[(states == self._opened).long()]


@dataclass(frozen=True)
class _Steps:
    """Steps from S states, (S, width) each: int64 and float32."""

    tokens: torch.Tensor
    targets: torch.Tensor
    bonuses: torch.Tensor
    gains: torch.Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[Step]], device: torch.device) -> "_Steps":
        shape = (len(rows), max(1, *map(len, rows)))
        at = [(row, column) for row, steps in enumerate(rows) for column in range(len(steps))]
        where = tuple(torch.tensor(at, dtype=torch.int64).view(-1, 2).T)
        steps = [step for row in rows for step in row]

        def table(values: list[float] | list[int], empty: torch.Tensor) -> torch.Tensor:
            return empty.index_put(where, torch.tensor(values, dtype=empty.dtype)).to(device)

        whole, broken = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
        return cls(
            tokens=table([step.token for step in steps], whole - 1),
            targets=table([step.target for step in steps], whole),
            bonuses=table([step.bonus for step in steps], broken),
            gains=table([step.gain for step in steps], broken),
        )


@dataclass(frozen=True)
class Bias:
    """Rows of a batch that have the same keywords.

    Attributes:
        rows: their numbers.
        index: the same, (m,) int64.
        states: (m,) int64, where they are in the graph.
    """

    tables: KeywordTables
    rows: tuple[int, ...]
    index: torch.Tensor
    states: torch.Tensor

    @classmethod
    def of(cls, tables: KeywordTables, rows: Sequence[int], states: torch.Tensor) -> "Bias":
        """
        Args:
            states: of all rows of the batch.
        """
        index = upload(list(rows), states.device)
        return cls(tables, tuple(rows), index, states[index])

    def among(self, rows: Sequence[int]) -> "Bias | None":
        """The same for a batch of some of the rows; None if there is none among them."""
        number = {row: place for place, row in enumerate(rows)}
        kept = [place for place, row in enumerate(self.rows) if row in number]
        if not kept:
            return None
        renamed = [number[self.rows[place]] for place in kept]
        device = self.states.device
        return Bias(
            self.tables,
            tuple(renamed),
            upload(renamed, device),
            self.states[upload(kept, device)],
        )
