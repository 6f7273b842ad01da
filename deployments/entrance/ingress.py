"""The cluster's entrance: audio and options in, a transcript or its segments out.

Knows nothing of HTTP: a handle call from another Ray job and an HTTP request take the same way. It
decodes and cuts the audio, sends the chunks to the replicas of a tier and puts their text together.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.audio.reading import Source
from deployments.entrance.accounting import Accounts, RequestRecord, outcome_of
from deployments.entrance.admission import Admission, Ticket
from deployments.entrance.callers import Callers, RunEnd, gone_workers
from deployments.entrance.calls import Audio, Options, answers_to, read_options, read_source
from deployments.entrance.limits import IngressLimits
from deployments.entrance.readiness import Readiness
from deployments.entrance.remote import RemoteRun, Work
from deployments.entrance.tasks import RoutingOptions, Tasks
from deployments.errors import NotAudioError, OptionError, UnknownModelError
from deployments.messages import Chunk, Transcript, TranscriptSegment
from deployments.options import AUTO, TranscribeOptions
from deployments.replicas.tier_client import STALLED_AFTER_S, Decoded, TierClient
from deployments.routing.board import TICK_S
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE

logger = logging.getLogger("ray.serve")

_READ_THREADS = 16
"""Files that are read at the same moment: each takes tens of milliseconds a block."""
_BOARD_WAIT_S = 5.0
_STARTS = 3.0
"""Cold starts that a tier may take until it is taken for down."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run: the whole transcript, what it cost, and in US dollars."""

    transcript: Transcript
    work: Work
    usd: float = 0.0


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
        awake = [tier for tier in self.tiers.values() if tier.name not in asleep]
        self._readiness = Readiness(awake)
        self._tasks = Tasks(self.tiers, routing, self.dispatcher)
        self._accounts = Accounts({facts.name: facts for facts in routing.facts})
        self._callers = Callers(gone_workers)

    async def check_health(self) -> None:
        """Called by Serve, the first time when this process has begun."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report_for_ever())

    async def transcribe(
        self,
        audio: Audio,
        options: Options = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> Transcript | dict[str, Any]:
        """Transcribe a file.

        Args:
            audio: the bytes of any audio or video file, a path on the ingress's machine, or samples
                (int16 or float, shape (n,) or (n, n_channels)). An ObjectRef of any of these may be
                passed instead.
            options: or a mapping of their names to values, those of enumerations as strings; then
                transcript and errors are of Python's own types (`calls`).
            sample_rate: of samples, in Hz.

        Raises:
            DeploymentError: one of its kinds.
        """
        answers = answers_to(options)
        with answers.errors():
            events = self._run_call(audio, options, sample_rate)
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Done):
                        transcript: Transcript | dict[str, Any] = answers.of(event.transcript)
                        return transcript
        raise AssertionError("a run ends with Done or raises")

    async def stream(
        self,
        audio: Audio,
        options: Options = None,
        sample_rate: int = SAMPLE_RATE,
    ) -> AsyncGenerator[TranscriptSegment | dict[str, Any], None]:
        """As `transcribe`, but yields segments as they become final, in file order. A fault in the
        middle of the audio is raised behind the segments before it."""
        answers = answers_to(options)
        with answers.errors():
            events = self._run_call(audio, options, sample_rate, True)
            async with aclosing(events):
                async for event in events:
                    if not isinstance(event, Done):
                        for segment in event:
                            yield answers.of(segment)

    async def run(
        self,
        source: Source,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        """What `transcribe` and `stream` are made of: segments as they become final, then `Done`;
        an empty list first, when the audio is found to be some (`RemoteRun.segments`).

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
        return await self._readiness.states()

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """Metrics and log of a request that was refused before it had options."""
        record = RequestRecord(request_id, TranscribeOptions(model=""))
        record.outcome = outcome
        self._account(record)

    def _run_call(
        self, audio: Audio, options: Options, sample_rate: int, partial: bool = False
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        """The run of a call over a handle, which has not begun."""
        try:
            return self.run(read_source(audio, sample_rate), read_options(options), partial)
        except (NotAudioError, OptionError) as error:
            self.account_refusal(outcome_of(error), uuid.uuid4().hex)
            raise

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
        end = RunEnd(deadline_s)
        try:
            with self._callers.watch(options.caller, end):
                async with end.step():
                    task = await self._tasks.make(name, options)
                # Not the caller's request id: two callers may use the same one.
                record.run = uuid.uuid4().hex
                transcription = Transcription(record.run, task.wanted, task.detect)
                record.escalations = transcription.escalations
                run = self._remote_run(task.ask, transcription, ticket, partial)
                record.work = run.work
                segments = run.segments(source, self.limits.audio, _declare(ticket), self._threads)
                async with aclosing(segments):
                    while True:
                        async with end.step():
                            ready = await anext(segments, None)
                        if ready is None:
                            break
                        yield ready
        except TimeoutError as error:
            raise end.error() from error
        yield Done(transcription.transcript(), run.work, self._accounts.usd(run.work))

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


def _declare(ticket: Ticket) -> Any:
    def declare(duration_s: float | None) -> None:
        if duration_s is not None:
            ticket.declare(duration_s)

    return declare
