"""The cluster's entrance: audio and options in, a transcript or its segments out.

Knows nothing of HTTP: a handle call from another Ray job and an HTTP request take the same way. It
decodes and cuts the audio, sends the chunks to the replicas of a tier and puts their text together.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments import metrics
from deployments.admission import Admission, Ticket
from deployments.audio_io import AudioLimits, Samples, Source
from deployments.errors import (
    DeadlineError,
    DeploymentError,
    NotAudioError,
    TierUnavailableError,
    UnknownModelError,
)
from deployments.messages import Chunk, Pcm, Transcript, TranscriptSegment
from deployments.options import TranscribeOptions
from deployments.remote import RemoteRun, Work
from deployments.tier_client import ChunkLostError, TierClient
from deployments.transcription import Transcription
from engine import SAMPLE_RATE, DecodingOptions, RequestError

logger = logging.getLogger("ray.serve")

_READ_THREADS = 16
"""Files that are read at the same moment: each takes tens of milliseconds a block."""
_FRESH_S = 15.0
"""A result this young shows that a tier works; probes of Kubernetes come every 10 s."""
_PROBE_WAIT_S = 0.8
"""Kubernetes waits for a second."""
_PROBE_PRIORITY = -1_000


@dataclass(frozen=True, slots=True)
class IngressLimits:
    """Bounds of one ingress.

    Args:
        audio: of each file.
        max_chunks_in_flight: of one request.
        max_requests: at once.
        max_queued_audio_s: accepted and not transcribed yet, over all requests.
        deadline_s: of a request.
    """

    audio: AudioLimits = field(default_factory=AudioLimits)
    max_chunks_in_flight: int = 64
    max_requests: int = 256
    max_queued_audio_s: float = 24 * 3600.0
    deadline_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run: the whole transcript, and what it cost."""

    transcript: Transcript
    work: Work


