"""What the board makes of reports, and how its decisions get to Serve's policy."""

import asyncio
import json
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.autoscaling_policy import _apply_app_level_autoscaling_config
from ray.serve.config import AutoscalingConfig

from deployments.fleet import MEAN_CHUNK_S, Priority, TierFacts, deployment_name
from deployments.replicas.speed import SpeedMeter
from deployments.reports import IngressReport, ReplicaReport, RunReport
from deployments.routing.board import FRESH_S, TARGET, TICK_S, Board, FleetState
from deployments.routing.scaling_policy import follow_board
from tests.deployments.routing.test_router import BASE, TINY

RTFX = {"tiny.en": 400.0, "base": 200.0}
BOTH = ("tiny.en", "base")


def config(facts: tuple[TierFacts, ...], rtfx: dict[str, float], **scaling: float) -> Any:
    """The board's `user_config`, as it comes over Serve."""
    plain = [{**asdict(f), "languages": f.languages and sorted(f.languages)} for f in facts]
    return json.loads(json.dumps({"facts": plain, "expected_rtfx": rtfx, "scaling": scaling}))


def fleet() -> FleetState:
    return FleetState((TINY, BASE), RTFX)


class TestFleetState:
    def test_reports_add_up(self) -> None:
        state = fleet()
        state.hear_ingress("a", IngressReport({"tiny.en": 10.0}, {"base": 5.0}), 0.0)
        state.hear_ingress("b", IngressReport({"tiny.en": 1.0}, n_chunks=2, chunks_s=24.0), 0.5)
        state.hear_replica("tiny.en", "r1", ReplicaReport(300.0), 0.5)
        state.hear_replica("tiny.en", "r2", ReplicaReport(500.0), 0.5)
        state.hear_replica("tiny.en", "r3", ReplicaReport(None), 0.5)
        snapshot = state.snapshot(1.0)
        tiny, base = snapshot.tiers
        assert (tiny.queued_s, tiny.batch_s, tiny.ready, tiny.rtfx) == (11.0, 0.0, 3, 400.0)
        assert (base.queued_s, base.batch_s, base.ready, base.rtfx) == (0.0, 5.0, 0, 200.0)
        assert (snapshot.n_ingresses, snapshot.chunk_s) == (2, 12.0)

    def test_a_sender_counts_once_and_is_forgotten_when_it_is_silent(self) -> None:
        state = fleet()
        for now in (0.0, 1.0):
            state.hear_ingress("a", IngressReport({"tiny.en": 10.0}), now)
            state.hear_replica("base", "r", ReplicaReport(250.0), now)
        assert state.snapshot(1.0 + FRESH_S - 0.1).tiers[0].queued_s == 10.0
        later = state.snapshot(1.0 + FRESH_S)
        assert later.tiers[0].queued_s == 0.0
        assert later.tiers[1].ready == 0
        assert later.tiers[1].rtfx == 250.0  # its speed is remembered
        assert later.chunk_s == MEAN_CHUNK_S

    def test_other_facts_keep_what_was_reported(self) -> None:
        """A speed is measured again where the engine is another one."""
        state = fleet()
        for tier in ("tiny.en", "base"):
            state.hear_replica(tier, "r", ReplicaReport(250.0, n_used=3), 0.0)
        state.snapshot(0.5)
        dearer = replace(BASE, usd_per_hour=9.0, max_replicas=7)
        state.configure((TINY, dearer), {**RTFX, "base": 70.0})
        later = state.snapshot(FRESH_S + 1)  # nobody reports any more
        assert later.tiers[1].facts == dearer
        assert (later.tiers[0].rtfx, later.tiers[1].rtfx) == (250.0, 70.0)
        state.configure((TINY,), {"tiny.en": 400.0})
        assert [tier.facts for tier in state.snapshot(1.0).tiers] == [TINY]
        state.hear_replica("base", "r", ReplicaReport(), 1.0)  # is nobody's any more

    def test_a_steady_arrival_becomes_its_rate_and_goes_again(self) -> None:
        state = fleet()
        for second in range(200):
            state.hear_ingress("a", IngressReport(arrived_s={BOTH: 7.0}), float(second))
            (demand,) = state.demands(float(second))
            assert demand.tiers == BOTH
            # Too little is known of the first seconds.
            assert demand.rate == pytest.approx(7.0 * min(1.0, (second + 1) / 10))
            assert demand.idle_s == 0.0
        for second in range(200, 229):
            (demand,) = state.demands(float(second))
            assert demand.idle_s == second - 199
        assert demand.rate == pytest.approx(7.0 / 30)
        assert state.demands(229.0) == []


