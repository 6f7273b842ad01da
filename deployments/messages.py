"""Messages between processes: a `Chunk` goes to an engine, a `ChunkResult` comes back.

A caller gets a `Transcript`: the results of one file, in file order, with times on the
file's clock. None of these depends on HTTP, Ray or torch.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine import SAMPLE_RATE, DecodingOptions, Request, Result, Segment, Word
from engine.window import N_FRAMES, Window

Pcm = npt.NDArray[np.int16]
"""Mono audio at 16 kHz, shape (n_samples,)."""
STARTED = "started"
"""What a replica says first of a chunk whose last replica died, when its turn has come."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """At most 30 s of one request's audio.

    `(request_id, index, attempt)` is its key. Chunks are idempotent: a chunk may run twice (after
    the loss of a replica, or as a retry), and the first result wins. `above` is set after a tier
    gave text that looks wrong: it is that tier's quality, and only tiers of higher quality may
    decode the chunk now. `speech` has the samples in which voice was found, if words are to get
    times. `window` is what the encoder sees of it; None: what the tier is set to. `adapter` is the
    name of the tier's adapter that decodes it; empty: none.
    """

    request_id: str
    index: int
    pcm: Pcm
    options: DecodingOptions
    priority: int = 0
    attempt: int = 0
    above: int | None = None
    speech: tuple[tuple[int, int], ...] = ()
    window: Window | None = None
    adapter: str = ""

    @property
    def key(self) -> str:
        return f"{self.request_id}/{self.index}/{self.attempt}"

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / SAMPLE_RATE


def key_of_chunk(key: str) -> str:
    """A chunk's key without the attempt, because the first attempt to come back is used."""
    return key.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """One chunk's decoded text. Segment times are seconds from the chunk's first sample.

    `avg_logprob`, `no_speech_prob` and `compression_ratio` apply to the whole chunk, as in
    openai/whisper's `DecodingResult`. `finish_reason` is `"length"` if the token limit cut the text
    off. `model` is the name of the tier or of its adapter, and `device_s` the replica time that the
    chunk used. `language_probs` is there if only the language was asked for. `n_frames` is the
    length of the window that the encoder saw (`engine.Result`).
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
    language_probs: tuple[tuple[str, float], ...] = ()
    n_frames: int = N_FRAMES

    @property
    def is_short(self) -> bool:
        """Whether the encoder did not see the whole window."""
        return self.n_frames < N_FRAMES


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """A piece of text with times on the file's clock and the confidence of its chunk.

    `logprobs` contains the natural logarithm of each token's probability, `words` the words with
    their times on the file's clock if they were asked for. `language` is an ISO code.
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
    words: tuple[Word, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Escalation:
    """A chunk for which a tier's text looked wrong, and the reason (`CascadeOptions.doubt`)."""

    tier: str
    reason: str


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """Audio of a file that is missing or unreliable, or text that was left out.

    Attributes:
        code: one of `deployments.audio.report.WARNINGS`, for programs.
        message: one sentence, for people.
        start_s, end_s: position on the file's clock; None if unknown.
    """

    code: str
    message: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """Which audio of a file was transcribed; a file may have several tracks and channels.

    Attributes:
        track: number of the audio track, from 1.
        n_tracks: number of audio tracks in the file.
        channels: how the track's channels were used, in words, such as `mono` or `mean of 2`.
    """

    track: int = 1
    n_tracks: int = 1
    channels: str = "mono"


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole file's text. `language` is an ISO code, that of most of the speech if there are
    several `languages` (in order of appearance). `duration_s` is the length of the audio.
    `escalations` lists the chunks that went to a more accurate tier, and `warnings` says where the
    audio could not be read. `audio` is None if nothing was read.

    If only the language was asked for, `language_probs` has the languages that came into question,
    the likeliest first, and `duration_s` is what was listened to."""

    text: str
    language: str
    duration_s: float
    task: str
    segments: tuple[TranscriptSegment, ...]
    escalations: tuple[Escalation, ...] = ()
    warnings: tuple[AudioWarning, ...] = ()
    audio: AudioInfo | None = None
    languages: tuple[str, ...] = ()
    language_probs: tuple[tuple[str, float], ...] = ()


def to_request(chunk: Chunk) -> Request:
    """Convert a chunk to an engine request. The engine shares its slots fairly between groups, and
    each request is a group."""
    return Request(
        chunk.key,
        chunk.pcm,
        chunk.options,
        chunk.priority,
        group=chunk.request_id,
        speech=chunk.speech,
        window=chunk.window,
        adapter=chunk.adapter,
    )


def to_chunk_result(result: Result, model: str) -> ChunkResult:
    """Convert an engine result to a chunk result, with the name of the model that produced it."""
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
        language_probs=result.language_probs,
        n_frames=result.n_frames,
    )
