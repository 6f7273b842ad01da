"""Keywords as paths of tokens that decoding favours (shallow fusion with a context graph).

A keyword is matched byte by byte, so every way to write it in tokens is a path. In a beam search,
each token along a path adds to the score of its text, which pays all of it back where the path
breaks off: a text that only begins like a keyword gains nothing. Greedy decoding has no other text
to go back to. There a token on a path has a smaller bonus, which counts for that choice alone.
"""

import unicodedata
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from engine.decoding.token_texts import TokenTexts, goes_on, is_unspaced

START_GAIN = 1.0
"""What the first token of a keyword adds to the score of a text in a beam search, in nats."""
BYTE_GAIN = 0.5
"""What each byte of a keyword adds besides."""
MOST_GAIN = 6.0
"""What a keyword of weight 1 adds at most. More would write all of a long one where its beginning
was said."""
MOST_WEIGHTED_GAIN = 9.0
"""What any keyword adds at most. With twice as much, a search fills the text with the keyword."""
GREEDY_BONUS = 0.35
"""What each byte earns in greedy decoding. Chosen as the gains were, on made speech (docs/
benchmarks.md); what begins a keyword earns nothing more, for it may be another word."""
_BLANK = 0x20


@dataclass(slots=True)
class _State:
    """The beginning of one keyword or more.

    Attributes:
        depth: bytes of the path that leads to it.
        weight: the greatest of these keywords' weights.
        earned: what these bytes have added to the score of a text.
        is_end: whether it is a whole keyword.
        is_free: whether this keyword is one whatever follows it, for its script has no blanks.
        kept: what remains of `earned` if the path breaks off here, with something that does not,
            or does, go on with the same word: what whole keywords on the path have added.
        fallback: the state of the longest end of its path that begins a keyword, too.
        next: the states behind it, by byte.
    """

    depth: int = 0
    weight: float = 0.0
    earned: float = 0.0
    is_end: bool = False
    is_free: bool = False
    kept: tuple[float, float] = (0.0, 0.0)
    fallback: int = 0
    next: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """A token on a path.

    Attributes:
        target: the state to which it leads.
        bonus: what it earns in greedy decoding.
        gain: by how much it changes the score of a text.
    """

    token: int
    target: int
    bonus: float
    gain: float


