"""Renders a finished transcript as text, JSON or subtitles, and a growing one line by line.

Pure: no HTTP, no files, no models. The JSON shapes are those of OpenAI's `Transcription` and
`TranscriptionVerbose`; the caller turns them into bytes.
"""

import re
from collections.abc import Iterable
from typing import Literal, TypedDict

from deployments.messages import Transcript, TranscriptSegment

LineFormat = Literal["txt", "srt", "vtt"]
"""Formats that can be written segment by segment."""

_FRAMES_PER_S = 100  # Whisper's `seek` counts mel frames of 10 ms


class JsonTranscription(TypedDict):
    """OpenAI's `Transcription`."""

    text: str


class JsonWarning(TypedDict):
    """Audio that is missing or not reliable; `start` and `end` in seconds, None where unknown."""

    code: str
    message: str
    start: float | None
    end: float | None


class VerboseSegment(TypedDict):
    """OpenAI's `TranscriptionSegment`; times in seconds, `seek` in frames of 10 ms.

    `seek` is the segment's own start, not that of the window in which it was decoded: windows are
    cut in silence and mean nothing to a caller.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class VerboseWord(TypedDict):
    """OpenAI's `TranscriptionWord`, and how sure the model is of the word, 0 to 1."""

    word: str
    start: float
    end: float
    probability: float


class VerboseTranscription(TypedDict):
    """OpenAI's `TranscriptionVerbose`. `duration` is in seconds. `language` is an English name, or
    empty if nothing was heard: the type has no null, and a name would be made up."""

    task: str
    language: str
    duration: float
    text: str
    segments: list[VerboseSegment]


def to_text(transcript: Transcript) -> str:
    """OpenAI's `text`: the whole text and a line break. For a line per segment see `to_lines`."""
    return transcript.text + "\n"


def to_json(transcript: Transcript) -> JsonTranscription:
    """OpenAI's `json`: the text alone."""
    return {"text": transcript.text}


def to_verbose_json(transcript: Transcript, language_name: str) -> VerboseTranscription:
    """OpenAI's `verbose_json`.

    Args:
        transcript: its times are rounded to milliseconds.
        language_name: in English, for example "german"; OpenAI gives no code here. The caller looks
            it up, because the table of names comes with the model's tokenizer, whose import is too
            slow for this module.
    """
    return {
        "task": transcript.task,
        "language": language_name.lower(),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
        "segments": [_verbose_segment(i, s) for i, s in enumerate(transcript.segments)],
    }


def to_words(segments: Iterable[TranscriptSegment]) -> list[VerboseWord]:
    """OpenAI's `words`, without the blanks around them; times are rounded to milliseconds."""
    return [
        {
            "word": word.text.strip(),
            "start": round(word.start_s, 3),
            "end": round(word.end_s, 3),
            "probability": word.probability,
        }
        for segment in segments
        for word in segment.words
    ]


def warnings_object(transcript: Transcript) -> list[JsonWarning]:
    """A transcript's warnings, as every JSON answer has them beside OpenAI's fields."""
    return [
        {
            "code": w.code,
            "message": w.message,
            "start": _to_seconds(w.start_s),
            "end": _to_seconds(w.end_s),
        }
        for w in transcript.warnings
    ]


def to_lines(transcript: Transcript, line_format: LineFormat) -> str:
    """The whole transcript as a txt, srt or vtt file, rendered by a `LineWriter`."""
    writer = LineWriter(line_format)
    return writer.header + "".join(writer.render(segment) for segment in transcript.segments)


class LineWriter:
    """Renders transcript segments one after another, as they become final.

    Write `header` first, then the result of each `render`, with nothing in between.

    - txt: a line per segment, as openai/whisper writes its .txt files.
    - srt, vtt: a cue per segment. Its text is one line, because an empty line would end the cue.
      Cues without text are left out and get no number. A cue ends at least 1 ms after its start,
      because players ignore shorter ones and WebVTT forbids them.
    """

    def __init__(self, line_format: LineFormat) -> None:
        if line_format not in ("txt", "srt", "vtt"):
            raise ValueError(f"line_format={line_format!r}: must be txt, srt or vtt")
        self._format = line_format
        self._n_written = 0

    @property
    def header(self) -> str:
        """Text before the first segment; the whole file if there is no segment."""
        return "WEBVTT\n\n" if self._format == "vtt" else ""

    def render(self, segment: TranscriptSegment) -> str:
        """The segment's text or cue with its line breaks, "" if it has no text."""
        text = " ".join(segment.text.split())
        if not text:
            return ""
        self._n_written += 1
        if self._format == "txt":
            return f"{text}\n"
        if self._format == "srt":
            # SRT has no escapes. An arrow with fewer dashes reads the same and is no separator.
            times, text = _cue_times(segment, ","), re.sub("--+>", "->", text)
            return f"{self._n_written}\n{times}\n{text}\n\n"
        return f"{_cue_times(segment, '.')}\n{_escape_vtt(text)}\n\n"


def format_timestamp(time_s: float, decimal_mark: str) -> str:
    """`HH:MM:SS,mmm`, with more digits for the hours when needed. A negative time counts as 0."""
    return _format_ms(_to_ms(time_s), decimal_mark)


def _cue_times(segment: TranscriptSegment, decimal_mark: str) -> str:
    start_ms = _to_ms(segment.start_s)
    end_ms = max(_to_ms(segment.end_s), start_ms + 1)
    return f"{_format_ms(start_ms, decimal_mark)} --> {_format_ms(end_ms, decimal_mark)}"


def _to_ms(time_s: float) -> int:
    return max(0, round(time_s * 1000))


def _format_ms(time_ms: int, decimal_mark: str) -> str:
    # Integer arithmetic: rounding each field on its own could give 00:00:59.1000.
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal_mark}{ms:03d}"


def _escape_vtt(text: str) -> str:
    """Escape WebVTT's markup. Escaping `>` also covers the arrow `-->`, which would end a cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _to_seconds(time_s: float | None) -> float | None:
    return None if time_s is None else round(time_s, 3)


def _verbose_segment(index: int, segment: TranscriptSegment) -> VerboseSegment:
    start_s = max(0.0, round(segment.start_s, 3))
    return {
        "id": index,
        "seek": round(start_s * _FRAMES_PER_S),
        "start": start_s,
        "end": max(start_s, round(segment.end_s, 3)),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }
