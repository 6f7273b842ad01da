"""When a chunk's text looks wrong enough for a more accurate model to try, and which text is kept.

The signals are those of openai/whisper's fallback, with thresholds of their own: there a wrong
guess costs another try of the same model, here the price of a larger one. But for its mean
logarithm of probabilities the mean of these themselves is taken, which tells better where a larger
model helps (docs/scaling.md).
"""

import math
from dataclasses import dataclass, field

from deployments.fleet import TierFacts
from deployments.messages import ChunkResult
from deployments.transcript.stitching import repeats_itself
from engine import Segment

LANGUAGE = "language"
PROBABILITY = "probability"
"""The doubt that a larger model may share."""
_NGRAM = 4
_MIN_WORDS = 12
"""Shorter texts repeat themselves by chance."""


@dataclass(frozen=True, slots=True)
class CascadeOptions:
    """
    Args:
        min_token_prob: text whose tokens are less probable than this, on average.
        max_compression_ratio: text that compresses better than this loops.
        max_no_speech_prob: above this, a chunk in which voice was found is taken for silence.
        max_repeated: share of its words in sequences of four that were there before.
        min_language_prob: a chunk whose language was told from itself and is less sure than this.
        hopeless_token_prob: text that looks wrong and whose new words are less probable than this,
            on average (`fresh_prob`): of such chunks one is tried for the others (`Trials`). 0: all
            go up.
    """

    min_token_prob: float = 0.8
    max_compression_ratio: float = 2.4
    max_no_speech_prob: float = 0.6
    max_repeated: float = 0.3
    min_language_prob: float = 0.5
    hopeless_token_prob: float = 0.5

    def doubt(self, result: ChunkResult, language: str | None) -> str | None:
        """Why a result looks wrong, in one word; None: it does not.

        Args:
            language: that the file is known to be in.
        """
        loop = self.loop(result)
        if loop is not None:
            return loop
        if language is not None and result.language != language:
            return LANGUAGE
        if result.language_prob < self.min_language_prob:
            return LANGUAGE
        if result.no_speech_prob > self.max_no_speech_prob:
            return "no_speech"
        return PROBABILITY if token_prob(result) < self.min_token_prob else None

    def loop(self, result: ChunkResult) -> str | None:
        """What shows that a text says the same over and over; None: nothing does."""
        text = "".join(segment.text for segment in result.segments)
        if result.compression_ratio > self.max_compression_ratio:
            return "compression"
        if repeats_itself(result) or repeated_share(text) > self.max_repeated:
            return "repetition"
        return None

    def is_hopeless(self, result: ChunkResult) -> bool:
        """Whether next to nothing of a text may be what was said."""
        return fresh_prob(result) < self.hopeless_token_prob

    def prefers(self, lower: ChunkResult | None, higher: ChunkResult) -> bool:
        """Whether a smaller model's text, of which nothing was wrong but that it was not sure of
        it, is kept: where the larger one loops or is still less sure, it more often makes things
        up."""
        if lower is None:
            return False
        return self.loop(higher) is not None or fresh_prob(lower) > fresh_prob(higher)


@dataclass(frozen=True, slots=True)
class Ladder:
    """Tiers by how accurate they are, for a file whose chunks may go from one to the next.

    Attributes:
        tiers: that may be taken.
        options: when a chunk goes up.
    """

    tiers: tuple[TierFacts, ...]
    options: CascadeOptions = field(default_factory=CascadeOptions)

    def above(self, tier: str, language: str | None, task: str) -> int | None:
        """The quality that a better tier than this has more of; None: none is better that can do
        the task in the language."""
        quality = next(facts.quality for facts in self.tiers if facts.name == tier)
        able = [facts.quality for facts in self.tiers if facts.can(language, task)]
        return quality if quality < max(able, default=0) else None

    def below_best(self, language: str | None, task: str) -> int | None:
        """The quality that only the best tiers that can do the task in the language have more of;
        None: all are as good."""
        able = {facts.quality for facts in self.tiers if facts.can(language, task)}
        return max(able - {max(able, default=0)}, default=None)


def token_prob(result: ChunkResult) -> float:
    """Mean probability of a result's tokens, 0 to 1; of one without any, that of its end."""
    logprobs = [logprob for segment in result.segments for logprob in segment.logprobs]
    if not logprobs:
        return math.exp(result.avg_logprob)
    return sum(map(math.exp, logprobs)) / len(logprobs)


def fresh_prob(result: ChunkResult) -> float:
    """Mean probability of a text's tokens without timestamps and without those that continue a
    sequence of four that was there before: of what it repeats even a lost model is sure. 0 to 1."""
    tokens = [pair for segment in result.segments for pair in _text_tokens(segment)]
    seen: set[tuple[int, ...]] = set()
    fresh = []
    for end, (_, logprob) in enumerate(tokens, 1):
        ngram = tuple(token for token, _ in tokens[max(0, end - _NGRAM) : end])
        if len(ngram) < _NGRAM or ngram not in seen:
            fresh.append(math.exp(logprob))
        seen.add(ngram)
    return sum(fresh) / len(fresh) if fresh else math.exp(result.avg_logprob)


def repeated_share(text: str) -> float:
    """Of a text's sequences of four words, those that were there before, 0 to 1."""
    words = text.lower().split()
    if len(words) < _MIN_WORDS:
        return 0.0
    ngrams = [tuple(words[start : start + _NGRAM]) for start in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams)


def _text_tokens(segment: Segment) -> list[tuple[int, float]]:
    """Tokens of a segment's text and their logarithms; a timestamp begins it, and one ends it
    unless the model gave no end."""
    pairs = list(zip(segment.tokens, segment.logprobs, strict=False))
    return pairs[1:] if segment.end_s is None else pairs[1:-1]
