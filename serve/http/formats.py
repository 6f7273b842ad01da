"""Renders a finished transcript as text or JSON; `serve.http.lines` has the other formats.

Pure: no HTTP, no files, no models. The JSON shapes are those of OpenAI's `Transcription` and
`TranscriptionVerbose`; the caller turns them into bytes.
"""

from collections.abc import Iterable
from typing import Any, TypedDict

from deployments.messages import Transcript, TranscriptSegment

_FRAMES_PER_S = 100  # Whisper's `seek` counts mel frames of 10 ms


class Language(TypedDict):
    """OpenAI's object for a language, an ISO code."""

    code: str


class JsonTranscription(TypedDict):
    """OpenAI's `Transcription`, and the length of the audio in seconds."""

    text: str
    duration: float
    languages: list[Language]


class JsonWarning(TypedDict):
    """Audio that is missing or not reliable; `start` and `end` in seconds, None where unknown."""

    code: str
    message: str
    start: float | None
    end: float | None


class VerboseSegment(TypedDict):
    """OpenAI's `TranscriptionSegment`, and the segment's language as an ISO code; times in seconds,
    `seek` in frames of 10 ms.

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
    language: str


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
    """OpenAI's `json`."""
    return {
        "text": transcript.text,
        "duration": round(transcript.duration_s, 3),
        "languages": languages_of(transcript),
    }


def languages_of(transcript: Transcript) -> list[Language]:
    """OpenAI's list of languages, the main one first; empty if nothing was heard."""
    if not transcript.segments:
        return []
    return [{"code": code} for code in dict.fromkeys([transcript.language, *transcript.languages])]


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


def detection_object(transcript: Transcript) -> dict[str, Any]:
    """The answer to who asks for the language alone; `duration` is of what was listened to."""
    probabilities = {code: round(probability, 4) for code, probability in transcript.language_probs}
    return {
        "language": transcript.language or None,
        "probability": probabilities.get(transcript.language),
        "probabilities": probabilities,
        "duration": round(transcript.duration_s, 3),
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
        "language": segment.language,
    }
