"""What to make of a chunk's result: keep it, drop it as silence, or decode again less greedily.

The rules and thresholds are those of openai/whisper's `transcribe` (`decode_with_fallback`). If
every temperature fails, the most likely text that does not loop is kept, as in faster-whisper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.messages import ChunkResult
from engine import DecodingOptions


@dataclass(frozen=True, slots=True)
class FallbackOptions:
    """When a result looks wrong.

    Args:
        temperatures: tried in order until a result looks right.
        max_compression_ratio: text that compresses better than this loops.
        min_avg_logprob: text less likely than this (natural logarithm, mean over tokens) is
            likely wrong.
        max_no_speech_prob: above this, unlikely text is dropped as silence.
    """

    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    max_compression_ratio: float = 2.4
    min_avg_logprob: float = -1.0
    max_no_speech_prob: float = 0.6

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise ValueError("temperatures must name at least one")
        for temperature in self.temperatures:
            DecodingOptions(temperature=temperature)  # raises if it is out of range


def is_silence(result: ChunkResult, options: FallbackOptions) -> bool:
    """Whether the model itself doubts that there is speech, and also doubts what it wrote."""
    return (
        result.no_speech_prob > options.max_no_speech_prob
        and result.avg_logprob < options.min_avg_logprob
    )


def is_doubtful(result: ChunkResult, options: FallbackOptions) -> bool:
    """Whether any sign speaks against a text: this is enough to reject text from a second look."""
    return result.no_speech_prob > options.max_no_speech_prob or looks_wrong(result, options)


def looks_wrong(result: ChunkResult, options: FallbackOptions) -> bool:
    """Whether another temperature should be tried."""
    if is_silence(result, options):
        return False
    return (
        result.compression_ratio > options.max_compression_ratio
        or result.avg_logprob < options.min_avg_logprob
    )


def best_result(results: Sequence[ChunkResult], options: FallbackOptions) -> ChunkResult:
    """The result to keep after the last attempt: the last if it looks right, otherwise the most
    likely of those that do not loop."""
    last = results[-1]
    if not looks_wrong(last, options) and (len(results) == 1 or not is_silence(last, options)):
        return last
    sound = [r for r in results if r.compression_ratio <= options.max_compression_ratio]
    return max(sound or results, key=lambda result: result.avg_logprob)
