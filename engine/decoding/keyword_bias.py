"""Keywords of rows, on the device: which tokens they favour, and where a choice leads.

Shapes: m rows, K tokens that go on from a state at most, R tokens that begin a keyword.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

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
    """A graph as tensors.

    Args:
        is_glued: (n_words,) bool, for each ordinary token whether it goes on with the word before
            it.
    """

    def __init__(self, graph: KeywordGraph, is_glued: torch.Tensor) -> None:
        device = is_glued.device
        many = [number for number, steps in enumerate(graph.steps) if len(steps) > _FEW]
        # Behind the others there is a row without anything for `OFF`.
        few = [*(steps if len(steps) <= _FEW else [] for steps in graph.steps), []]
        self._is_glued = is_glued
        self._few = _Steps.of(few, device)
        self._many = _Steps.of([[], *(graph.steps[number] for number in many)], device)
        self._starts = _Steps.of([graph.starts], device)
        place = torch.zeros(len(graph) + 1, dtype=torch.int64)
        place[many] = torch.arange(1, len(many) + 1)
        self._place_among_many = place.to(device)
        lost = [
            *([graph.lost(state, glued) for glued in (False, True)] for state in range(len(graph))),
            [0.0, 0.0],
        ]
        self._lost = torch.tensor(lost, device=device)

    def candidates(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(m,) states -> (m, K + R) tokens, -1 where there are fewer, and their bonuses."""
        return self._both("tokens", states), self._both("bonuses", states)

    def gains(self, states: torch.Tensor) -> torch.Tensor:
        """(m,) states -> (m, n_words) float32: what each ordinary token adds to a text's score."""
        lost = self._lost[states]
        gains = -torch.where(self._is_glued, lost[:, 1:], lost[:, :1])
        tokens, found = self._both("tokens", states), self._both("gains", states)
        n_starts = self._starts.tokens.shape[1]
        # A keyword that begins ends the path before it.
        begins = tokens[:, tokens.shape[1] - n_starts :].clamp(min=0)
        found[:, tokens.shape[1] - n_starts :] += gains.gather(1, begins)
        found.masked_fill_(tokens < 0, float("-inf"))
        return gains.scatter_reduce(1, tokens.clamp(min=0), found, "amax")

    def gain_at_end(self, states: torch.Tensor) -> torch.Tensor:
        """(m,) states -> (m,) float32: what the end of the text, or a timestamp, adds."""
        return -self._lost[states, 0]

    def advance(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(m,) states and the tokens chosen there -> (m,) states."""
        matches = self._both("tokens", states) == tokens[:, None]
        first = matches.int().argmax(1, keepdim=True)
        target = self._both("targets", states).gather(1, first)[:, 0]
        return torch.where(matches.any(1), target, states.clamp(max=0))

    def _both(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """(m, K + R): of the steps from states, and last of those that begin a keyword."""
        few: torch.Tensor = getattr(self._few, name)[states]
        many: torch.Tensor = getattr(self._many, name)[self._place_among_many[states]]
        starts: torch.Tensor = getattr(self._starts, name).expand(len(states), -1)
        if name == "tokens":
            starts = starts.masked_fill(states[:, None] == OFF, -1)
        return torch.cat([few, many, starts], 1)


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
