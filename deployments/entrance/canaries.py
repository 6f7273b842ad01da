"""Tries another model on a share of the requests for one: in its place, or in its shadow.

In the first case callers get the other model's text. In the second they get what they asked for,
and each chunk goes to the other model as well, as batch work that nobody waits for; only how many
words differ is kept.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from deployments import metrics
from deployments.errors import DeploymentError
from deployments.fleet import Priority
from deployments.messages import Chunk, ChunkResult
from deployments.replicas.tier_client import ChunkLostError, Decoded
from deployments.reports import CanaryCount
from deployments.transcript.scripts import words
from engine import RequestError

logger = logging.getLogger("ray.serve")

_MOST_UNDER_WAY = 8
"""Chunks in a shadow at once, of one ingress: they are in its memory until they are done."""

DecodeShadow = Callable[[Chunk, str], Awaitable[Decoded]]
"""Decodes a chunk with the named model as batch work; see `Dispatcher.decode`."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A model that is tried on some of the requests for another one.

    Attributes:
        to: name of its tier or adapter.
        share: of the requests.
        shadow: callers get the text of the model that they asked for.
    """

    to: str
    share: float
    shadow: bool = False


class Canaries:
    """The canaries of one ingress.

    Args:
        decode: for chunks in a shadow.
        draw: numbers from 0 to 1.
    """

    def __init__(self, decode: DecodeShadow, draw: Callable[[], float] = random.random) -> None:
        self._decode = decode
        self._draw = draw
        self._under_way: set[asyncio.Task[None]] = set()
        self._counts: dict[tuple[str, str, bool], CanaryCount] = {}
        self._metrics = CanaryMetrics()

    def choose(
        self, name: str, canaries: Mapping[str, Canary], can: Callable[[str], bool]
    ) -> Canary | None:
        """The canary that a request for a tier or an adapter meets; None: it meets none.

        Args:
            can: whether a model can do what the request asks for, at once.
        """
        canary = canaries.get(name)
        if canary is None or self._draw() >= canary.share or not can(canary.to):
            return None
        self._count(CanaryCount(*_key(name, canary), n_requests=1))
        return canary

    def compare(
        self, name: str, canary: Canary, chunk: Chunk, result: ChunkResult, limit_s: float
    ) -> None:
        """Let the canary decode a chunk as well, and count the words that differ. Returns at once.

        Args:
            result: of the model that was asked for.
            limit_s: how long it may take.
        """
        if len(self._under_way) >= _MOST_UNDER_WAY:
            self._count(CanaryCount(*_key(name, canary), n_skipped=1))
            return
        task = asyncio.create_task(self._compare(name, canary, chunk, result, limit_s))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def counts(self) -> tuple[CanaryCount, ...]:
        """What has been counted since the last call."""
        counts, self._counts = self._counts, {}
        return tuple(counts.values())

    async def _compare(
        self, name: str, canary: Canary, chunk: Chunk, result: ChunkResult, limit_s: float
    ) -> None:
        # Its key must be another: the replica that has the chunk may be the same one.
        copy = replace(
            chunk, request_id=f"{chunk.request_id}~", priority=Priority.BATCH.rank, above=None
        )
        try:
            async with asyncio.timeout(limit_s):
                decoded = await self._decode(copy, canary.to)
        except (DeploymentError, RequestError, ChunkLostError, TimeoutError) as error:
            logger.warning("shadow %s of %s: %s", canary.to, name, error)
            self._count(CanaryCount(*_key(name, canary), n_failed=1))
            return
        before, after = _words(result), _words(decoded.result)
        self._count(
            CanaryCount(
                *_key(name, canary),
                n_chunks=1,
                n_words=len(before),
                n_changed=n_edits(before, after),
            )
        )

    def _count(self, count: CanaryCount) -> None:
        key = (count.of, count.to, count.shadow)
        before = self._counts.get(key)
        self._counts[key] = count if before is None else before + count
        self._metrics.add(count)


class CanaryMetrics:
    """The same counts for Prometheus."""

    def __init__(self) -> None:
        self._requests = metrics.CANARY_REQUESTS.counter()
        self._chunks = metrics.CANARY_CHUNKS.counter()
        self._words = metrics.CANARY_WORDS.counter()
        self._changed = metrics.CANARY_CHANGED.counter()

    def add(self, count: CanaryCount) -> None:
        tags = {"tier": count.of, "to": count.to}
        outcomes = {
            "compared": count.n_chunks,
            "failed": count.n_failed,
            "skipped": count.n_skipped,
        }
        for outcome, n in outcomes.items():
            if n:
                self._chunks.inc(n, tags | {"outcome": outcome})
        for counter, n in (
            (self._requests, count.n_requests),
            (self._words, count.n_words),
            (self._changed, count.n_changed),
        ):
            if n:
                counter.inc(n, tags)


def _key(name: str, canary: Canary) -> tuple[str, str, bool]:
    return name, canary.to, canary.shadow


def n_edits(before: list[str], after: list[str]) -> int:
    """The least number of words to change, leave out or put in, from one text to the other."""
    row = list(range(len(after) + 1))
    for index, word in enumerate(before, start=1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(after, start=1):
            changed = diagonal + (word != other)
            diagonal = row[column]
            row[column] = min(changed, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def _words(result: ChunkResult) -> list[str]:
    return words("".join(segment.text for segment in result.segments))
