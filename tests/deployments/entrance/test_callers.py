"""Runs end when the process that waits for them is gone."""

import asyncio
from collections.abc import Collection

import pytest

from deployments.entrance import callers
from deployments.entrance.callers import Callers, RunEnd
from deployments.errors import DeadlineError

HE, SHE = "aa" * 28, "bb" * 28
FOR_EVER_S = 3600.0


class Gcs:
    """Knows who is dead; away at first, if so wished."""

    def __init__(self, gone: Collection[str], n_failures: int = 0) -> None:
        self.gone = set(gone)
        self.n_failures = n_failures
        self.asked: list[list[str]] = []

    def __call__(self, worker_ids: Collection[str]) -> set[str]:
        self.asked.append(sorted(worker_ids))
        if len(self.asked) <= self.n_failures:
            raise RuntimeError("the GCS is away")
        return self.gone & set(worker_ids)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "PERIOD_S", 0.01)


async def run(watcher: Callers, caller: str | None, takes_s: float, ends_s: float) -> str:
    """How a run ends that takes some time, in one step."""
    end = RunEnd(ends_s)
    try:
        with watcher.watch(caller, end):
            async with end.step():
                await asyncio.sleep(takes_s)
    except TimeoutError:
        return type(end.error()).__name__
    return "done"


def test_runs_of_those_who_are_gone_end_and_no_others() -> None:
    async def go() -> list[str]:
        watcher = Callers(Gcs({HE}))
        wishes = ((HE, FOR_EVER_S), (HE, FOR_EVER_S), (SHE, 0.2), (None, 0.2))
        return await asyncio.gather(*(run(watcher, *wish, FOR_EVER_S) for wish in wishes))

    assert asyncio.run(go()) == ["CancelledError", "CancelledError", "done", "done"]


def test_a_gcs_that_is_away_ends_nothing_and_is_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def go() -> list[str]:
        watcher = Callers(Gcs({HE}, n_failures=3))
        return await asyncio.gather(
            run(watcher, SHE, 0.3, FOR_EVER_S), run(watcher, HE, FOR_EVER_S, FOR_EVER_S)
        )

    assert asyncio.run(go()) == ["done", "CancelledError"]
    assert "does not say which callers live" in caplog.text


def test_nobody_is_asked_for_when_nobody_waits() -> None:
    async def go() -> Gcs:
        gcs = Gcs({HE})
        watcher = Callers(gcs)
        assert await run(watcher, None, 0.1, FOR_EVER_S) == "done"
        assert gcs.asked == []
        for _ in range(2):  # and again, when the watcher has come to rest
            assert await run(watcher, SHE, 0.1, FOR_EVER_S) == "done"
            n_asked = len(gcs.asked)
            await asyncio.sleep(0.1)
            assert 0 < n_asked and len(gcs.asked) <= n_asked + 1
        return gcs

    gcs = asyncio.run(go())
    assert all(asked == [SHE] for asked in gcs.asked if asked)


def test_a_deadline_is_still_one() -> None:
    async def go() -> str:
        return await run(Callers(Gcs(())), HE, FOR_EVER_S, 0.05)

    assert asyncio.run(go()) == DeadlineError.__name__


def test_who_dies_between_two_steps_gets_no_second_one() -> None:
    async def go() -> None:
        end = RunEnd(FOR_EVER_S)
        async with end.step():
            pass
        end.abandon()
        with pytest.raises(TimeoutError):
            async with end.step():
                await asyncio.sleep(FOR_EVER_S)
        assert isinstance(end.error(), asyncio.CancelledError)

    asyncio.run(go())
