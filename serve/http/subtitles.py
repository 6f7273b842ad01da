"""Lays out a transcript that a caller sends back, corrected perhaps, as subtitles or a table."""

import asyncio
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.messages import Transcript, TranscriptSegment
from engine import Word
from serve.http.cue_limits import CueLimits
from serve.http.fields import FieldError
from serve.http.lines import LineFormat, to_lines

MAX_BYTES = 64_000_000
"""Several times a transcript of six hours."""
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class SubtitleWord(_Part):
    """A word as `verbose_json` has it."""

    word: str
    start: _Seconds
    end: _Seconds
    probability: float = 1.0


class SubtitleSegment(_Part):
    """A segment as `verbose_json` has it, with its own words if they have times."""

    start: _Seconds
    end: _Seconds
    text: str
    words: list[SubtitleWord] = []

    def segment(self) -> TranscriptSegment:
        words = tuple(_spaced(self.text, self.words))
        return TranscriptSegment(
            self.start, self.end, self.text, (), 0.0, 0.0, 1.0, 0.0, "", words=words
        )


class SubtitleRequest(_Part):
    """The body of `POST /v1/audio/subtitles`."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    format: LineFormat
    """Format of the answer."""
    segments: list[SubtitleSegment]
    """In order. Cues follow the times of words; a segment without words is one cue."""
    max_line_width: Annotated[int, Field(ge=1, le=1000)] = CueLimits().max_line_width
    """Characters of a line."""
    max_line_count: Annotated[int, Field(ge=1, le=20)] = CueLimits().max_line_count
    """Lines of a cue."""
    max_words_per_line: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Words of a line."""
    max_cue_s: Annotated[float, Field(ge=0.5, le=60)] = CueLimits().max_cue_s
    """Seconds of a cue."""
    highlight_words: bool = False
    """Underline each word while it is said."""


def parse_subtitles(body: bytes) -> SubtitleRequest:
    """Parse the body.

    Raises:
        FieldError: it is no JSON of this shape.
    """
    try:
        return SubtitleRequest.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise FieldError(f"invalid {name or 'body'}: {fault['msg']}", name) from error


async def lay_out_subtitles(asked: SubtitleRequest) -> str:
    """The file. On a thread, because hours of words take a second."""
    return await asyncio.to_thread(_lay_out, asked)


def _lay_out(asked: SubtitleRequest) -> str:
    limits = CueLimits(
        asked.max_line_width,
        asked.max_line_count,
        asked.max_words_per_line,
        asked.max_cue_s,
        asked.highlight_words,
    )
    segments = tuple(segment.segment() for segment in asked.segments)
    return to_lines(Transcript("", "", 0.0, "transcribe", segments), asked.format, limits)


def _spaced(text: str, words: Iterable[SubtitleWord]) -> Iterable[Word]:
    """The words with the blanks and signs before them in the text, which `verbose_json` leaves
    out: not every language has blanks. What follows the last word belongs to it."""
    at, spaced = 0, []
    for word in words:
        found = text.find(word.word, at)
        stop = found + len(word.word)
        spoken = text[at:stop] if found >= 0 else f" {word.word}"
        at = stop if found >= 0 else at
        spaced.append(Word(word.start, word.end, spoken, word.probability))
    if spaced and (rest := text[at:].rstrip()):
        last = spaced[-1]
        spaced[-1] = Word(last.start_s, last.end_s, last.text + rest, last.probability)
    return spaced