def contexts(n_calls: int = 0, **series: list[tuple[float, float]]) -> dict[Any, Any]:
    """Of three deployments; the board's last numbers, as Serve keeps them, and calls of base."""
    raw = {
        f"{TARGET}{name}": {"board#1": [SimpleNamespace(timestamp=t, value=v) for t, v in values]}
        for name, values in series.items()
    }
    names = {"Board": raw, "tiny_en": None, "base": {}}
    return {
        _Id(name): SimpleNamespace(
            raw_metrics=metrics,
            total_num_requests=n_calls if name == "base" else 0,
            current_num_replicas=0 if name == "base" else 1,
            target_num_replicas=0 if name == "base" else 1,
            policy_state={},
            config=AutoscalingConfig(min_replicas=0, max_replicas=20, upscale_delay_s=0),
        )
        for name, metrics in names.items()
    }


class _Id(str):
    """A deployment's id, of which the policy looks at the name."""

    @property
    def name(self) -> str:
        return str(self)


class TestPolicy:
    def test_the_newest_decision_counts(self) -> None:
        series = {"tiny.en": [(1.0, 5.0), (2.0, 3.0)], "base": [(2.0, 0.0)]}
        targets, _ = follow_board(contexts(**series))
        assert targets == {"tiny_en": 3, "base": 0}

    def test_a_tier_that_is_being_called_has_one(self) -> None:
        series = {"tiny.en": [(1.0, 0.0)], "base": [(1.0, 0.0)]}
        targets, _ = follow_board(contexts(n_calls=3, **series))
        assert targets == {"tiny_en": 0, "base": 1}

    def test_a_sleeping_tier_gets_all_that_it_is_to_have(self) -> None:
        """Through Serve's own wrapper, which has a way of its own for the first replica."""
        policy = _apply_app_level_autoscaling_config(follow_board)
        targets, _ = policy(contexts(n_calls=3, base=[(1.0, 9.0)]))
        assert targets == {"base": 9}

    def test_without_a_decision_all_stay_as_they_are(self) -> None:
        assert follow_board(contexts()) == ({}, {})

    def test_it_never_raises(self, caplog: pytest.LogCaptureFixture) -> None:
        broken = {_Id("Board"): SimpleNamespace(raw_metrics={f"{TARGET}base": {"b": [None]}})}
        assert follow_board(broken) == ({}, {})  # type: ignore[arg-type]
        assert "could not be read" in caplog.text

    def test_names_are_those_of_the_deployments(self) -> None:
        assert deployment_name("tiny.en") == "tiny_en"


