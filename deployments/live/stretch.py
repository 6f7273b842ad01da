"""A stretch of speech: what one window of the model hears of a turn, at most 30 s.

A turn is one stretch or several: a long pause, or a short one once there is much audio, ends a
stretch. Its text grows as its looks come back, and never changes.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from deployments.live.policy import Look, Policy
from deployments.live.voice import Frame
from deployments.messages import ChunkResult
from deployments.transcript.echo import MAX_LETTERS_PER_S
from deployments.transcript.scripts import letters
from engine import SAMPLE_RATE, DecodingOptions, Word

_LEAD_PAUSE, _LEAD_MARGIN = round(0.3 * SAMPLE_RATE), round(0.05 * SAMPLE_RATE)
_FEWEST_LETTERS_PER_S, _SLOW_S = 4.0, 0.4
"""A third of the usual rate, of all voice but so many seconds."""
PAUSE_S = 1.0
"""A pause of this length ends a stretch."""
_ROOMY_S, _FULL_S = 12.0, 28.0
"""From the first of these lengths on, a shorter pause ends a stretch, and at the second none is
needed: a window has 30 s."""
_SHORTEST_PAUSE_S = 0.1
_SETTLED = round(0.1 * SAMPLE_RATE)
"""So much silence behind its speech a look must have heard to know its last word."""


@dataclass(frozen=True, slots=True)
class Text:
    """Tokens with the logarithms of their probabilities."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()

    def __add__(self, other: "Text") -> "Text":
        return Text(self.tokens + other.tokens, self.logprobs + other.logprobs)

    def __getitem__(self, part: slice) -> "Text":
        return Text(self.tokens[part], self.logprobs[part])

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Heard:
    """A look's result and the sample up to which it heard."""

    stop: int
    result: ChunkResult


