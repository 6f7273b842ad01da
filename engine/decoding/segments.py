"""Sampled tokens -> timed segments."""

import zlib

from engine.config import TIME_PRECISION_S
from engine.decoding.tokenizer import Tokenizer
from engine.request import Segment


def split_segments(tokens: list[int], tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """Cut a chunk's tokens at its timestamps.

    A segment's tokens lie between a start and an end timestamp and are returned with them. Text
    before any timestamp starts at 0; text that no timestamp closes has `end_s` None.
    """
    segments: list[Segment] = []
    start_s, current = 0.0, list[int]()
    for token in tokens:
        if token < tokenizer.timestamp_begin:
            current.append(token)
            continue
        time_s = _seconds(token, tokenizer)
        if _has_text(current, tokenizer):
            segments.append(_segment(start_s, time_s, [*current, token], tokenizer))
            current = []
        else:
            current = [token]
        start_s = time_s
    if _has_text(current, tokenizer):
        segments.append(_segment(start_s, None, current, tokenizer))
    return tuple(segment for segment in segments if segment.text.strip())


def compression_ratio(text: str) -> float:
    """Bytes of text per byte of it compressed; above 2.4 the text is likely a loop
    (openai/whisper, `utils.compression_ratio`)."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def _segment(
    start_s: float, end_s: float | None, tokens: list[int], tokenizer: Tokenizer
) -> Segment:
    return Segment(start_s, end_s, tokenizer.decode(tokens), tuple(tokens))


def _has_text(tokens: list[int], tokenizer: Tokenizer) -> bool:
    return any(token < tokenizer.eot for token in tokens)


def _seconds(token: int, tokenizer: Tokenizer) -> float:
    return round((token - tokenizer.timestamp_begin) * TIME_PRECISION_S, 2)
