"""The simulator against what is known of queues, and against Ray's own code."""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig

from benchmarks import simulate
from benchmarks.simulation.cluster import SimChunk, SimTier, TierNow
from benchmarks.simulation.live import Lags, LiveLoad, steady_talks
from benchmarks.simulation.policies import CHUNK_S, Murmur, RayDefault
from benchmarks.simulation.run import Outcome, Run
from benchmarks.simulation.traces import TRACES, Arrival, Stream, merged
from deployments.fleet import Priority, TierFacts, TierState
from deployments.routing.autoscaling import ScalingOptions

FACTS = TierFacts("base", 2, None, True, "T4", 0.5, 1, 1, 1, 60.0)
TIER = SimTier(FACTS, rtfx=40.0, wer=0.05)
LARGE = SimTier(
    replace(FACTS, name="large", quality=6, accelerator="A100", usd_per_hour=4.0, max_replicas=9),
    rtfx=40.0,
    wer=0.02,
)
HOUR_S = 3600.0


def clips(rate: float, seconds: float, seed: int = 0) -> list[Arrival]:
    """Chunks of one length as a Poisson process."""
    rng = np.random.default_rng(seed)
    at_s = np.sort(rng.uniform(0.0, seconds, rng.poisson(rate * seconds)))
    return [Arrival(at, CHUNK_S, "en", Priority.INTERACTIVE) for at in at_s.tolist()]


def run(trace: Iterable[Arrival], *tiers: SimTier, ends_s: float = HOUR_S) -> Outcome:
    policy = Murmur("murmur", ScalingOptions())
    return Run(list(tiers), policy, 0, 0.0, ends_s).play(trace)


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.more
def test_one_slot_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    """Service of one length: load * service / (2 (1 - load)) on average."""
    service_s = CHUNK_S / TIER.rtfx
    trace = clips(load / service_s, 15 * HOUR_S)
    outcome = run(trace, TIER, ends_s=15 * HOUR_S)
    expected_s = load * service_s / (2 * (1 - load))
    assert outcome.mean_wait_s == pytest.approx(expected_s, rel=0.05)


@pytest.mark.parametrize("flat", [1.0, 0.3, 0.0])
def test_a_full_replica_does_its_speed(flat: float) -> None:
    """However steps depend on the batch: far more comes than it can do, in 8 slots."""
    tier = replace(TIER, facts=replace(FACTS, slots=8), flat=flat)
    outcome = run(clips(4.0, HOUR_S), tier)
    took_s = outcome.device_hours["T4"] * HOUR_S - 60.0  # its machine lingers
    assert outcome.audio_hours * HOUR_S / took_s == pytest.approx(TIER.rtfx, rel=0.02)


def test_the_same_seed_is_the_same_day() -> None:
    def day(seed: int) -> Outcome:
        trace = merged(TRACES["bursty"](1.0), 0.0, HOUR_S, seed)
        lost = replace(LARGE, lost_per_hour=2.0)
        return Run([TIER, lost], Murmur("m", ScalingOptions()), seed, 0.0, HOUR_S).play(trace)

    assert day(1) == day(1)
    assert day(1) != day(2)


def test_all_audio_is_done_though_machines_are_lost() -> None:
    trace = clips(1.0, HOUR_S)
    outcome = run(trace, replace(LARGE, lost_per_hour=10.0))
    assert outcome.audio_hours == pytest.approx(len(trace) * CHUNK_S / HOUR_S)
    undisturbed = run(trace, LARGE)
    assert outcome.usd > undisturbed.usd  # what was lost is done again
    assert outcome.mean_wait_s > undisturbed.mean_wait_s


def test_where_a_class_runs_out_the_load_goes_to_the_next() -> None:
    cheap = replace(TIER, facts=replace(FACTS, max_replicas=9, min_replicas=0))
    trace = clips(4.0, HOUR_S)
    plenty = run(trace, cheap, LARGE)
    none = run(trace, replace(cheap, stock=lambda now: 0), LARGE)
    assert plenty.device_hours["T4"] > 1.5 and none.device_hours["T4"] == 0.0
    assert none.device_hours["A100"] > 1 + plenty.device_hours["A100"]
    assert none.audio_hours == plenty.audio_hours


def test_doubted_chunks_are_paid_for_twice() -> None:
    trace = clips(1.0, HOUR_S)
    doubted = run(trace, replace(TIER, doubted=0.25), LARGE)
    assert doubted.escalated == pytest.approx(0.25, abs=0.02)
    expected = 0.75 * TIER.wer + 0.25 * LARGE.wer
    assert doubted.wer == pytest.approx(expected, abs=0.002)


