"""Readiness by a clock of our own: slow tiers, lost replicas, probes that hang, a silent board."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from deployments.entrance.readiness import FRESH_S, SLOW_S, Readiness, is_ready
from deployments.errors import TierUnavailableError
from deployments.replicas.tier_client import TierClient


class Slow:
    """A tier whose chunks take as long as the test lets them."""

    name = "large"

    def __init__(self, clock: Callable[[], float]) -> None:
        self.last_decoded = float("-inf")
        self.probes: list[asyncio.Future[None]] = []
        self._clock = clock

    async def decode(self, chunk: object) -> None:
        self.probes.append(asyncio.get_running_loop().create_future())
        await self.probes[-1]
        self.last_decoded = self._clock()


class World:
    """A tier, its readiness, and seconds that pass as told; the board reports every second."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.tier = Slow(lambda: self.now)
        self.readiness = Readiness([cast(TierClient, self.tier)], lambda: self.now)

    @property
    def is_ready(self) -> bool:
        return self.readiness.states()["large"]

    async def pass_(self, seconds: int, replicas: int | None = 1, answers_s: int = 0) -> list[bool]:
        """The state at each second.

        Args:
            replicas: that report; None: the board is silent.
            answers_s: how long each probe takes; 0: for ever.
        """
        states, out_s = [], 0
        for _ in range(seconds):
            if replicas is not None:
                self.readiness.hear({"large": replicas})
            self.readiness.beat()
            await asyncio.sleep(0)
            is_out = self.tier.probes and not self.tier.probes[-1].done()
            out_s = out_s + 1 if is_out else 0
            if is_out and answers_s and out_s > answers_s:
                self.tier.probes[-1].set_result(None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            states.append(self.is_ready)
            self.now += 1
        return states


def run(test: Callable[[World], Any]) -> None:
    async def whole() -> None:
        world = World()
        await test(world)
        for probe in world.tier.probes:
            probe.cancel()
        await asyncio.sleep(0)

    asyncio.run(whole())


def test_a_tier_is_ready_once_it_has_decoded() -> None:
    async def test(world: World) -> None:
        assert not world.is_ready
        assert not any(await world.pass_(20))
        world.tier.probes[-1].set_result(None)
        assert all((await world.pass_(5))[1:])

    run(test)


def test_slow_probes_are_no_outage() -> None:
    """Each takes 20 s, longer than results are fresh; nobody asks in between."""

    async def test(world: World) -> None:
        await world.pass_(30, answers_s=20)
        assert all(await world.pass_(600, answers_s=20))
        assert len(world.tier.probes) <= 4, "probes take a tenth of the tier's time"

    run(test)


def test_lost_replicas_are_seen_at_once_and_the_next_one_has_to_decode() -> None:
    async def test(world: World) -> None:
        await world.pass_(5, answers_s=1)
        assert world.is_ready
        assert not any(await world.pass_(5, replicas=0, answers_s=1))
        states = await world.pass_(30, replicas=1, answers_s=1)
        assert not states[0] and states[-1]

    run(test)


def test_a_probe_that_does_not_end_is_an_outage() -> None:
    async def test(world: World) -> None:
        await world.pass_(5, answers_s=1)
        states = await world.pass_(30 + round(SLOW_S))
        assert states[0] and not states[-1]
        world.tier.probes[-1].set_result(None)
        assert all((await world.pass_(3))[1:])

    run(test)


def test_while_the_board_is_silent_results_count() -> None:
    async def test(world: World) -> None:
        await world.pass_(5, answers_s=1)
        assert all(await world.pass_(100, replicas=None, answers_s=1))
        assert not (await world.pass_(round(FRESH_S) + 15, replicas=None))[-1]

    run(test)


def test_a_probe_that_fails_is_an_outage_until_something_is_decoded() -> None:
    async def test(world: World) -> None:
        await world.pass_(12, answers_s=1)
        world.tier.probes[-1].set_exception(TierUnavailableError("gone"))
        assert not any(await world.pass_(3))
        world.tier.last_decoded = world.now
        assert world.is_ready

    run(test)


def test_the_cluster_is_ready_if_any_tier_is() -> None:
    assert is_ready({"a": False, "b": True}) and not is_ready({"a": False}) and is_ready({})
