"""The live sessions of one ingress: admits them, finds their tiers, and accounts for them."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import ray

from deployments import metrics
from deployments.entrance.accounting import Accounts, RequestRecord, outcome_of
from deployments.entrance.limits import LiveLimits
from deployments.entrance.live import LiveRun
from deployments.entrance.rules import Rules
from deployments.entrance.tasks import Tasks
from deployments.errors import OptionError, OverloadedError
from deployments.live.options import LiveOptions, SessionOptions
from deployments.live.session import LiveSession
from deployments.live.stretch import Model
from deployments.messages import Chunk
from deployments.replicas.tier_client import Decoded, TierClient
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask

_RETRY_S = 5.0


class LiveSessions:
    """Opens live sessions.

    Args:
        resolve: names the tier that a model name stands for, or `auto`.
        rules: returns what new sessions go by.
    """

    def __init__(
        self,
        tiers: Mapping[str, TierClient],
        dispatcher: Dispatcher,
        accounts: Accounts,
        resolve: Callable[[str, Rules], str],
        rules: Callable[[], Rules],
    ) -> None:
        self._rules = rules
        self._tiers = tiers
        self._dispatcher = dispatcher
        self._accounts = accounts
        self._resolve = resolve
        self._n_open = 0
        self._gauge = metrics.LIVE_SESSIONS.gauge()
        self._ends = metrics.LIVE_END.histogram()

    @property
    def limits(self) -> LiveLimits:
        """Those that hold now."""
        return self._rules().limits.live

    @asynccontextmanager
    async def admitted(self) -> AsyncGenerator[None, None]:
        """Count a session while it lasts.

        Raises:
            OverloadedError: there are as many as may be.
            OptionError: there may be none.
        """
        if self.limits.max_sessions == 0:
            raise OptionError("live speech is turned off: limits.max_live_sessions is 0", "intent")
        if self._n_open >= self.limits.max_sessions:
            reason = f"overloaded: {self._n_open} live sessions are open; try again later"
            raise OverloadedError(reason, _RETRY_S)
        self._n_open += 1
        self._gauge.set(self._n_open, {})
        try:
            yield
        finally:
            self._n_open -= 1
            self._gauge.set(self._n_open, {})

    @asynccontextmanager
    async def open(
        self, options: LiveOptions, request_id: str = ""
    ) -> AsyncGenerator["OpenSession", None]:
        """A session, which ends with this context.

        Raises:
            DeploymentError: the options cannot be.
        """
        record = RequestRecord(request_id or uuid.uuid4().hex, options.transcribe_options())
        record.run = uuid.uuid4().hex
        opened: OpenSession | None = None
        try:
            opened = OpenSession(self, record.run, options, *await self._found(options))
            record.work = opened.run.work
            yield opened
            record.finish_live(opened.run.audio_s)
        except BaseException as error:
            record.outcome = outcome_of(error)
            raise
        finally:
            if opened is not None:
                record.tier = opened.run.session.model.name
                record.audio_s = opened.run.audio_s
                await opened.run.close()
            self._accounts.request(record)

    async def _found(self, options: LiveOptions) -> tuple[SessionOptions, Model]:
        """What the options mean for the tier that suits them."""
        asked = options.transcribe_options()
        rules = self._rules()
        name = self._resolve(options.model, rules)
        task = await Tasks(self._tiers, rules.routing, self._dispatcher).make(name, asked)
        tier = task.ask.tier or self._dispatcher.choose(task.ask)
        vocabulary = await self._tiers[tier].vocabulary()
        model = task.ask.adapter or tier
        decoding = replace(task.wanted.decoding, beam_size=1)
        return options.session_options(decoding), Model(model, vocabulary)

    def _decode(self, ask: Ask) -> Callable[[Chunk, str], Awaitable[Decoded]]:
        def decode(chunk: Chunk, model: str) -> Awaitable[Decoded]:
            return self._dispatcher.decode(chunk, self._rules().routing.named(ask, model))

        return decode


class OpenSession:
    """A session with its options.

    Attributes:
        run: takes audio and says what is heard.
        options: those in force.
    """

    def __init__(
        self,
        sessions: LiveSessions,
        session_id: str,
        options: LiveOptions,
        wanted: SessionOptions,
        model: Model,
    ) -> None:
        self.options = options
        self._sessions = sessions
        asked = options.transcribe_options()
        ask = Ask(task=asked.task, priority=asked.priority, patience_s=0.5)
        self.run = LiveRun(
            LiveSession(session_id, wanted, model),
            options.audio_format(),
            sessions._decode(ask),
            sessions._accounts.chunk,
            lambda seconds, tier: sessions._ends.observe(seconds, {"tier": tier}),
        )

    async def configure(self, options: LiveOptions) -> None:
        """Go on with other options.

        Raises:
            DeploymentError: they cannot be; those before stay.
        """
        wanted, model = await self._sessions._found(options)
        self.run.configure(wanted, model, options.audio_format())
        self.options = options


def is_draining() -> bool:
    """Whether Serve is about to stop this replica: it waits for the calls that are open. Serve does
    not tell a replica's code."""
    worker = ray._private.worker.global_worker
    replica = getattr(worker.actors.get(worker.actor_id), "_replica_impl", None)
    return bool(getattr(replica, "_shutting_down", False))


async def until_draining(period_s: float = 1.0) -> None:
    """Wait until this replica is to stop."""
    while not is_draining():
        await asyncio.sleep(period_s)