class TestBoard:
    def test_it_decides_of_what_it_hears_and_says_why(self) -> None:
        async def run() -> tuple[dict[str, float], dict[str, Any]]:
            board = Board()
            board.reconfigure(config((TINY, BASE), RTFX, down_delay_s=0.0))
            board._began -= FRESH_S
            await board.report_replica("base", "r", ReplicaReport(250.0, n_used=3))
            await board.report_ingress("a", IngressReport({"tiny.en": 50.0}))
            await asyncio.sleep(1.5 * TICK_S)
            stats = await board.record_autoscaling_stats()
            return stats, await board.cluster()

        stats, cluster = asyncio.run(run())
        assert stats == {f"{TARGET}tiny.en": 1.0, f"{TARGET}base": 1.0}
        tiny, base = cluster["tiers"]
        assert (tiny["replicas"], tiny["target_replicas"], tiny["queued_audio_s"]) == (0, 1, 50.0)
        assert "50 s waiting: 1 needed" in tiny["reason"]
        assert (base["slots_in_use"], base["rtfx"], base["rtfx_measured"]) == (3, 250.0, True)
        assert cluster["usd_per_hour"] == BASE.usd_per_hour
        (change,) = cluster["decisions"]
        assert (change["tier"], change["before"], change["replicas"]) == ("tiny.en", 0, 1)

    def test_a_run_is_stopped_through_its_ingress(self) -> None:
        run = RunReport("r", "base", "base", "transcribe", Priority.BATCH, 1.0, None, 0.0)

        async def go() -> tuple[list[bool], tuple[str, ...], dict[str, Any]]:
            board = Board()
            board.reconfigure(config((BASE,), {"base": 200.0}))
            report = IngressReport(n_runs=1, runs=(run,), outcomes={"ok": 2}, done_s={"base": 9.0})
            await board.report_ingress("a", report)
            known = [await board.stop(run_id) for run_id in ("r", "r", "nobody")]
            answer = await board.report_ingress("a", IngressReport())
            await asyncio.sleep(1.5 * TICK_S)
            assert board._ticking is not None
            board._ticking.cancel()
            return known, answer.stopped, await board.cluster() | await board.history(0.0)

        known, stopped, told = asyncio.run(go())
        assert (known, stopped) == ([True, True, False], ("r",))
        assert (told["n_requests"], told["requests"], told["nodes"]) == (0, [], [])
        assert told["outcomes"] == {"ok": 2} and told["done_s"] == 9.0

    def test_a_fault_keeps_the_last_decision(self, caplog: pytest.LogCaptureFixture) -> None:
        async def run() -> tuple[dict[str, float], dict[str, Any]]:
            board = Board()
            board.reconfigure(config((BASE,), {"base": 200.0}))
            board._began -= FRESH_S
            await board.report_replica("base", "r", ReplicaReport())
            await asyncio.sleep(1.5 * TICK_S)
            # This divides by nothing.
            board.reconfigure(config((BASE,), {"base": 200.0}, utilization=0.0))
            await asyncio.sleep(1.5 * TICK_S)
            return await board.record_autoscaling_stats(), await board.cluster()

        stats, cluster = asyncio.run(run())
        assert stats == {f"{TARGET}base": 1.0}
        assert cluster["autoscaler_faults"] >= 1
        assert "its last decision stays" in caplog.text


class TestSpeedMeter:
    def test_only_a_full_replica_shows_its_speed(self) -> None:
        meter = SpeedMeter(slots=4)
        for second in range(20):
            meter.tick(n_used=2, n_waiting=0, now_s=float(second))
            meter.add(5.0, 1)
        assert meter.rtfx is None
        for second in range(20, 40):
            meter.tick(n_used=4, n_waiting=1, now_s=float(second))
            meter.add(50.0, 1)
        assert meter.rtfx == pytest.approx(50.0)

    def test_what_ends_together_is_the_work_of_all_the_time_before(self) -> None:
        """Four chunks of 20 s end every 20 s: 4 s/s, and not the 16 of the window in which they
        do."""
        meter = SpeedMeter(slots=4)
        for second in range(200):
            if second % 20 == 0:
                for _ in range(4):
                    meter.add(20.0, 1)
            meter.tick(4, 1, float(second))
        assert meter.rtfx == pytest.approx(4.0, rel=0.1)

    def test_a_search_counts_as_many_chunks_as_it_has_texts(self) -> None:
        meter = SpeedMeter(slots=5)
        for second in range(11):
            meter.tick(5, 1, float(second))
            meter.add(10.0, n_slots=5)
        assert meter.rtfx == pytest.approx(50.0)

    def test_it_follows_slowly(self) -> None:
        meter = SpeedMeter(slots=4)
        for second in range(11):
            meter.tick(4, 1, float(second))
            meter.add(50.0 if second < 5 else 100.0, 1)
        assert meter.rtfx == pytest.approx(50.0 + 0.3 * 50.0)
