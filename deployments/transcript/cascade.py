"""When a chunk's text looks wrong enough for a more accurate model to try, and which text is kept.

The signals are those of openai/whisper's fallback, with other thresholds: there a wrong guess costs
another attempt of the same model, here it costs the price of a larger one. Instead of the mean log
probability, the mean probability is used, because it tells better where a larger model helps
(docs/scaling.md).
"""

import math
from dataclasses import dataclass, field

from deployments.fleet import TierFacts
from deployments.messages import ChunkResult
from deployments.transcript.scripts import words
from deployments.transcript.stitching import repeats_itself
from engine import Segment

LANGUAGE = "language"
PROBABILITY = "probability"
"""The one doubt that may also apply to the larger model's text: see `CascadeOptions.prefers`."""
_NGRAM = 4
_MIN_WORDS = 12
"""Shorter texts repeat themselves by chance."""


@dataclass(frozen=True, slots=True)
class CascadeOptions:
    """When a result looks wrong.

    Args:
        min_token_prob: text whose tokens are less probable than this on average looks wrong.
        max_compression_ratio: text that compresses better than this loops.
        max_no_speech_prob: above this, the model took a chunk for silence in which voice was found.
        max_repeated: above this share of repeated four-word sequences, text loops.
        min_language_prob: a chunk whose language was detected with a lower probability looks wrong.
        hopeless_token_prob: text that looks wrong and whose new tokens are less probable than this
            on average (`fresh_prob`) is hopeless: one such chunk is tried on behalf of others
            (`Trials`). 0: all go up.
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
            language: of the file; None while it is unknown.
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
        """What shows that a text repeats itself; None: nothing does."""
        text = "".join(segment.text for segment in result.segments)
        if result.compression_ratio > self.max_compression_ratio:
            return "compression"
        if repeats_itself(result) or repeated_share(text) > self.max_repeated:
            return "repetition"
        return None

    def is_hopeless(self, result: ChunkResult) -> bool:
        """Whether hardly any of a text can be what was said."""
        return fresh_prob(result) < self.hopeless_token_prob

    def prefers(self, lower: ChunkResult | None, higher: ChunkResult) -> bool:
        """Whether to keep a smaller model's text whose only fault was low probability. Where the
        larger model's text loops or is even less probable, that one is more often made up."""
        if lower is None:
            return False
        return self.loop(higher) is not None or fresh_prob(lower) > fresh_prob(higher)


@dataclass(frozen=True, slots=True)
class Ladder:
    """The tiers among which a file's chunks may move up to more accurate ones.

    Attributes:
        tiers: tiers that may be used.
        options: when a chunk goes up.
    """

    tiers: tuple[TierFacts, ...]
    options: CascadeOptions = field(default_factory=CascadeOptions)

    def above(self, tier: str, language: str | None, task: str) -> int | None:
        """The quality that a better tier must exceed; None: no better tier can do the task in the
        language."""
        quality = next(facts.quality for facts in self.tiers if facts.name == tier)
        able = [facts.quality for facts in self.tiers if facts.can(language, task)]
        return quality if quality < max(able, default=0) else None

    def below_best(self, language: str | None, task: str) -> int | None:
        """The quality that only the best tiers able to do the task in the language exceed; None:
        all are equally good."""
        able = {facts.quality for facts in self.tiers if facts.can(language, task)}
        return max(able - {max(able, default=0)}, default=None)


def token_prob(result: ChunkResult) -> float:
    """Mean probability of a result's tokens, 0 to 1; without tokens, that of its end token."""
    logprobs = [logprob for segment in result.segments for logprob in segment.logprobs]
    if not logprobs:
        return math.exp(result.avg_logprob)
    return sum(map(math.exp, logprobs)) / len(logprobs)


def fresh_prob(result: ChunkResult) -> float:
    """Mean probability of a text's new tokens, 0 to 1. Timestamps do not count, nor do tokens that
    end a sequence of four that occurred before: even a lost model is sure of what it repeats."""
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
    """The share of a text's four-word sequences that occurred before, 0 to 1."""
    said = words(text)
    if len(said) < _MIN_WORDS:
        return 0.0
    ngrams = [tuple(said[start : start + _NGRAM]) for start in range(len(said) - _NGRAM + 1)]
    return 1 - len(set(ngrams)) / len(ngrams)


def _text_tokens(segment: Segment) -> list[tuple[int, float]]:
    """Tokens of a segment's text, with their log probabilities. A timestamp begins the segment, and
    another ends it unless the model gave no end."""
    pairs = list(zip(segment.tokens, segment.logprobs, strict=False))
    return pairs[1:] if segment.end_s is None else pairs[1:-1]