class Ingress:
    """Transcribes over tiers.

    Args:
        tiers: name -> handle of the tier's deployment.
        aliases: other names -> names of tiers.
        asleep: tiers that may have no replicas, and are not to be woken for nothing.
    """

    def __init__(
        self,
        tiers: Mapping[str, DeploymentHandle[Any]],
        aliases: Mapping[str, str],
        limits: IngressLimits,
        asleep: frozenset[str] = frozenset(),
    ) -> None:
        self.tiers = {name: TierClient(name, handle) for name, handle in tiers.items()}
        self.aliases = dict(aliases)
        self.limits = limits
        self.admission = Admission(limits.max_requests, limits.max_queued_audio_s)
        self._threads = ThreadPoolExecutor(_READ_THREADS, "murmur-read")
        self._asleep = asleep
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._queued = metrics.QUEUED_AUDIO.gauge()
        self._requests = metrics.REQUESTS.counter()
        self._audio = metrics.AUDIO.counter()
        self._latency = metrics.REQUEST_LATENCY.histogram()
        self._rtfx = metrics.RTFX.histogram()
        self._stages = metrics.STAGE_LATENCY.histogram()
        self._retried = metrics.CHUNKS_RETRIED.counter()

    async def transcribe(
        self,
        audio: Source | np.ndarray[Any, Any],
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Transcript:
        """Transcribe a file.

        Args:
            audio: the bytes of any audio or video file, a path on the ingress's machine, or samples
                (int16 or float, shape (n,) or (n, n_channels)). An ObjectRef of any of these may be
                passed instead.
            sample_rate: of samples, in Hz.

        Raises:
            DeploymentError: one of its kinds.
        """
        source = _source(audio, sample_rate)
        async with aclosing(self.run(source, options or TranscribeOptions())) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event.transcript
        raise AssertionError("a run ends with Done or raises")

    async def stream(
        self,
        audio: Source | np.ndarray[Any, Any],
        options: TranscribeOptions | None = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> AsyncGenerator[TranscriptSegment, None]:
        """As `transcribe`, but yields segments as they become final, in file order. A fault in the
        middle of the audio is raised behind the segments before it."""
        source = _source(audio, sample_rate)
        async with aclosing(self.run(source, options or TranscribeOptions(), True)) as events:
            async for event in events:
                if not isinstance(event, Done):
                    for segment in event:
                        yield segment

    async def run(
        self,
        source: Source,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        """What `transcribe` and `stream` are made of: segments as they become final, then `Done`.

        Args:
            partial: transcribe what there is of broken audio before raising; else raise at once.
            request_id: for the log.
            ticket: of a request that was admitted already; it is closed at the end.
        """
        record = _Record(request_id or uuid.uuid4().hex, options)
        try:
            with ticket or self.admission.admit() as ticket:
                tier = self.resolve(options.model)
                record.tier = ticket.tier = tier.name
                events = self._run(tier, source, options, partial, record, ticket)
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, Done):
                            record.finish(event.transcript)
                        yield event
        except BaseException as error:
            if not record.finished:  # a consumer may close this behind the last event
                record.outcome = _outcome(error)
            raise
        finally:
            self._account(record)

    def resolve(self, model: str) -> TierClient:
        """The tier of a name.

        Raises:
            UnknownModelError: there is none.
        """
        name = self.aliases.get(model, model)
        if name not in self.tiers:
            raise UnknownModelError(model)
        return self.tiers[name]

    async def ready(self) -> dict[str, bool]:
        """Whether each tier that is always there decoded a chunk lately, or does so at once."""
        tiers = [tier for tier in self.tiers.values() if tier.name not in self._asleep]
        states = await asyncio.gather(*(self._is_ready(tier) for tier in tiers))
        return {tier.name: state for tier, state in zip(tiers, states, strict=True)}

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """Metrics and log of a request that was refused before it had options."""
        record = _Record(request_id, TranscribeOptions(model=""))
        record.outcome = outcome
        self._account(record)

    async def _run(
        self,
        tier: TierClient,
        source: Source,
        options: TranscribeOptions,
        partial: bool,
        record: "_Record",
        ticket: Ticket,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        deadline_s = min(options.deadline_s or self.limits.deadline_s, self.limits.deadline_s)
        ends = asyncio.get_running_loop().time() + deadline_s
        try:
            async with asyncio.timeout_at(ends):
                info = await tier.info()
            wanted = options.to_transcription_options(info)
            # Not the caller's request id: two callers may use the same one.
            record.run = uuid.uuid4().hex
            transcription = Transcription(record.run, wanted, info.multilingual)
            run = self._remote_run(tier, transcription, ticket, partial)
            record.work = run.work
            segments = run.segments(source, self.limits.audio, _declare(ticket), self._threads)
            async with aclosing(segments):
                while True:
                    # Around each step, for a consumer's own time is not to be cancelled.
                    async with asyncio.timeout_at(ends):
                        ready = await anext(segments, None)
                    if ready is None:
                        break
                    yield ready
        except TimeoutError as error:
            raise DeadlineError(deadline_s) from error
        yield Done(transcription.transcript(), run.work)

    def _remote_run(
        self, tier: TierClient, transcription: Transcription, ticket: Ticket, partial: bool
    ) -> RemoteRun:
        def on_progress(read_s: float, unfinished_s: float) -> None:
            ticket.update(read_s, unfinished_s)
            self._queued.set(self.admission.queued_s(tier.name), {"tier": tier.name})

        def on_chunk(stages_s: dict[str, float]) -> None:
            for stage, seconds in stages_s.items():
                self._stages.observe(seconds, {"tier": tier.name, "stage": stage})

        max_in_flight = self.limits.max_chunks_in_flight
        return RemoteRun(transcription, tier.decode, max_in_flight, on_chunk, on_progress, partial)

    async def _is_ready(self, tier: TierClient) -> bool:
        """A busy tier shows it by its work; an idle one decodes something, of which the next who
        asks hears if this one cannot wait."""
        if not _is_fresh(tier):
            probe = self._probes.get(tier.name)
            if probe is None or probe.done():
                probe = self._probes[tier.name] = asyncio.create_task(self._probe(tier))
            await asyncio.wait({probe}, timeout=_PROBE_WAIT_S)
        return _is_fresh(tier)

    async def _probe(self, tier: TierClient) -> None:
        """Have a tier decode a second of noise."""
        options = DecodingOptions(language="en", max_new_tokens=1)
        chunk = Chunk(f"probe-{uuid.uuid4().hex}", 0, _noise(), options, priority=_PROBE_PRIORITY)
        try:
            await tier.decode(chunk)
        except (ChunkLostError, TierUnavailableError) as error:
            logger.warning("the tier %s is not ready: %s", tier.name, error)

    def _account(self, record: "_Record") -> None:
        """Metrics, and the log's one line of a request."""
        labels = {"tier": record.tier}
        self._queued.set(self.admission.queued_s(record.tier), labels)
        self._requests.inc(1, labels | {"outcome": record.outcome})
        if record.work is not None and record.work.n_retries:
            self._retried.inc(record.work.n_retries, labels)
        if record.outcome == "ok":
            self._audio.inc(record.audio_s, labels)
            self._latency.observe(record.took_s, labels)
            self._rtfx.observe(record.audio_s / max(record.took_s, 1e-9), labels)
            for stage in ("read", "vad"):
                seconds = record.work.stages_s.get(stage, 0.0) if record.work else 0.0
                self._stages.observe(seconds, labels | {"stage": stage})
        fields = record.fields()
        words = " ".join(f"{name}={value}" for name, value in fields.items())
        logger.info("request %s", words, extra={"murmur": fields})


class _Record:
    """What the log says of a request."""

    def __init__(self, request_id: str, options: TranscribeOptions) -> None:
        self.request_id = request_id
        self.options = options
        self.tier = ""
        self.run = ""
        self.outcome = "ok"
        self.audio_s = 0.0
        self.language = ""
        self.work: Work | None = None
        self._began = time.perf_counter()
        self._took_s: float | None = None

    @property
    def finished(self) -> bool:
        return self._took_s is not None

    @property
    def took_s(self) -> float:
        return self._took_s or time.perf_counter() - self._began

    def finish(self, transcript: Transcript) -> None:
        self._took_s = time.perf_counter() - self._began
        self.audio_s = transcript.duration_s
        self.language = transcript.language

    def fields(self) -> dict[str, Any]:
        work = self.work or Work()
        return {
            "id": self.request_id,
            "run": self.run,
            "outcome": self.outcome,
            "model": self.options.model,
            "tier": self.tier,
            "task": self.options.task,
            "language": self.language,
            "audio_s": round(self.audio_s, 3),
            "took_s": round(self.took_s, 4),
            "rtfx": round(self.audio_s / max(self.took_s, 1e-9), 2),
            "chunks": work.n_chunks,
            "retried": work.n_retries,
            "tokens": work.n_tokens,
            **{f"{stage}_s": round(seconds, 4) for stage, seconds in work.stages_s.items()},
        }


def _source(audio: Source | np.ndarray[Any, Any], sample_rate: int) -> Source:
    if isinstance(audio, np.ndarray):
        return Samples(audio, sample_rate)
    if isinstance(audio, bytearray | memoryview):
        return bytes(audio)
    if isinstance(audio, bytes | str | os.PathLike | Samples):
        return audio
    raise NotAudioError(f"audio must be bytes, a path or an array, not {type(audio).__name__}")


def _declare(ticket: Ticket) -> Any:
    def declare(duration_s: float | None) -> None:
        if duration_s is not None:
            ticket.declare(duration_s)

    return declare


def _is_fresh(tier: TierClient) -> bool:
    return time.monotonic() - tier.last_decoded < _FRESH_S


def _noise() -> Pcm:
    return np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)


def _outcome(error: BaseException) -> str:
    """The kind of an error, as a label: `not_audio` of NotAudioError."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    if not isinstance(error, DeploymentError | RequestError):
        return "fault"
    name = type(error).__name__.removesuffix("Error")
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
