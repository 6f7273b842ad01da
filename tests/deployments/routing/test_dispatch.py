"""How chunks wait for tiers and move between them, with tiers that answer when they are told to."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from deployments.errors import NoTierError, TierUnavailableError
from deployments.fleet import Priority, TierState
from deployments.messages import Chunk, ChunkResult
from deployments.replicas.tier_client import Decoded
from deployments.reports import Snapshot
from deployments.routing.dispatch import Dispatcher
from deployments.routing.router import Ask
from engine import DecodingOptions
from tests.deployments.routing.test_router import BASE, TINY

CHUNK_S = 10.0
SMALL = replace(TINY, slots=2)
OTHER = replace(BASE, slots=2)
EN = Ask("en")


class Tier:
    """Stands for a tier's replicas: keeps calls until the test answers them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: dict[str, asyncio.Future[Decoded]] = {}
        self.order: list[str] = []
        self.adapters: list[str] = []

    async def decode(self, chunk: Chunk) -> Decoded:
        self.order.append(chunk.key)
        self.adapters.append(chunk.adapter)
        self.calls[chunk.key] = asyncio.get_running_loop().create_future()
        try:
            return await self.calls[chunk.key]
        finally:
            del self.calls[chunk.key]

    def answer(self, key: str) -> None:
        result = ChunkResult(key, (), (), "en", 1.0, 0.0, 0.0, 0.0, 0.0, "stop", self.name)
        self.calls[key].set_result(Decoded(result, 0, 0.1))


def chunk(index: int, request: str = "r", beam_size: int = 1) -> Chunk:
    pcm = np.zeros(round(CHUNK_S * 16_000), np.int16)
    return Chunk(request, index, pcm, DecodingOptions(language="en", beam_size=beam_size))


def snapshot(tiny: int = 1, base: int = 1, n_ingresses: int = 1) -> Snapshot:
    states = (TierState(SMALL, 400.0, ready=tiny), TierState(OTHER, 200.0, ready=base))
    return Snapshot(states, n_ingresses, CHUNK_S)


class Fixture:
    """Two tiers of one replica with two slots each, so that four chunks are sent to each."""

    def __init__(self) -> None:
        self.tiny, self.base = Tier("tiny.en"), Tier("base")
        rtfx = {"tiny.en": 400.0, "base": 200.0}
        tiers = {"tiny.en": self.tiny, "base": self.base}
        self.dispatcher = Dispatcher(tiers, (SMALL, OTHER), rtfx)  # type: ignore[arg-type]
        self.hear(snapshot())

    def hear(self, answer: Snapshot, others_s: float = 0.0) -> None:
        """The board's answer: what is reported here, and of tiny.en what others have queued."""
        report = self.dispatcher.report()
        states = tuple(
            replace(
                state,
                queued_s=report.queued_s.get(state.facts.name, 0.0)
                + others_s * (state.facts.name == "tiny.en"),
                batch_s=report.batch_s.get(state.facts.name, 0.0),
            )
            for state in answer.tiers
        )
        self.dispatcher.hear(replace(answer, tiers=states), report)

    def send(
        self, index: int, ask: Ask = EN, request: str = "r", beam_size: int = 1
    ) -> "asyncio.Task[Decoded]":
        return asyncio.create_task(self.dispatcher.decode(chunk(index, request, beam_size), ask))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_chunk_says_which_adapter_decodes_it() -> None:
    async def run() -> None:
        fixture = Fixture()
        asks = (replace(EN, tier="base", adapter="names"), replace(EN, tier="base"))
        tasks = [fixture.send(index, ask) for index, ask in enumerate(asks)]
        await settle()
        assert fixture.base.adapters == ["names", ""]
        await stop(tasks)

    asyncio.run(run())


