"""The entrance to the cluster: audio and options in, a transcript or its segments out.

This module does not depend on HTTP: handle calls of other Ray jobs and HTTP requests take the same
path. The ingress decodes the audio, cuts it into chunks, sends these to the replicas of tiers and
joins their text.
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
from deployments.entrance.canaries import Canaries, Canary
from deployments.entrance.limits import IngressLimits
from deployments.entrance.live_calls import AudioQueue, LiveCallOptions, live_call
from deployments.entrance.live_sessions import LiveSessions
from deployments.entrance.readiness import BEAT_S, Readiness
from deployments.entrance.remote import Decode, RemoteRun, Work
from deployments.entrance.rules import Rules
from deployments.entrance.tasks import Tasks
from deployments.entrance.under_way import UnderWay
from deployments.errors import NotAudioError, OptionError, UnknownModelError
from deployments.fleet import Priority
from deployments.live.events import Event
from deployments.messages import Chunk, Transcript, TranscriptSegment
from deployments.options import AUTO, TranscribeOptions
from deployments.replicas.tier_client import STALLED_AFTER_S, Decoded, TierClient
from deployments.routing.board import TICK_S
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask
from deployments.transcript.transcription import Transcription
from engine import SAMPLE_RATE, language_code

logger = logging.getLogger("ray.serve")

_READ_THREADS = 16
"""Number of files that can be read at once. Reading a block takes tens of milliseconds."""
_BOARD_WAIT_S = 5.0
_STARTS = 3.0
"""A tier that has not answered for this many cold starts counts as down."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run: the whole transcript, the work done for it, and its price."""

    transcript: Transcript
    work: Work
    usd: float = 0.0