@dataclass(frozen=True, slots=True)
class Model:
    """What a session needs to know of its model.

    Attributes:
        vocabulary: the bytes of each text token, by id.
    """

    name: str
    vocabulary: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Lead:
    """The end of what was said before a stretch, which the model hears, and is told, once more:
    with a voice in its ears it makes fewer mistakes in the first words.

    Attributes:
        pcm: its audio.
        speech: spans of voice in it.
        tokens: its text.
    """

    pcm: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, np.int16))
    speech: tuple[tuple[int, int], ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(eq=False, slots=True)
class Stretch:
    """Attributes:
    start: its first sample in the session.
    stop: the sample behind its last; None: it goes on.
    voiced: spans of samples with voice, in order.
    model, decoding: what hears it, and how.
    prompt: what is told to the model before it; None: that is not known yet.
    lead: what it hears before it.
    said: its text so far.
    words: those of its text, with their times by the newest look.
    new_words: those of them that are told with the newest part of the text.
    latest: the newest look.
    attempts: results of its whole audio, if the first was not good.
    needs_whole: a short window of its audio gave a text that is in doubt.
    """

    start: int
    policy: Policy
    model: Model
    decoding: DecodingOptions
    prompt: str | None = None
    lead: Lead = field(default_factory=Lead)
    stop: int | None = None
    voiced: list[tuple[int, int]] = field(default_factory=list)
    said: Text = Text()
    language: str | None = None
    latest: Heard | None = None
    attempts: list[ChunkResult] = field(default_factory=list)
    words: tuple[Word, ...] = ()
    new_words: tuple[Word, ...] = ()
    is_done: bool = False
    needs_whole: bool = False
    _said_until_s: float = 0.0
    _lengths: list[tuple[Word, int]] = field(default_factory=list)

    @property
    def voice_stop(self) -> int:
        """Where its last voice ended."""
        return self.voiced[-1][1] if self.voiced else self.start

    @property
    def heard_until(self) -> int:
        return self.start if self.latest is None else self.latest.stop

    def hear(self, frame: Frame, is_voiced: bool) -> None:
        if not is_voiced:
            return
        if self.voiced and self.voiced[-1][1] == frame.start:
            self.voiced[-1] = (self.voiced[-1][0], frame.stop)
        else:
            self.voiced.append((frame.start, frame.stop))

    def enough_pause_s(self, now: int) -> float:
        """The pause that ends it if it reaches to sample `now`."""
        length_s = (now - self.start + len(self.lead.pcm)) / SAMPLE_RATE
        if length_s >= _FULL_S:
            return 0.0
        full = max(0.0, (length_s - _ROOMY_S) / (_FULL_S - _ROOMY_S))
        return PAUSE_S - full * (PAUSE_S - _SHORTEST_PAUSE_S)

    def is_covered_by(self, stop: int) -> bool:
        """Whether a look up to this sample has heard all of its speech."""
        return stop >= (self.voice_stop + _SETTLED if self.stop is None else self._needed)

    @property
    def _needed(self) -> int:
        assert self.stop is not None
        return min(self.voice_stop + _SETTLED, self.stop)

    def speech(self, stop: int) -> tuple[tuple[int, int], ...]:
        """Spans of voice up to a sample, in samples of the stretch."""
        return tuple(
            (max(first, self.start) - self.start, min(last, stop) - self.start)
            for first, last in self.voiced
            if first < stop and min(last, stop) > self.start
        )

    def voiced_s(self, stop: int) -> float:
        return sum(last - first for first, last in self.speech(stop)) / SAMPLE_RATE

    def max_new_tokens(self, stop: int) -> int:
        """More than anybody says in the audio that has no text yet; a loop would go on for ever."""
        left_s = (stop - self.start) / SAMPLE_RATE - self._said_until_s
        return min(224, 24 + math.ceil(20 * max(left_s, 0.0)))

    def hypothesis(self, result: ChunkResult) -> Text:
        """What a result has behind the text that is final already."""
        text, known = text_of(result), self.lead.tokens + self.said.tokens
        assert text.tokens[: len(known)] == known or not text
        return text[len(known) :]

    def is_cut_short(self, heard: Heard) -> bool:
        """Whether the model has taken the lead for all there is, as happens."""
        fewest = _FEWEST_LETTERS_PER_S * (self.voiced_s(heard.stop) - _SLOW_S)
        return bool(self.lead.tokens) and self._letters(heard.result) < fewest

    def outruns_voice(self, heard: Heard) -> bool:
        """Whether nobody could have said so much."""
        most = MAX_LETTERS_PER_S * (self.voiced_s(heard.stop) + _SLOW_S)
        return self._letters(heard.result) > most

    def _letters(self, result: ChunkResult) -> float:
        """Letters of the stretch's text with what a result adds to it."""
        said = self.said + self.hypothesis(result)
        return letters(self.text(said).decode("utf-8", "replace"))

    def advance(self, heard: Heard) -> Text:
        """Take a look at a stretch that goes on; returns what is final now."""
        self.latest = heard
        new = self.hypothesis(heard.result)
        if not new:
            return new
        ends_s = self._token_ends_s(heard.result)
        pieces = tuple(self.model.vocabulary[token] for token in new.tokens)
        audio_s = (heard.stop - self.start) / SAMPLE_RATE
        n = self.policy.final(Look(new.tokens, pieces, new.logprobs, ends_s, audio_s))
        if n:
            before = len(self.said)
            self.said += new[:n]
            self._place(heard.result, before)
            self._said_until_s = ends_s[n - 1] if ends_s else max(0.0, audio_s - 2.0)
            self.language = heard.result.language
        return new[:n]

    def finish(self, result: ChunkResult | None) -> Text:
        """Take the result of its whole audio, None: its text is what was said already; returns what
        is final now."""
        self.is_done = True
        if result is None:
            return Text()
        new, before = self.hypothesis(result), len(self.said)
        self.said += new
        self.language = result.language
        self._place(result, before)
        return new

    def _place(self, result: ChunkResult, before: int) -> None:
        """Take the times of words from a result, as far as they are final.

        Args:
            before: tokens that were final before it.
        """
        found = self._placed_words(result)
        lengths = [n for _, n in self._own_words(result)]
        ends = list(accumulate(lengths))
        whole = bisect_right(ends, len(self.said))
        self.words = found[:whole]
        self.new_words = found[bisect_right(ends, before) : whole]
        self._lengths = list(zip(self.words, lengths, strict=False))

    def text(self, part: Text) -> bytes:
        return b"".join(self.model.vocabulary[token] for token in part.tokens)

    def _own_words(self, result: ChunkResult) -> list[tuple[Word, int]]:
        """The words of a result behind the lead, with their numbers of tokens."""
        found, n_lead = words_with_lengths(result, self.model.vocabulary), len(self.lead.tokens)
        own = []
        for word, n in found:
            if n_lead <= 0:
                own.append((word, n))
            n_lead -= n
        return own

    def _token_ends_s(self, result: ChunkResult) -> tuple[float, ...]:
        """When the word of each new token ended, in seconds from the stretch's beginning; empty if
        the words have no times."""
        lead_s = len(self.lead.pcm) / SAMPLE_RATE
        ends = [(word.end_s - lead_s, n) for word, n in self._own_words(result)]
        if not ends:
            return ()
        found = [end_s for end_s, n in ends for _ in range(n)]
        n_all = len(text_of(result)) - len(self.lead.tokens)
        return tuple([*found, *[ends[-1][0]] * (n_all - len(found))][len(self.said) :])

    def as_lead(self, pcm: npt.NDArray[np.int16], max_s: float) -> Lead:
        """The end of this stretch, for the next one; empty if it has no words.

        Args:
            pcm: its audio.
            max_s: the longest that it may be.
        """
        stop = min(self.voice_stop - self.start + _LEAD_PAUSE, len(pcm))
        at = len(self.said)
        chosen: tuple[int, int] | None = None
        for word, n in reversed(self._lengths):
            first = max(0, round(word.start_s * SAMPLE_RATE) - self.start - _LEAD_MARGIN)
            if stop - first > max_s * SAMPLE_RATE:
                break
            at -= n
            chosen = (first, at)
        if chosen is None:
            return Lead()
        first, at = chosen
        speech = tuple(
            (max(a - first, 0), min(b, stop) - first)
            for a, b in self.speech(self.start + stop)
            if b > first
        )
        return Lead(pcm[first:stop], speech, self.said.tokens[at:])

    def _placed_words(self, result: ChunkResult) -> tuple[Word, ...]:
        """The words on the session's clock, with the probabilities that their tokens had when they
        were found."""
        words, at, first_s = [], 0, (self.start - len(self.lead.pcm)) / SAMPLE_RATE
        for word, n in self._own_words(result):
            logprobs = self.said.logprobs[at : at + n]
            mean = sum(map(math.exp, logprobs)) / len(logprobs) if logprobs else word.probability
            at += n
            words.append(
                replace(
                    word,
                    start_s=round(word.start_s + first_s, 3),
                    end_s=round(word.end_s + first_s, 3),
                    probability=round(mean, 4),
                )
            )
        return tuple(words)


def text_of(result: ChunkResult) -> Text:
    """The text of a result that was decoded without timestamps."""
    tokens = tuple(token for segment in result.segments for token in segment.tokens)
    logprobs = tuple(logprob for segment in result.segments for logprob in segment.logprobs)
    return Text(tokens, logprobs)


def words_with_lengths(
    result: ChunkResult, vocabulary: tuple[bytes, ...]
) -> list[tuple[Word, int]]:
    """The words of a result, each with its number of tokens: a word's tokens have its bytes."""
    sizes = iter([len(vocabulary[token]) for token in text_of(result).tokens])
    found = []
    for word in (word for segment in result.segments for word in segment.words):
        n_bytes, n = 0, 0
        while n_bytes < len(word.text.encode()) and (size := next(sizes, None)) is not None:
            n_bytes, n = n_bytes + size, n + 1
        found.append((word, n))
    return found
