"""Renders transcripts as OpenAI's response bodies and server-sent events."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from deployments.entrance.remote import Work
from deployments.messages import Transcript, TranscriptSegment
from engine import SAMPLE_RATE, language_name
from engine.config import HOP_LENGTH
from serve.http.cue_limits import CueLimits
from serve.http.fields import ResponseFormat
from serve.http.formats import languages_of, to_json, to_text, to_verbose_json, to_words
from serve.http.lines import LineFormat, LineWriter, to_lines

MEDIA_TYPES: dict[ResponseFormat, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    # Not their registered types: OpenAI answers with text/plain, and clients check for it.
    "srt": "text/plain",
    "vtt": "text/plain",
}
_POSITIONS_PER_S = SAMPLE_RATE / HOP_LENGTH / 2
"""Encoder positions per second of audio, which `usage` counts as audio tokens."""


class TokenNames:
    """Renders log-probabilities of segments as OpenAI's objects.

    Args:
        vocabulary: the bytes of each text token, by id.
    """

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        self._vocabulary = vocabulary

    def logprobs(self, segments: Iterable[TranscriptSegment]) -> list[dict[str, Any]]:
        """Objects for the text tokens, in order; timestamp tokens are left out."""
        return [
            found
            for segment in segments
            for found in self.of_tokens(segment.tokens, segment.logprobs)
        ]

    def of_tokens(self, tokens: Sequence[int], logprobs: Sequence[float]) -> list[dict[str, Any]]:
        """The same for tokens with their log-probabilities."""
        return [
            self._logprob(token, logprob)
            for token, logprob in zip(tokens, logprobs, strict=True)
            if token < len(self._vocabulary)
        ]

    def _logprob(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._vocabulary[token]
        text = data.decode("utf-8", "replace")
        return {"token": text, "bytes": list(data), "logprob": logprob}


def render_body(
    transcript: Transcript,
    response_format: ResponseFormat,
    granularities: Sequence[str],
    names: TokenNames | None,
    more: Mapping[str, Any] | None = None,
    limits: CueLimits | None = None,
) -> str:
    """The body of an answer that is not streamed.

    Args:
        granularities: what `verbose_json` gives timestamps for.
        limits: of the cues of subtitles.
        names: given if log-probabilities are wanted.
        more: fields to add to OpenAI's, in `json` and `verbose_json`.
    """
    if response_format == "text":
        return to_text(transcript)
    if response_format in ("srt", "vtt"):
        return to_lines(transcript, cast(LineFormat, response_format), limits)
    usage = {"type": "duration", "seconds": round(transcript.duration_s, 3)}
    if response_format == "json":
        body: dict[str, Any] = {**to_json(transcript), "usage": usage}
        if names is not None:
            body["logprobs"] = names.logprobs(transcript.segments)
    else:
        verbose = to_verbose_json(transcript, language_name(transcript.language))
        body = {**verbose, "usage": usage}
        if granularities and "segment" not in granularities:
            body["segments"] = None
        if "word" in granularities:
            body["words"] = to_words(transcript.segments)
    return json.dumps({**body, **(more or {})}, ensure_ascii=False)


def routing_account(transcript: Transcript, work: Work, usd: float) -> dict[str, Any]:
    """The field `murmur`: the tier of each segment, the chunks that went to a more accurate tier
    and why, the cost, and the track and channels that were listened to."""
    escalated = Counter((e.tier, e.reason) for e in transcript.escalations)
    return {
        "segment_models": [segment.model for segment in transcript.segments],
        "escalated": [
            {"model": tier, "reason": reason, "chunks": n}
            for (tier, reason), n in sorted(escalated.items())
        ],
        "models": [
            {"model": name, "chunks": tier.n_chunks, "device_s": round(tier.device_s, 4)}
            for name, tier in sorted(work.tiers.items())
        ],
        "usd": round(usd, 9),
        "audio": None if transcript.audio is None else asdict(transcript.audio),
    }


def audio_headers(transcript: Transcript) -> dict[str, str]:
    """Headers about the audio for every answer that is not streamed, because text formats have no
    other place for them: its duration, by which gateways bill, the codes of its warnings, and the
    track and channels that were listened to."""
    headers = {"x-audio-seconds": f"{transcript.duration_s:.3f}"}
    if transcript.warnings:
        codes = dict.fromkeys(warning.code for warning in transcript.warnings)
        headers["x-murmur-warnings"] = ", ".join(codes)
    if (audio := transcript.audio) is not None:
        tracks = f"track={audio.track}/{audio.n_tracks}"
        headers["x-murmur-audio"] = f"{tracks}; channels={audio.channels}"
    return headers


class EventStream:
    """Renders a growing transcript as server-sent events.

    Joined, the deltas are the text of `transcript.text.done`, which equals the answer to the same
    request without `stream`: the transcript's text for json, verbose_json and text (without the
    line break of the latter), and the subtitle file for srt and vtt. verbose_json also has an event
    for each segment.
    """

    def __init__(
        self,
        response_format: ResponseFormat,
        names: TokenNames | None,
        limits: CueLimits | None = None,
    ) -> None:
        self._format = response_format
        self._names = names
        self._n_segments = 0
        self._n_tokens = 0
        self._held = ""
        self._parts: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        is_lines = response_format in ("srt", "vtt")
        line_format = cast(LineFormat, response_format)
        self._writer = LineWriter(line_format, limits) if is_lines else None

    def begin(self) -> str:
        """Events before the first segment; empty if there are none."""
        header = self._writer.header if self._writer is not None else ""
        return self._delta(header, {}) if header else ""

    def segments(self, segments: Sequence[TranscriptSegment]) -> str:
        """Events for segments that have become final."""
        return "".join(self._segment(segment) for segment in segments)

    def done(self, transcript: Transcript, more: Mapping[str, Any] | None = None) -> str:
        """The last event; `more` is added to OpenAI's fields."""
        audio_tokens = round(transcript.duration_s * _POSITIONS_PER_S)
        event: dict[str, Any] = {
            "type": "transcript.text.done",
            "text": "".join(self._parts),
            "duration": round(transcript.duration_s, 3),
            "languages": languages_of(transcript),
            "usage": {
                "type": "tokens",
                "input_tokens": audio_tokens,
                "input_token_details": {"audio_tokens": audio_tokens, "text_tokens": 0},
                "output_tokens": self._n_tokens,
                "total_tokens": audio_tokens + self._n_tokens,
            },
        }
        if self._names is not None:
            event["logprobs"] = self._logprobs
        return server_sent_event({**event, **(more or {})})

    def _segment(self, segment: TranscriptSegment) -> str:
        segment_id = f"seg_{self._n_segments}"
        self._n_segments += 1
        self._n_tokens += len(segment.tokens)
        more: dict[str, Any] = {"segment_id": segment_id} if self._format == "verbose_json" else {}
        if self._names is not None:
            more["logprobs"] = self._names.logprobs([segment])
            self._logprobs += more["logprobs"]
        text = self._text(segment) if self._writer is None else self._writer.render(segment)
        events = self._delta(text, more) if text else ""
        if self._format == "verbose_json":
            events += server_sent_event(_segment_event(segment, segment_id))
        return events

    def _text(self, segment: TranscriptSegment) -> str:
        """A segment's part of the text. Blanks at its end are held back until more text follows, so
        that the whole text neither begins nor ends with blanks."""
        text = self._held + segment.text
        if not self._parts:
            text = text.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        return kept

    def _delta(self, text: str, more: dict[str, Any]) -> str:
        self._parts.append(text)
        return server_sent_event({"type": "transcript.text.delta", "delta": text, **more})


def server_sent_event(event: dict[str, Any]) -> str:
    """One event as it is sent, in ASCII, because some clients split lines at Unicode line ends."""
    return f"data: {json.dumps(event)}\n\n"


def _segment_event(segment: TranscriptSegment, segment_id: str) -> dict[str, Any]:
    words = {"words": to_words([segment])} if segment.words else {}
    return {
        **words,
        "type": "transcript.text.segment",
        "id": segment_id,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "speaker": "",  # OpenAI's type requires it, but speakers are not told apart
    }