def test_a_tier_gets_two_batches_and_the_rest_is_held() -> None:
    async def run() -> None:
        fixture = Fixture()
        tasks = [fixture.send(i, replace(EN, tier="tiny.en")) for i in range(7)]
        await settle()
        assert len(fixture.tiny.calls) == 4
        assert fixture.dispatcher.n_held("tiny.en") == 3
        report = fixture.dispatcher.report()
        assert report.queued_s == {"tiny.en": 7 * CHUNK_S, "base": 0.0}
        assert report.arrived_s == {("tiny.en",): 7 * CHUNK_S}
        assert (report.n_chunks, report.chunks_s) == (7, 7 * CHUNK_S)
        fixture.tiny.answer("r/0/0")
        decoded = await tasks[0]
        assert decoded.result.key == "r/0/0"
        await settle()
        assert fixture.tiny.order[-1] == "r/4/0"
        assert fixture.dispatcher.report().queued_s["tiny.en"] == 6 * CHUNK_S
        await stop(tasks)
        assert not fixture.tiny.calls
        assert fixture.dispatcher.report().queued_s["tiny.en"] == 0.0
        assert fixture.dispatcher.n_held("tiny.en") == 0

    asyncio.run(run())


def test_a_search_counts_as_many_chunks_as_it_has_beams() -> None:
    async def run() -> None:
        fixture = Fixture()
        asked = replace(EN, tier="tiny.en")
        searches = [fixture.send(i, asked, beam_size=2) for i in range(3)]
        greedy = fixture.send(3, asked)
        await settle()
        assert fixture.tiny.order == ["r/0/0", "r/1/0"]  # four slots of four
        report = fixture.dispatcher.report()
        assert report.queued_s["tiny.en"] == 7 * CHUNK_S
        assert report.arrived_s == {("tiny.en",): 7 * CHUNK_S}
        assert (report.n_chunks, report.chunks_s) == (7, 7 * CHUNK_S)
        fixture.tiny.answer("r/0/0")
        await searches[0]
        await settle()
        assert fixture.tiny.order == ["r/0/0", "r/1/0", "r/2/0"]
        assert fixture.dispatcher.n_held("tiny.en") == 1
        assert fixture.dispatcher.report().queued_s["tiny.en"] == 5 * CHUNK_S
        await stop([*searches, greedy])
        assert fixture.dispatcher.report().queued_s["tiny.en"] == 0.0

    asyncio.run(run())


def test_all_slots_of_a_search_are_free_again() -> None:
    async def run() -> None:
        fixture = Fixture()
        asked = replace(EN, tier="tiny.en")
        searches = [fixture.send(i, asked, beam_size=2) for i in range(2)]
        await settle()
        for key in list(fixture.tiny.order):
            fixture.tiny.answer(key)
        await asyncio.gather(*searches)
        greedy = [fixture.send(i, asked) for i in range(2, 8)]
        await settle()
        assert fixture.tiny.order[2:] == [f"r/{i}/0" for i in range(2, 6)]
        await stop(greedy)

    asyncio.run(run())


