"""What crosses a process: a `Chunk` on its way to an engine, a `ChunkResult` on its way back.

`Transcript` is what a caller gets: the results of one file, in file order, on the file's clock.
None of these knows of HTTP, Ray or torch.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine import DecodingOptions, Request, Result, Segment

Pcm = npt.NDArray[np.int16]
"""Mono audio at 16 kHz, shape (n_samples,)."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 30 s of one request's audio.

    `(request_id, index, attempt)` is its key: chunks are idempotent, so that one may run twice
    (a lost replica, a retry) and the first result wins. `above` is the quality that a tier must
    have more of, after a tier of that quality gave text that looks wrong.
    """

    request_id: str
    index: int
    pcm: Pcm
    options: DecodingOptions
    priority: int = 0
    attempt: int = 0
    above: int | None = None

    @property
    def key(self) -> str:
        return f"{self.request_id}/{self.index}/{self.attempt}"


def key_of_chunk(key: str) -> str:
    """A chunk's key without the attempt: whichever attempt comes back first is taken."""
    return key.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One chunk's decoded text. Segment times are seconds from the chunk's first sample.

    `avg_logprob`, `no_speech_prob` and `compression_ratio` are the chunk's, as in openai/whisper's
    `DecodingResult`; `finish_reason` is `"length"` when the token limit cut the text off. `model`
    is the tier, and `device_s` what it used of its replica's time.
    """

    key: str
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...]
    language: str
    language_prob: float
    temperature: float
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    finish_reason: str
    model: str
    timings_s: dict[str, float] = field(default_factory=dict)
    device_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """A timed piece of text on the file's clock, with the confidence of the chunk it came from.

    `logprobs` has the natural logarithm of each token's probability.
    """

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    model: str
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Escalation:
    """A chunk that a tier's text looked wrong of, and why (`CascadeOptions.doubt`)."""

    tier: str
    reason: str


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """Sound of a file that is missing, or not to be relied on.

    Attributes:
        code: for programs: one of `deployments.audio.report.WARNINGS`.
        message: one sentence, for people.
        start_s, end_s: where, on the file's clock; None where nothing tells.
    """

    code: str
    message: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What was listened to, of a file that may have several tracks and channels.

    Attributes:
        track: number of the audio track, from 1.
        n_tracks: audio tracks of the file.
        channels: what was made of the track's channels, in words, such as `mono` or `mean of 2`.
    """

    track: int = 1
    n_tracks: int = 1
    channels: str = "mono"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole file's text. `language` is an ISO code, `duration_s` the length of the audio,
    `escalations` are chunks that went to a more accurate tier, and `warnings` say where the audio
    could not be read; `audio` is None where nothing was read."""

    text: str
    language: str
    duration_s: float
    task: str
    segments: tuple[TranscriptSegment, ...]
    escalations: tuple[Escalation, ...] = ()
    warnings: tuple[AudioWarning, ...] = ()
    audio: AudioInfo | None = None


def to_request(chunk: Chunk) -> Request:
    """The engine's view of a chunk; chunks of one request share the engine fairly with others."""
    return Request(chunk.key, chunk.pcm, chunk.options, chunk.priority, group=chunk.request_id)


def to_chunk_result(result: Result, model: str) -> ChunkResult:
    """A result on its way back, with the name of the model that made it."""
    return ChunkResult(
        key=result.request_id,
        segments=result.segments,
        tokens=result.tokens,
        language=result.language,
        language_prob=result.language_prob,
        temperature=result.temperature,
        avg_logprob=result.avg_logprob,
        no_speech_prob=result.no_speech_prob,
        compression_ratio=result.compression_ratio,
        finish_reason=result.finish_reason,
        model=model,
        timings_s=result.timings_s,
        device_s=result.device_s,
    )
