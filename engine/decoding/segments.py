"""Sampled tokens -> timed segments."""

import zlib
from collections.abc import Sequence

from engine.config import TIME_PRECISION_S
from engine.decoding.tokenizer import Tokenizer
from engine.request import Segment


def split_segments(
    tokens: Sequence[int], tokenizer: Tokenizer, logprobs: Sequence[float] = ()
) -> tuple[Segment, ...]:
    """Cut a chunk's tokens at its timestamps.

    A segment's tokens lie between a start and an end timestamp and are returned with them. Text
    before any timestamp starts at 0; text that no timestamp closes has `end_s` None.

    Args:
        logprobs: one for each token, or none at all.
    """
    segments: list[Segment] = []
    start_s, first, has_text = 0.0, 0, False

    def close(end_s: float | None, stop: int) -> None:
        part = slice(first, stop)
        text = tokenizer.decode(tokens[part])
        segments.append(Segment(start_s, end_s, text, tuple(tokens[part]), tuple(logprobs[part])))

    for index, token in enumerate(tokens):
        if token < tokenizer.timestamp_begin:
            has_text = has_text or token < tokenizer.eot
            continue
        time_s = _seconds(token, tokenizer)
        if has_text:
            close(time_s, index + 1)
        # A segment's end timestamp does not belong to the next segment; a start timestamp does.
        first, start_s, has_text = index + has_text, time_s, False
    if has_text:
        close(None, len(tokens))
    return tuple(segment for segment in segments if segment.text.strip())


def compression_ratio(text: str) -> float:
    """Characters of a text per byte of it compressed; above 2.4 the text is likely a loop.

    Of text in ASCII it is `utils.compression_ratio` of openai/whisper. That one compresses UTF-8,
    where letters of other scripts have bytes in common: correct Russian reaches 2.4, and correct
    Hindi, Tamil or Thai is beyond it throughout. Here each different character is one byte.
    """
    codes = {character: code % 256 for code, character in enumerate(dict.fromkeys(text))}
    data = text.encode() if text.isascii() else bytes(codes[character] for character in text)
    return len(data) / len(zlib.compress(data))


def _seconds(token: int, tokenizer: Tokenizer) -> float:
    return round((token - tokenizer.timestamp_begin) * TIME_PRECISION_S, 2)