class Ingress:
    """Transcribes files with the replicas of tiers.

    It serves once it is configured.

    Args:
        tiers: name of a tier -> handle of its deployment.
        board: handle of the board's deployment, which knows the state of all tiers.

    Attributes:
        rules: what new requests go by.
    """

    rules: Rules

    def __init__(
        self, tiers: Mapping[str, DeploymentHandle[Any]], board: DeploymentHandle[Any]
    ) -> None:
        self.tiers = {name: TierClient(name, handle) for name, handle in tiers.items()}
        self.dispatcher = Dispatcher(self.tiers, (), {})
        self.board = board
        self._name = uuid.uuid4().hex
        self._reporting: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self.admission = Admission(0, 0.0)
        self._threads = ThreadPoolExecutor(_READ_THREADS, "murmur-read")
        self._readiness = Readiness(())
        self._accounts = Accounts({})
        self._callers = Callers(gone_workers)
        self._under_way = UnderWay()
        self.live_sessions = LiveSessions(
            self.tiers, self.dispatcher, self._accounts, self.resolve, lambda: self.rules
        )
        self._canaries = Canaries(self._decode_shadow)

    def configure(self, rules: Rules) -> None:
        """Go by other rules from the next request on. Call this on the event loop."""
        facts = rules.routing.facts
        for name, client in self.tiers.items():
            client.version = rules.versions.get(name, "")
        for tier in facts:
            stalled_after_s = max(STALLED_AFTER_S, _STARTS * tier.cold_start_s)
            self.tiers[tier.name].stalled_after_s = stalled_after_s
        limits = rules.limits
        self.admission.configure(limits.max_requests, limits.max_queued_audio_s)
        self.dispatcher.configure(facts, rules.routing.expected_rtfx)
        awake = [tier for tier in self.tiers.values() if tier.name not in rules.asleep]
        self._readiness.tiers = awake
        known = {tier.name: tier for tier in facts}
        adapters = {name: known[tier] for name, tier in rules.routing.adapters.items()}
        self._accounts.facts = known | adapters
        self.rules = rules

    async def check_health(self) -> None:
        """Start the reports to the board, and the pulse that readiness goes by. Serve calls this
        regularly, first when the process has started."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report_for_ever())
        if self._beating is None or self._beating.done():
            self._beating = asyncio.create_task(self._beat_for_ever())

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
            options: options, or a mapping from their names to values, with enumerations as strings.
                With a mapping, the transcript and errors have Python's built-in types (`calls`).
            sample_rate: sample rate of `audio` in Hz, if it is samples.

        Raises:
            DeploymentError: one of its subclasses.
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
        """Like `transcribe`, but yields segments as they become final, in file order. If the audio
        cannot be read to its end, the error is raised after the segments before that point."""
        answers = answers_to(options)
        with answers.errors():
            events = self._run_call(audio, options, sample_rate, True)
            async with aclosing(events):
                async for event in events:
                    if not isinstance(event, Done):
                        for segment in event:
                            yield answers.of(segment)

    async def live(
        self, audio: AudioQueue, options: LiveCallOptions = None
    ) -> AsyncGenerator[Event | dict[str, Any], None]:
        """Transcribe speech while it is spoken.

        Args:
            audio: a `ray.util.queue.Queue` into which the caller puts pieces of audio: bytes in
                the options' encoding, or int16 samples of one channel at the options' rate.
                `"commit"` ends a turn, `"clear"` forgets audio that was not committed, and None is
                the end.
            options: `LiveOptions`, or a mapping, as in `transcribe`. With a mapping, events are
                dicts with their `type`.

        Yields:
            What is heard (`deployments.live.events`).

        Raises:
            DeploymentError: one of its subclasses.
        """
        events = live_call(self.live_sessions, self._callers, audio, options)
        async with aclosing(events):
            async for event in events:
                yield event

    async def run(
        self,
        source: Source,
        options: TranscribeOptions,
        partial: bool = False,
        request_id: str = "",
        ticket: Ticket | None = None,
        rules: Rules | None = None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        """The common part of `transcribe` and `stream`. Yields segments as they become final, then
        `Done`. The first item may be an empty list: it means that the beginning of the audio is
        valid (`RemoteRun.segments`).

        Args:
            partial: whether to transcribe the readable part of broken audio before the error is
                raised; otherwise the error is raised at once.
            request_id: id of the request in the log.
            ticket: ticket of a request that was admitted already; it is closed at the end.
            rules: those that the request began with; by default those of now.
        """
        rules = rules or self.rules
        record = RequestRecord(request_id or uuid.uuid4().hex, options)
        try:
            with ticket or self.admission.admit() as ticket:
                name = self.resolve(options.model, rules)
                canary = self._canaries.choose(
                    name, rules.canaries, lambda other: self._can(other, options, rules)
                )
                if canary is not None and not canary.shadow:
                    name, canary = canary.to, None
                record.tier = ticket.tier = name
                events = self._run(name, source, options, partial, record, ticket, rules, canary)
                async with aclosing(events):
                    async for event in events:
                        if isinstance(event, Done):
                            record.finish(event.transcript)
                        yield event
        except BaseException as error:
            if not record.finished:  # a consumer may close this after the last event
                record.outcome = outcome_of(error)
            raise
        finally:
            self._account(record)

    def resolve(self, model: str, rules: Rules) -> str:
        """The name of the tier or adapter that a model name stands for, or `auto`.

        Raises:
            UnknownModelError: no tier, adapter or alias has this name.
        """
        name = rules.aliases.get(model, model)
        if name not in (*self.tiers, *rules.routing.adapters, AUTO):
            raise UnknownModelError(model)
        return name

    async def ready(self) -> dict[str, bool]:
        """Whether each tier that always has replicas decodes chunks."""
        return self._readiness.states()

    def account_refusal(self, outcome: str, request_id: str) -> None:
        """Record a request that was refused before its options were known."""
        record = RequestRecord(request_id, TranscribeOptions(model=""))
        record.outcome = outcome
        self._account(record)

    def _run_call(
        self, audio: Audio, options: Options, sample_rate: int, partial: bool = False
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        """Create the run of a handle call, without starting it."""
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
        rules: Rules,
        shadow: Canary | None,
    ) -> AsyncGenerator[list[TranscriptSegment] | Done, None]:
        limits = rules.limits
        end = RunEnd(min(options.deadline_s or limits.deadline_s, limits.deadline_s))
        tasks = Tasks(self.tiers, rules.routing, self.dispatcher)
        try:
            # Not the caller's request id, because two callers may use the same one.
            record.run = uuid.uuid4().hex
            with (
                self._callers.watch(options.caller, end),
                self._under_way.run(record, ticket, end),
            ):
                async with end.step():
                    task = await tasks.make(name, options)
                transcription = Transcription(record.run, task.wanted, task.detect)
                record.escalations = transcription.escalations
                decode = self._decoder(task.ask, name, shadow, limits.deadline_s)
                run = self._remote_run(decode, transcription, ticket, partial, limits)
                record.work = run.work
                segments = run.segments(source, limits.audio, _declare(ticket), self._threads)
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
        self,
        decode: Decode,
        transcription: Transcription,
        ticket: Ticket,
        partial: bool,
        limits: IngressLimits,
    ) -> RemoteRun:
        def on_progress(read_s: float, unfinished_s: float) -> None:
            ticket.update(read_s, unfinished_s)
            self._accounts.queued(ticket.tier, self.admission.queued_s(ticket.tier))

        return RemoteRun(
            transcription,
            decode,
            limits.max_chunks_in_flight,
            self._accounts.chunk,
            on_progress,
            partial,
        )

    def _decoder(self, ask: Ask, name: str, shadow: Canary | None, limit_s: float) -> Decode:
        """What decodes the chunks of a request for a tier or an adapter."""

        async def decode(chunk: Chunk) -> Decoded:
            wish = replace(ask, language=chunk.options.language, above=chunk.above)
            decoded = await self.dispatcher.decode(chunk, wish)
            if shadow is not None:
                self._canaries.compare(name, shadow, chunk, decoded.result, limit_s)
            return decoded

        return decode

    def _decode_shadow(self, chunk: Chunk, name: str) -> Awaitable[Decoded]:
        routing = self.rules.routing
        patience_s = routing.patience_s[Priority.BATCH]
        ask = Ask(priority=Priority.BATCH, patience_s=patience_s, language=chunk.options.language)
        return self.dispatcher.decode(chunk, routing.named(ask, name))

    def _can(self, name: str, options: TranscribeOptions, rules: Rules) -> bool:
        """Whether a tier or an adapter has replicas that can do what a request asks for."""
        tier = rules.routing.adapters.get(name, name)
        state = next((s for s in self.dispatcher.states() if s.facts.name == tier), None)
        if state is None or not state.ready:
            return False
        language = language_code(options.language) if options.language else None
        n_beams = options.beam_size if isinstance(options.beam_size, int) else 1
        n_texts = max(options.best_of, n_beams)
        # Tokens of the text before are those of one model.
        fits = options.context_chunks == 1 and n_texts <= state.facts.max_texts
        return fits and state.facts.can(language, options.task)

    def _account(self, record: RequestRecord) -> None:
        self._accounts.queued(record.tier, self.admission.queued_s(record.tier))
        self._accounts.request(record)

    async def _report_for_ever(self) -> None:
        """Report to the board what is queued here, and receive the state of all tiers."""
        while True:
            report = replace(
                self.dispatcher.report(),
                outcomes=self._accounts.outcomes(),
                n_runs=len(self._under_way),
                runs=self._under_way.reports(),
                canaries=self._canaries.counts(),
            )
            try:
                answer = self.board.report_ingress.remote(self._name, report)
                snapshot = await asyncio.wait_for(answer, _BOARD_WAIT_S)
            except (RayError, RayServeException, TimeoutError) as error:
                logger.warning("the board does not answer: %s", error)
            else:
                self.dispatcher.hear(snapshot, report)
                self._under_way.stop(snapshot.stopped)
                if snapshot.settled:
                    self._readiness.hear({t.facts.name: t.ready for t in snapshot.tiers})
            await asyncio.sleep(TICK_S)

    async def _beat_for_ever(self) -> None:
        while True:
            self._readiness.beat()
            await asyncio.sleep(BEAT_S)


def _declare(ticket: Ticket) -> Any:
    def declare(duration_s: float | None) -> None:
        if duration_s is not None:
            ticket.declare(duration_s)

    return declare
