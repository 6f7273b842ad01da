"""A live session over the replicas of a tier: drives `LiveSession` on an event loop.

Audio that has no final text yet is kept here. So a replica that dies costs another look at it, and
no word.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deployments.entrance.remote import Work
from deployments.errors import (
    ChunkFailedError,
    DeploymentError,
    NoTierError,
    TierUnavailableError,
)
from deployments.live.events import Committed, Completed, Event, Failed
from deployments.live.formats import AudioDecoder, AudioFormat
from deployments.live.look import Pass
from deployments.live.options import SessionOptions
from deployments.live.session import LiveSession
from deployments.live.stretch import Model
from deployments.messages import Chunk
from deployments.replicas.tier_client import ChunkLostError, Decoded
from engine import SAMPLE_RATE, RequestError

logger = logging.getLogger("ray.serve")

Decode = Callable[[Chunk, str], Awaitable[Decoded]]
"""Sends a chunk to a tier."""
_BLOCK = SAMPLE_RATE
"""Audio is looked for speech in blocks of a second, so that much at once holds up nobody else."""
_MAX_LOST = 3
"""A look that is lost so many times in a row has no better luck the next time."""
_PAUSE_S = 0.5
MAX_BEHIND_S = 60.0
"""While text is further behind the audio than this, no more audio is taken in."""


@dataclass(frozen=True, slots=True)
class Note:
    """What the user of a run wants to be said, behind what the session has said before."""

    content: Any


class LiveRun:
    """The run of one session. All methods are called on one event loop.

    Args:
        session: the session's state.
        format: of the audio that comes.
        decode: sends a chunk to a replica of a tier; the session's model has the tier's name.
        on_chunk: called for each finished pass, with its tier and the seconds of its stages.
        on_end: called for each turn, with the seconds from its end to its whole text, and its tier.

    Attributes:
        work: what was done for the session.
        audio_s: seconds of audio of turns that are over.
    """

    def __init__(
        self,
        session: LiveSession,
        format: AudioFormat,
        decode: Decode,
        on_chunk: Callable[[str, dict[str, float]], None],
        on_end: Callable[[float, str], None] = lambda seconds, tier: None,
    ) -> None:
        self.session = session
        self.work = Work()
        self.audio_s = 0.0
        self._on_end = on_end
        self._ended_s: dict[str, float] = {}
        self._decode = decode
        self._on_chunk = on_chunk
        self._decoder = AudioDecoder(format)
        self._events: asyncio.Queue[Event | Note | None] = asyncio.Queue()
        self._tasks: dict[asyncio.Task[Decoded], Pass] = {}
        self._n_lost = 0
        self._resting: asyncio.Task[None] | None = None
        self._progress = asyncio.Event()
        self._finished = False

    @property
    def format(self) -> AudioFormat:
        return self._decoder.format

    async def append(self, data: bytes) -> None:
        """Take the next audio. Waits while text is too far behind."""
        pcm = self._decoder.push(data)
        for start in range(0, len(pcm), _BLOCK):
            await self._room()
            self._say(self.session.append(pcm[start : start + _BLOCK]))

    def commit(self) -> None:
        """End the turn that goes on.

        Raises:
            EmptyBufferError: there is too little audio behind the last turn.
        """
        self._flush()
        self._say(self.session.commit())

    def clear(self) -> None:
        """Forget what was not committed."""
        self._flush()
        self._say(self.session.clear())

    def configure(self, options: SessionOptions, model: Model, format: AudioFormat) -> None:
        """Go on with other options."""
        if format != self.format:
            self._flush()
            self._decoder = AudioDecoder(format)
        self.session.configure(options, model)

    def finish(self) -> None:
        """There is no more audio. `events` end when all text is told."""
        self._flush()
        self._say(self.session.finish())
        self._finished = True
        self._end_if_done()

    def note(self, content: Any) -> None:
        """Have something said."""
        self._events.put_nowait(Note(content))

    async def events(self) -> AsyncGenerator[Event | Note, None]:
        """What the session says, and notes, until all is said after `finish`, or `close`."""
        while (event := await self._events.get()) is not None:
            yield event

    async def close(self) -> None:
        """Stop all work."""
        tasks: list[asyncio.Task[Any]] = [*self._tasks]
        if self._resting is not None:
            tasks.append(self._resting)
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._events.put_nowait(None)

    async def _room(self) -> None:
        """Wait until text has caught up, if it is too far behind."""
        while self.session.lag_s > MAX_BEHIND_S:
            self._progress.clear()
            await self._progress.wait()

    def _flush(self) -> None:
        rest = self._decoder.flush()
        if len(rest):
            self._say(self.session.append(np.asarray(rest, np.int16)))

    def _say(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Committed):
                self._ended_s[event.item_id] = time.monotonic()
            elif isinstance(event, Completed | Failed):
                ended_s = self._ended_s.pop(event.item_id, None)
                if isinstance(event, Completed) and ended_s is not None:
                    self.audio_s += event.duration_s
                    self._on_end(time.monotonic() - ended_s, self.session.model.name)
            self._events.put_nowait(event)
        self._pump()

    def _pump(self) -> None:
        """Send the pass that is due, and stop those that are of no use any more."""
        for task, sent in self._tasks.items():
            if not self.session.is_wanted(sent):
                task.cancel()
        if self._resting is not None:
            return
        if (found := self.session.next_pass()) is not None:
            task = asyncio.ensure_future(self._decode(found.chunk, found.stretch.model.name))
            self._tasks[task] = found
            task.add_done_callback(partial(self._done, time.monotonic()))

    def _done(self, sent_at: float, task: "asyncio.Task[Decoded]") -> None:
        found = self._tasks.pop(task, None)
        self._progress.set()
        if found is None or task.cancelled():
            return
        try:
            decoded = task.result()
        except (ChunkLostError, TierUnavailableError) as error:
            self._lost(found, error)
        except (DeploymentError, RequestError, NoTierError) as error:
            self._say(self.session.fail(found, error))
        except Exception as error:  # border of the task: the client is told of any error
            logger.error("a look of session %s failed", self.session.session_id, exc_info=error)
            self._say(self.session.fail(found, error))
        else:
            self._n_lost = 0
            self._on_chunk(decoded.result.model, self.work.add_chunk(decoded))
            self._say(self.session.accept(found, decoded.result, time.monotonic() - sent_at))
        self._end_if_done()

    def _lost(self, found: Pass, error: Exception) -> None:
        self._n_lost += 1
        if self._n_lost >= _MAX_LOST:
            self._n_lost = 0
            start_s = found.stretch.start / SAMPLE_RATE
            lost = ChunkFailedError(start_s, found.stop / SAMPLE_RATE, _MAX_LOST)
            unavailable = isinstance(error, TierUnavailableError)
            self._say(self.session.fail(found, error if unavailable else lost))
            return
        self.session.lose(found)
        self._resting = asyncio.ensure_future(self._rest())

    async def _rest(self) -> None:
        await asyncio.sleep(_PAUSE_S)
        self._resting = None
        self._pump()

    def _end_if_done(self) -> None:
        if self._finished and self.session.is_idle:
            self._events.put_nowait(None)
