"""Runs are listed while they run, and end when somebody wants it."""

import asyncio

from deployments.entrance.accounting import RequestRecord
from deployments.entrance.admission import Admission
from deployments.entrance.callers import RunEnd
from deployments.entrance.under_way import UnderWay
from deployments.fleet import Priority
from deployments.options import TranscribeOptions


def test_a_run_is_listed_with_its_progress_and_stopped_by_its_id() -> None:
    async def go() -> tuple[list[str], list[tuple[float | None, float]]]:
        under_way, admission = UnderWay(), Admission(9, 100.0)
        seen: list[tuple[float | None, float]] = []

        async def run(name: str, takes_s: float) -> str:
            record = RequestRecord("", TranscribeOptions(model="base", priority=Priority.BATCH))
            record.run, record.tier = name, "base"
            end = RunEnd(3600.0)
            try:
                with admission.admit("base") as ticket, under_way.run(record, ticket, end):
                    ticket.declare(40.0)
                    ticket.update(30.0, 20.0)
                    async with end.step():
                        await asyncio.sleep(takes_s)
            except TimeoutError:
                return type(end.error()).__name__
            return "done"

        runs = [asyncio.create_task(run("a", 60.0)), asyncio.create_task(run("b", 0.1))]
        await asyncio.sleep(0.02)
        assert len(under_way) == 2
        for report in under_way.reports():
            assert (report.model, report.tier, report.priority) == ("base", "base", "batch")
            seen.append((report.audio_s, report.done_s))
        under_way.stop(["a", "unknown"])
        ended = [await each for each in runs]
        assert len(under_way) == 0 and under_way.reports() == ()
        return ended, seen

    ended, seen = asyncio.run(go())
    assert ended == ["StoppedError", "done"]
    assert seen == [(40.0, 10.0)] * 2


def test_a_run_is_stopped_between_two_steps() -> None:
    async def go() -> str:
        end = RunEnd(3600.0)
        end.stop()
        try:
            async with end.step():
                await asyncio.sleep(60)
        except TimeoutError:
            return str(end.error())
        return "done"

    assert "stopped by an operator" in asyncio.run(go())