async def stop(tasks: "list[asyncio.Task[Decoded]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settle()


@pytest.mark.parametrize(("others", "sent"), [(0, 16), (5, 11), (8, 8), (100, 8)])
def test_several_ingresses_share_the_replicas(others: int, sent: int) -> None:
    """Half of 16 places for each of two, and what the other one leaves."""

    async def run() -> None:
        fixture = Fixture()
        fixture.hear(snapshot(tiny=4, n_ingresses=2), others * CHUNK_S)
        tasks = [fixture.send(i, replace(EN, tier="tiny.en")) for i in range(20)]
        await settle()
        assert len(fixture.tiny.calls) == sent
        await stop(tasks)

    asyncio.run(run())


def test_replicas_that_come_get_what_is_held() -> None:
    async def run() -> None:
        fixture = Fixture()
        tasks = [fixture.send(i, replace(EN, tier="tiny.en")) for i in range(20)]
        await settle()
        fixture.hear(snapshot(tiny=3))
        await settle()
        assert len(fixture.tiny.calls) == 12
        await stop(tasks)

    asyncio.run(run())


def test_chunks_that_would_be_late_go_to_another_tier() -> None:
    """Of two slots and 400 s/s, 1,000 s after those in slots are 2.5 s of waiting."""

    async def run() -> None:
        fixture = Fixture()
        asks = [fixture.send(i, replace(EN, patience_s=2.5)) for i in range(110)]
        await settle()
        # Two of 10 s are in slots, and 100 may wait; the one behind them would wait too long.
        assert fixture.dispatcher.report().queued_s == {"tiny.en": 1030.0, "base": 70.0}
        await stop(asks)

    asyncio.run(run())


def test_chunks_leave_a_tier_that_has_lost_its_replicas() -> None:
    async def run() -> None:
        fixture = Fixture()
        tasks = [fixture.send(i) for i in range(6)]
        await settle()
        assert len(fixture.tiny.calls) == 4
        fixture.hear(snapshot(tiny=0))
        fixture.hear(snapshot(tiny=0))
        await settle()
        assert len(fixture.tiny.calls) == 4, "a replica may miss a report"
        fixture.hear(snapshot(tiny=0))
        await settle()
        assert not fixture.tiny.calls
        assert len(fixture.base.calls) == 4
        assert fixture.base.order == [f"r/{i}/0" for i in (4, 5, 0, 1)]
        assert fixture.dispatcher.report().queued_s == {"tiny.en": 0.0, "base": 6 * CHUNK_S}
        while not all(task.done() for task in tasks):
            for key in list(fixture.base.calls):
                fixture.base.answer(key)
            await settle()
        assert {task.result().result.model for task in tasks} == {"base"}
        assert fixture.dispatcher.report().queued_s == {"tiny.en": 0.0, "base": 0.0}

    asyncio.run(run())


def test_a_board_that_has_just_begun_does_not_know_of_all_replicas() -> None:
    async def run() -> None:
        fixture = Fixture()
        tasks = [fixture.send(i) for i in range(3)]
        await settle()
        for _ in range(5):
            fixture.hear(replace(snapshot(tiny=0), settled=False))
        await settle()
        assert len(fixture.tiny.calls) == 3
        await stop(tasks)

    asyncio.run(run())


def test_a_chunk_that_stays_keeps_no_other_from_moving() -> None:
    """Of batch priority, or of who named the tier, behind those that need not wait elsewhere."""

    async def run() -> None:
        fixture = Fixture()
        fixture.hear(snapshot(base=0))
        batch = replace(EN, priority=Priority.BATCH, patience_s=600.0)
        hurried = replace(EN, patience_s=0.01)
        asks = (
            [replace(EN, tier="tiny.en")] * 4 + [hurried] * 3 + [batch, replace(EN, tier="tiny.en")]
        )
        tasks = [fixture.send(i, ask, f"r{i}") for i, ask in enumerate(asks)]
        await settle()
        assert fixture.dispatcher.n_held("tiny.en") == 5
        fixture.hear(snapshot(base=1))
        await settle()
        assert sorted(fixture.base.calls) == ["r4/4/0", "r5/5/0", "r6/6/0"]
        assert fixture.dispatcher.n_held("tiny.en") == 2
        await stop(tasks)

    asyncio.run(run())


def test_a_tier_that_is_away_is_no_mistake_of_the_caller() -> None:
    """Chunks that wait for it, too, and reports go on; what nobody can do is one."""

    async def run() -> None:
        fixture = Fixture()
        french = Ask("fr")
        tasks = [fixture.send(i, french) for i in range(6)]
        await settle()
        fixture.base.calls["r/0/0"].set_exception(TierUnavailableError("gone"))
        with pytest.raises(TierUnavailableError):
            await tasks[0]
        fixture.hear(snapshot())
        assert fixture.dispatcher.report().queued_s["base"] == 5 * CHUNK_S
        with pytest.raises(TierUnavailableError, match="'base' cannot be started"):
            await fixture.send(9, french)
        with pytest.raises(NoTierError):
            await fixture.send(9, replace(french, above=BASE.quality))
        await stop(tasks[1:])
        assert fixture.dispatcher.report().queued_s == {"tiny.en": 0.0, "base": 0.0}

    asyncio.run(run())


def test_a_better_text_is_not_waited_for_where_no_tier_can_be_had() -> None:
    async def run() -> None:
        fixture = Fixture()
        gone = snapshot(base=0)
        fixture.hear(replace(gone, tiers=(gone.tiers[0], replace(gone.tiers[1], denied=True))))
        with pytest.raises(TierUnavailableError, match="'base' cannot be had"):
            await asyncio.wait_for(fixture.send(0, replace(EN, above=TINY.quality)), 5)

    asyncio.run(run())


def test_the_board_of_another_deployment_knows_other_tiers() -> None:
    async def run() -> None:
        fixture = Fixture()
        new = TierState(replace(OTHER, name="new"), 100.0, ready=3)
        fixture.hear(Snapshot((snapshot().tiers[0], new), 1, CHUNK_S))
        task = fixture.send(0)
        await settle()
        fixture.tiny.answer("r/0/0")
        assert (await task).result.model == "tiny.en"
        base = next(s for s in fixture.dispatcher.all_states() if s.facts.name == "base")
        assert base.ready == 0

    asyncio.run(run())


def test_who_names_a_tier_waits_for_it() -> None:
    async def run() -> None:
        fixture = Fixture()
        fixture.hear(snapshot(tiny=0))
        task = fixture.send(0, replace(EN, tier="tiny.en"))
        await settle()
        fixture.hear(snapshot(tiny=0))
        await settle()
        assert list(fixture.tiny.calls) == ["r/0/0"]
        await stop([task])

    asyncio.run(run())


def test_a_tier_that_cannot_be_started_is_left_out_for_a_while() -> None:
    async def run() -> None:
        fixture = Fixture()
        tasks = [fixture.send(0), fixture.send(1, replace(EN, tier="tiny.en"))]
        await settle()
        for call in list(fixture.tiny.calls.values()):
            call.set_exception(TierUnavailableError("it is gone"))
        await settle()
        assert list(fixture.base.calls) == ["r/0/0"]
        with pytest.raises(TierUnavailableError, match="it is gone"):
            await tasks[1]
        tasks.append(fixture.send(2))
        await settle()
        assert list(fixture.base.calls) == ["r/0/0", "r/2/0"]
        await stop(tasks)

    asyncio.run(run())


def test_an_error_of_a_chunk_is_its_callers() -> None:
    async def run() -> None:
        fixture = Fixture()
        task = fixture.send(0)
        await settle()
        fixture.tiny.calls["r/0/0"].set_exception(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await task
        assert fixture.dispatcher.report().queued_s["tiny.en"] == 0.0

    asyncio.run(run())


def test_what_was_sent_of_a_lower_priority_is_in_nobodys_way() -> None:
    """A replica gives its slots by priority, so that nothing more urgent has to wait here."""

    async def run() -> None:
        fixture = Fixture()
        tiny = replace(EN, tier="tiny.en")
        batch, urgent = (replace(tiny, priority=p) for p in (Priority.BATCH, Priority.REALTIME))
        tasks = [fixture.send(i, batch, "night") for i in range(6)]
        await settle()
        tasks += [fixture.send(i, tiny, "day") for i in range(6)]
        tasks += [fixture.send(0, urgent, "now")]
        await settle()
        assert fixture.tiny.order == (
            [f"night/{i}/0" for i in range(4)] + [f"day/{i}/0" for i in range(4)] + ["now/0/0"]
        )
        for key in ("night/0/0", "now/0/0", "day/0/0"):
            fixture.tiny.answer(key)
            await settle()
        # Four of those by day and night together were too many already.
        assert fixture.tiny.order[9:] == ["day/4/0"]
        await stop(tasks)
        assert fixture.dispatcher.report().batch_s["tiny.en"] == 0.0

    asyncio.run(run())


def test_a_batch_chunk_that_has_risen_takes_no_room_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Room for four more: it goes first, and four of those by day go with it."""
    clock = [1000.0]
    monkeypatch.setattr("deployments.routing.dispatch.time.monotonic", lambda: clock[0])

    async def run() -> None:
        fixture = Fixture()
        tiny = replace(EN, tier="tiny.en")
        tasks = [fixture.send(i, tiny, "day") for i in range(10)]
        tasks += [fixture.send(0, replace(tiny, priority=Priority.BATCH), "night")]
        await settle()
        clock[0] = 1690.0
        fixture.tiny.answer("day/0/0")
        await settle()
        assert fixture.tiny.order == [f"day/{i}/0" for i in range(5)]
        clock[0] = 1700.0
        fixture.hear(snapshot(tiny=2))
        await settle()
        assert fixture.tiny.order[5:] == ["night/0/0", *(f"day/{i}/0" for i in range(5, 9))]
        await stop(tasks)

    asyncio.run(run())
