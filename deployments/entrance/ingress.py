"""The cluster's entrance: audio and options in, a transcript or its segments out.

Knows nothing of HTTP: a handle call from another Ray job and an HTTP request take the same way. It
decodes and cuts the audio, sends the chunks to the replicas of a tier and puts their text together.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.audio.reading import AudioLimits, Samples, Source
from deployments.entrance.accounting import Accounts, RequestRecord, outcome_of
from deployments.entrance.admission import Admission, Ticket
from deployments.entrance.remote import RemoteRun, Work
from deployments.errors import (
    DeadlineError,
    NotAudioError,
    OptionError,
    TierUnavailableError,
    UnknownModelError,
)
from deployments.fleet import Priority, Quality, TierFacts
from deployments.messages import Chunk, Pcm, Transcript, TranscriptSegment
from deployments.options import AUTO, TranscribeOptions
from deployments.replicas.tier_client import STALLED_AFTER_S, ChunkLostError, Decoded, TierClient
from deployments.routing.board import TICK_S
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask, candidates
from deployments.tier import TierInfo
from deployments.transcript.cascade import CascadeOptions, Ladder
from deployments.transcript.options import TranscriptionOptions, transcription_options
from deployments.transcript.transcription import Transcription
from engine import ALL_LANGUAGES, SAMPLE_RATE, DecodingOptions

logger = logging.getLogger("ray.serve")

_READ_THREADS = 16
"""Files that are read at the same moment: each takes tens of milliseconds a block."""
_FRESH_S = 15.0
"""A result this young shows that a tier works; probes of Kubernetes come every 10 s."""
_PROBE_WAIT_S = 0.8
"""Kubernetes waits for a second."""
_PROBE_PRIORITY = -1_000
_BOARD_WAIT_S = 5.0
_STARTS = 3.0
"""Cold starts that a tier may take until it is taken for down."""


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
class RoutingOptions:
    """How chunks get their tiers.

    Args:
        facts, expected_rtfx: of all tiers.
        quality: of requests that name neither a tier nor a quality.
        cascade: when a chunk looks wrong; None: none goes to a better tier.
        patience_s: that a chunk may wait, by priority.
    """

    facts: tuple[TierFacts, ...]
    expected_rtfx: Mapping[str, float]
    quality: Quality = Quality.BALANCED
    cascade: CascadeOptions | None = field(default_factory=CascadeOptions)
    patience_s: Mapping[Priority, float] = field(
        default_factory=lambda: dict(zip(Priority, (0.5, 2.5, 300.0), strict=True))
    )


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run: the whole transcript, what it cost, and in US dollars."""

    transcript: Transcript
    work: Work
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be done with a file, by which model, and what its chunks ask for."""

    wanted: TranscriptionOptions
    detect: bool
    ask: Ask


class Ingress:
    """Transcribes over tiers.

    Args:
        tiers: name -> handle of the tier's deployment.
        aliases: other names -> names of tiers.
        routing: how chunks get their tiers.
        board: handle of the deployment that knows all tiers.
        asleep: tiers that may have no replicas, and are not to be woken for nothing.
    """

    def __init__(
        self,
        tiers: Mapping[str, DeploymentHandle[Any]],
        aliases: Mapping[str, str],
        limits: IngressLimits,
        routing: RoutingOptions,
        board: DeploymentHandle[Any],
        asleep: frozenset[str] = frozenset(),
    ) -> None:
        starts_s = {facts.name: facts.cold_start_s for facts in routing.facts}
        self.tiers = {
            name: TierClient(name, handle, max(STALLED_AFTER_S, _STARTS * starts_s[name]))
            for name, handle in tiers.items()
        }
        self.aliases = dict(aliases)
        self.limits = limits
        self.routing = routing
        self.dispatcher = Dispatcher(self.tiers, routing.facts, routing.expected_rtfx)
        self.board = board
        self._name = uuid.uuid4().hex
        self._reporting: asyncio.Task[None] | None = None
        self.admission = Admission(limits.max_requests, limits.max_queued_audio_s)
        self._threads = ThreadPoolExecutor(_READ_THREADS, "murmur-read")
        self._asleep = asleep
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._accounts = Accounts({facts.name: facts for facts in routing.facts})

    async def check_health(self) -> None:
        """Called by Serve, the first time when this process has begun."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report_for_ever())

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
        record = RequestRecord(request_id or uuid.uuid4().hex, options)
        try:
            with ticket or self.admission.admit() as ticket:
                name = self.resolve(options.model)
                record.tier = ticket.tier = name
                events = self._run(name, source, options, partial, record, ticket)
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, Done):
                            record.finish(event.transcript)
                        yield event
        except BaseException as error:
            if not record.finished:  # a consumer may close this behind the last event
                record.outcome = outcome_of(error)
            raise
        finally:
            self._account(record)

    def resolve(self, model: str) -> str:
        """The tier of a name, or `auto`.

        Raises:
            UnknownModelError: there is none.
        """
        name = self.aliases.get(model, model)
        if name not in self.tiers and name != AUTO:
            raise UnknownModelError(model)
        return name

    async def ready(self) -> dict[str, bool]:
        """Whether each tier that is always there decoded a chunk lately, or does so at once."""
        tiers = [tier for tier in self.tiers.values() if tier.name not in self._asleep]
        states = await asyncio.gather(*(self._is_ready(tier) for tier in tiers))
        return {tier.name: state for tier, state in zip(tiers, states, strict=True)}

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """Metrics and log of a request that was refused before it had options."""
        record = RequestRecord(request_id, TranscribeOptions(model=""))
        record.outcome = outcome
        self._account(record)

    async def _run(
        self,
        name: str,
        source: Source,
        options: TranscribeOptions,
        partial: bool,
        record: RequestRecord,
        ticket: Ticket,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        deadline_s = min(options.deadline_s or self.limits.deadline_s, self.limits.deadline_s)
        ends = asyncio.get_running_loop().time() + deadline_s
        try:
            async with asyncio.timeout_at(ends):
                task = await self._task(name, options)
            # Not the caller's request id: two callers may use the same one.
            record.run = uuid.uuid4().hex
            transcription = Transcription(record.run, task.wanted, task.detect)
            record.escalations = transcription.escalations
            run = self._remote_run(task.ask, transcription, ticket, partial)
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
        yield Done(transcription.transcript(), run.work, self._accounts.usd(run.work))

    async def _task(self, name: str, options: TranscribeOptions) -> _Task:
        """
        Raises:
            OptionError: what is asked for cannot be done.
        """
        patience_s = self.routing.patience_s[options.priority]
        ask = Ask(task=options.task, priority=options.priority, patience_s=patience_s)
        if name == AUTO:
            return self._auto_task(options, ask)
        if options.quality is not None:
            raise OptionError(f"quality is for the model {AUTO!r}", "quality")
        info = await self.tiers[name].info()
        return _Task(
            transcription_options(options, info), info.multilingual, replace(ask, tier=name)
        )

    def _auto_task(self, options: TranscribeOptions, ask: Ask) -> _Task:
        facts = tuple(facts for facts in self.routing.facts if facts.quality)
        info = fleet_info(facts)
        wanted = transcription_options(options, info)
        if wanted.decoding.language is None and not info.multilingual:
            english = replace(wanted.decoding, language=info.languages[0])
            wanted = replace(wanted, decoding=english)
        quality = options.quality or self.routing.quality
        ask = replace(ask, quality=quality, language=wanted.decoding.language)
        candidates(ask, self.dispatcher.all_states())  # raises if there are none
        if options.context_chunks > 1:
            # Its tokens mean something else to another model, so that it stays on one.
            tier = self.dispatcher.choose(ask)
            return _Task(wanted, info.multilingual, replace(ask, tier=tier))
        if quality is Quality.BALANCED and self.routing.cascade is not None:
            wanted = replace(wanted, ladder=Ladder(facts, self.routing.cascade))
        return _Task(wanted, info.multilingual, ask)

    def _remote_run(
        self, ask: Ask, transcription: Transcription, ticket: Ticket, partial: bool
    ) -> RemoteRun:
        def decode(chunk: Chunk) -> Awaitable[Decoded]:
            wish = replace(ask, language=chunk.options.language, above=chunk.above)
            return self.dispatcher.decode(chunk, wish)

        def on_progress(read_s: float, unfinished_s: float) -> None:
            ticket.update(read_s, unfinished_s)
            self._accounts.queued(ticket.tier, self.admission.queued_s(ticket.tier))

        max_in_flight = self.limits.max_chunks_in_flight
        return RemoteRun(
            transcription, decode, max_in_flight, self._accounts.chunk, on_progress, partial
        )

    def _account(self, record: RequestRecord) -> None:
        self._accounts.queued(record.tier, self.admission.queued_s(record.tier))
        self._accounts.request(record)

    async def _report_for_ever(self) -> None:
        """Tell the board what is queued here, and hear of all tiers."""
        while True:
            report = self.dispatcher.report()
            try:
                answer = self.board.report_ingress.remote(self._name, report)
                snapshot = await asyncio.wait_for(answer, _BOARD_WAIT_S)
            except (RayError, RayServeException, TimeoutError) as error:
                logger.warning("the board does not answer: %s", error)
            else:
                self.dispatcher.hear(snapshot, report)
            await asyncio.sleep(TICK_S)

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


def _source(audio: Source | np.ndarray[Any, Any], sample_rate: int) -> Source:
    if isinstance(audio, np.ndarray):
        return Samples(audio, sample_rate)
    if isinstance(audio, bytearray | memoryview):
        return bytes(audio)
    if isinstance(audio, bytes | str | os.PathLike | Samples):
        return audio
    raise NotAudioError(f"audio must be bytes, a path or an array, not {type(audio).__name__}")


def fleet_info(facts: Sequence[TierFacts]) -> TierInfo:
    """What a request may ask of tiers of which it does not matter which one does it."""
    names = [facts.languages or frozenset(ALL_LANGUAGES) for facts in facts]
    return TierInfo(
        model=AUTO,
        precision="",
        languages=tuple(sorted(frozenset().union(*names))),
        multilingual=any(facts.can(None, "transcribe") for facts in facts),
        max_slots=0,
    )


def _declare(ticket: Ticket) -> Any:
    def declare(duration_s: float | None) -> None:
        if duration_s is not None:
            ticket.declare(duration_s)

    return declare


def _is_fresh(tier: TierClient) -> bool:
    return time.monotonic() - tier.last_decoded < _FRESH_S


def _noise() -> Pcm:
    return np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