class KeywordGraph:
    """An automaton over tokens for the keywords of a request (Aho and Corasick's, over bytes).

    States are numbers; 0 is on no path. From a state, a token follows the first of these that it is
    on: the state's own paths, those of its fallback, and those of keywords that begin with it.

    Args:
        keywords: each with its weight, a factor of its bonus.

    Attributes:
        opened: the state behind what a word may follow without a blank, if it is on no path.
        starts: tokens that begin a keyword, from any state but that.
        opened_starts: those from that state.
        steps: for each state the tokens on its own paths.
        fallbacks: of each state.
    """

    def __init__(self, keywords: Sequence[tuple[str, float]], texts: TokenTexts) -> None:
        self.texts = texts
        self._states = [_State()]
        for keyword, weight in keywords:
            for spelling in _spellings(keyword):
                self._add(spelling, weight)
        self._link()
        self.opened = self._states[0].next[_BLANK]
        self.starts = [step for step in self._own_steps(0) if step.target != self.opened]
        begun = {step.token for step in self.starts}
        behind = self._own_steps(self.opened)
        self.opened_starts = [*self.starts, *(step for step in behind if step.token not in begun)]
        self.steps = [
            [] if number in (0, self.opened) else list(self._own_steps(number))
            for number in range(len(self._states))
        ]
        self.fallbacks = [
            0 if state.fallback == self.opened else state.fallback for state in self._states
        ]

    @cached_property
    def _step_of(self) -> list[dict[int, Step]]:
        return [{step.token: step for step in steps} for steps in self.steps]

    @cached_property
    def _start_of(self) -> dict[int, Step]:
        return {step.token: step for step in self.starts}

    @cached_property
    def _opened_start_of(self) -> dict[int, Step]:
        return {step.token: step for step in self.opened_starts}

    def __len__(self) -> int:
        """The number of states."""
        return len(self._states)

    def lost(self, state: int, is_glued: bool) -> float:
        """What a text pays back if it leaves a state's path."""
        return self._states[state].earned - self._states[state].kept[is_glued]

    def at_fallback(self, state: int) -> float:
        """By how much the score of a text changes if it goes on from a state's fallback."""
        return self._states[self.fallbacks[state]].earned - self.lost(state, False)

    def score(self, tokens: Sequence[int]) -> float:
        """What a whole text has earned."""
        state, total = self.follow(tokens)
        return total - self.lost(state, False)

    def follow(self, tokens: Sequence[int]) -> tuple[int, float]:
        """The state behind a text that may go on, and what it has earned on the way there."""
        state, total = 0, 0.0
        is_glued, opens = self.texts.is_glued, self.texts.opens
        for token in tokens:
            is_word = token < len(is_glued)
            glued = is_word and is_glued[token]
            starts = self._opened_start_of if state == self.opened else self._start_of
            shorter = self.fallbacks[state]
            if step := self._step_of[state].get(token):
                total += step.gain
            elif step := self._step_of[shorter].get(token):
                total += step.gain + self.at_fallback(state)
            else:
                total -= self.lost(state, glued)
                step = starts.get(token)
                total += step.gain if step else 0.0
            otherwise = self.opened if is_word and opens[token] else 0
            state = step.target if step else otherwise
        return state, total

    def _add(self, spelling: str, weight: float) -> None:
        state = 0
        for depth, byte in enumerate(spelling.encode(), start=1):
            node = self._states[state]
            if byte not in node.next:
                node.next[byte] = len(self._states)
                self._states.append(_State(depth))
            state = node.next[byte]
            earned = min(
                weight * min(START_GAIN + BYTE_GAIN * depth, MOST_GAIN), MOST_WEIGHTED_GAIN
            )
            if spelling[:depth] == " ":  # whatever word comes
                earned = 0.0
            node = self._states[state]
            node.earned = max(node.earned, earned)
            node.weight = max(node.weight, weight)
        self._states[state].is_end = True
        self._states[state].is_free = is_unspaced(spelling[-1])

    def _link(self) -> None:
        """Set what depends on shorter paths, level by level."""
        waiting = deque([0])
        while waiting:
            number = waiting.popleft()
            state = self._states[number]
            for byte, target in state.next.items():
                child = self._states[target]
                child.fallback = self._fallback(number, byte)
                settled = state.kept[goes_on(byte)]
                shorter = self._states[child.fallback].kept
                ended = child.earned if child.is_end else 0.0
                child.kept = (
                    max(settled, shorter[False], ended),
                    max(settled, shorter[True], ended if child.is_free else 0.0),
                )
                # A keyword of less weight never takes back what a shorter one has added.
                child.earned = max(child.earned, *child.kept)
                waiting.append(target)

    def _fallback(self, number: int, byte: int) -> int:
        while number:
            number = self._states[number].fallback
            if byte in self._states[number].next:
                return self._states[number].next[byte]
        return 0

    def _own_steps(self, number: int) -> Iterator[Step]:
        """The tokens that lead from a state down its own paths."""
        start = self._states[number]
        waiting = [(start, b"")]
        while waiting:
            before, text = waiting.pop()
            for byte, target in before.next.items():
                state, longer = self._states[target], text + bytes([byte])
                token = self.texts.token_of.get(longer)
                if token is None:  # no token begins like this
                    continue
                if token >= 0:
                    bonus = state.weight * GREEDY_BONUS * len(longer)
                    yield Step(token, target, bonus, state.earned - start.earned)
                waiting.append((state, longer))


def _spellings(keyword: str) -> Iterator[str]:
    """How a keyword stands in a text: behind a blank, where its script has any, and with a capital
    at the beginning of a sentence."""
    keyword = unicodedata.normalize("NFC", keyword)  # as in the texts that models learn from
    for word in dict.fromkeys((keyword, keyword[:1].upper() + keyword[1:])):
        yield f" {word}"
        if is_unspaced(word[0]):
            yield word