def test_what_comes_before_the_beginning_is_not_counted() -> None:
    trace = clips(1.0, 2 * HOUR_S)
    outcome = Run([LARGE], Murmur("m", ScalingOptions()), 0, HOUR_S, 2 * HOUR_S).play(trace)
    counted = [arrival for arrival in trace if arrival.at_s >= HOUR_S]
    assert outcome.n_chunks == len(counted)
    assert outcome.usd < 1.3 * run(trace[: len(counted)], LARGE).usd


@pytest.mark.parametrize("trace", list(TRACES))
def test_traces_have_the_rate_that_is_asked_for(trace: str) -> None:
    """But for the night's long files and the crowd at noon, of which there is more."""
    day = 86_400.0
    found = list(merged(TRACES[trace](0.5), 0.0, day, 3))
    interactive = [a for a in found if a.priority is Priority.INTERACTIVE]
    more = 9 * 870 / day if trace == "flash-crowd" else 0.0
    assert len(interactive) / day == pytest.approx(0.5 * (1 + more), rel=0.03)
    assert [a.at_s for a in found] == sorted(a.at_s for a in found)
    assert (len(found) > len(interactive)) == (trace == "overnight")


def test_the_baseline_decides_as_ray_does() -> None:
    """Hours of a load that rises and falls, and jumps, second by second."""
    options = AutoscalingConfig(min_replicas=1, max_replicas=40, target_ongoing_requests=4)
    tier = TierState(replace(FACTS, max_replicas=40), rtfx=40.0)
    ours = RayDefault("base", 4.0, look_back_s=0.0)
    rng = np.random.default_rng(0)
    theirs, state, changes = 1, {}, 0
    for now in range(20_000):
        requests = 60 * (1 + math.sin(now / 900)) + 40 * (rng.random() < 0.01) + (now % 7)
        desired = min(max(math.ceil(requests / 4 - 1e-9), 1), 40)
        before = theirs
        theirs, state = _apply_delay_logic(desired, theirs, options, state, _now=float(now))
        changes += theirs != before
        seen = replace(tier, queued_s=requests * CHUNK_S)
        assert ours.targets([seen], {}, float(now)) == {"base": theirs}, now
    assert changes > 10


@pytest.mark.more
def test_the_command_has_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    simulate.main(
        ["--traces", "bursty", "--rate", "5", "--hours", "0.1", "--search-hours", "0.1",
         "--max-replicas", "9", "--jobs", "1"]
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| bursty")]
    assert len(rows) == len(simulate.contenders())
    assert lines[-1].startswith('{"results"')


def test_rounding_leaves_no_work_behind() -> None:
    """A queue's seconds are added up as chunks come and go; 1e12 and 0.1 do not add up to zero."""
    tier = TierNow(TIER, np.random.default_rng(0))
    chunks = [SimChunk(audio_s, "en", Priority.INTERACTIVE, 0.0) for audio_s in (1e12, 0.1)]
    for sign in (1, -1):
        for chunk in chunks:
            tier.count(chunk, sign)
    assert tier.n_chunks == 0 and tier.queued_s == 0.0


def live_lags(n: int, files: bool, priority: Priority = Priority.BATCH) -> Lags:
    """Lags of sessions on one replica that would do 4 seconds of files' audio a second a slot."""
    tier = replace(TIER, facts=replace(FACTS, slots=10))
    trace = merged((stream(2 * TIER.rtfx, priority),) if files else (), 0.0, 600.0, 0)
    load = LiveLoad(steady_talks(n, 0.0, 600.0, 1.0, 0), 0, work_s=1.0)
    policy = Murmur("m", ScalingOptions(), escalates=False)
    Run([tier], policy, 0, 0.0, 600.0, live=load).play(trace if files else [], drains=False)
    return load.lags


def stream(rtfx: float, priority: Priority) -> Stream:
    """Files of a minute, so many seconds of audio a second."""
    rate = rtfx / 60.0
    return Stream(lambda now: np.full(len(now), rate), rate, priority, 60.0, 1e-6, english=1.0)


def test_live_words_are_told_as_soon_as_looks_allow() -> None:
    lags = live_lags(4, files=False)
    assert np.quantile(lags.answers, 0.99) == pytest.approx(0.25), "a look's own time"
    # The pace of looks, the margin behind the last word, and the look.
    assert 0.6 < float(np.median(lags.words)) < 1.1
    assert max(lags.turns) < 0.3


def test_files_of_lower_priority_hold_up_live_speech_by_a_slot_at_most() -> None:
    alone, beside = live_lags(4, files=False), live_lags(4, files=True)
    longest_s = CHUNK_S / (TIER.rtfx / 10)  # a chunk in a slot
    assert max(beside.answers) <= longest_s + 0.3
    assert np.quantile(beside.words, 0.99) < np.quantile(alone.words, 0.99) + longest_s


def test_without_priorities_live_speech_waits_behind_files() -> None:
    behind = live_lags(4, files=True, priority=Priority.REALTIME)
    assert np.median(behind.words) > 20.0
