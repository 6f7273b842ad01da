"""Live speech beside files, simulated: does its lag hold while files fill the rest of the cluster?

    python -m benchmarks.live_load [--sessions 50,150,250] [--minutes 10] [--plot STEM]
    python -m benchmarks.live_load --rtfx 60 --slots 24 --flat 0 --beside 4 --replicas 1
        --sessions 2,4

A fixed number of replicas of `base` on T4, at half of the planner's roofline, hears sessions in
which somebody talks all the time, with looks as `deployments.live` takes them. Beside them:

alone     no files.
batch     more files of priority `batch` than the cluster can do.
files     as many interactive files as are left to do at 70 % of the cluster's speed, and batch.
no order  the same batch files, with the priority of live looks: what priorities are worth.

Then the fleet of `benchmarks.simulate` with its router and autoscaler, in which sessions come and
go, without files and with an hour's recordings. Prints tables, then one JSON line.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.arguments import comma_list
from benchmarks.simulate import tiers_of
from benchmarks.simulation.cluster import SimTier
from benchmarks.simulation.live import LOOK_WORK_S, LiveLoad, Talk, steady_talks
from benchmarks.simulation.policies import Murmur
from benchmarks.simulation.run import Run
from benchmarks.simulation.traces import Arrival, Stream, merged
from deployments.fleet import Priority
from deployments.routing.autoscaling import ScalingOptions
from training.pictures import save_picture

WARM_UP_S = 300.0
_FILE_S = 1800.0
_LOOKS_A_SECOND = 1.8
"""Of a session, pauses included, where looks come back at once."""
_LEFT = 0.7
"""Of the cluster's speed: what live speech and interactive files take together."""


@dataclass(frozen=True)
class Row:
    """One run. Times in seconds.

    Attributes:
        answer_*: from sending a look to its text; `word_*`: from the end of a word to its text;
            `turn_*`: from the end of a turn to its whole text.
        interactive_p99_s: that chunks of interactive files waited; None: there were none.
        files_rtfx: seconds of files' audio done in a second.
    """

    way: str
    sessions: int
    replicas: float
    word_p50_s: float
    word_p99_s: float
    turn_p99_s: float
    answer_p99_s: float
    interactive_p99_s: float | None
    files_rtfx: float
    usd_per_hour: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    seconds = options.minutes * 60
    tier = _tier(options)
    rows = []
    print(_HEADER, flush=True)
    for n in options.sessions:
        for way in options.ways:
            rows.append(fixed(way, n, tier, seconds, options.look_work, options.seed))
            print(_line(rows[-1]), flush=True)
    for way in options.fleet_ways:
        for n in options.sessions:
            rows.append(fleet(way, n, seconds, options.look_work, options.seed))
            print(_line(rows[-1]), flush=True)
    print(json.dumps([asdict(row) for row in rows]))
    if options.plot is not None:
        _plot(rows, options.plot)


def fixed(
    way: str, sessions: int, tier: SimTier, seconds: float, look_work_s: float, seed: int
) -> Row:
    """A cluster of one tier that neither grows nor shrinks."""
    speed = tier.rtfx * tier.facts.max_replicas
    priority = Priority.REALTIME if way == "no order" else Priority.BATCH
    streams: list[Stream] = []
    if way != "alone":
        streams.append(_files(1.3 * speed, priority))
    if way == "files":
        left = max(0.0, _LEFT * speed - sessions * _LOOKS_A_SECOND * look_work_s)
        streams.append(_stream(left / _MEAN_CLIP_S, Priority.INTERACTIVE, _CLIP_S, _CLIP_SPREAD))
    trace: Iterator[Arrival] = iter(())
    if streams:
        trace = merged(tuple(streams), -WARM_UP_S, seconds, seed)
    policy = Murmur(way, ScalingOptions(), escalates=False)
    talks = steady_talks(sessions, -WARM_UP_S, seconds, 1.0, seed)
    return _play(way, sessions, [tier], policy, trace, talks, seconds, look_work_s, seed)


def fleet(way: str, sessions: int, seconds: float, look_work_s: float, seed: int) -> Row:
    """Tiers that grow and shrink. Sessions come and go; there are so many on average."""
    talk_s = 300.0
    streams = () if way == "fleet" else (_files(2000.0, Priority.BATCH),)
    trace = merged(streams, -WARM_UP_S, seconds, seed) if streams else iter(())
    calls = (_stream(sessions / talk_s, Priority.REALTIME, talk_s, 1e-6),)
    talks = (
        Talk(each.at_s, each.audio_s, each.language)
        for each in merged(calls, -WARM_UP_S, seconds, seed + 1)
    )
    policy = Murmur(way, ScalingOptions(utilization=0.6), escalates=False)
    return _play(way, sessions, tiers_of(200), policy, trace, talks, seconds, look_work_s, seed)


def _play(
    way: str,
    sessions: int,
    tiers: list[SimTier],
    policy: Murmur,
    trace: Iterator[Arrival],
    talks: Iterator[Talk],
    seconds: float,
    look_work_s: float,
    seed: int,
) -> Row:
    live = LiveLoad(talks, seed, look_work_s)
    run = Run(tiers, policy, seed, 0.0, seconds, live=live)
    run.play(trace, drains=False)
    lags = live.lags
    waits = np.asarray(run.cluster.waits[Priority.INTERACTIVE])
    at = partial(np.quantile, np.asarray(lags.words))
    paid_s = {name: tier.replica_s for name, tier in run.cluster.tiers.items()}
    prices = {tier.facts.name: tier.facts.usd_per_hour for tier in tiers}
    return Row(
        way=way,
        sessions=sessions,
        replicas=round(sum(paid_s.values()) / seconds, 1),
        word_p50_s=round(float(at(0.5)), 2),
        word_p99_s=round(float(at(0.99)), 2),
        turn_p99_s=round(float(np.quantile(np.asarray(lags.turns), 0.99)), 2),
        answer_p99_s=round(float(np.quantile(np.asarray(lags.answers), 0.99)), 2),
        interactive_p99_s=round(float(np.quantile(waits, 0.99)), 2) if len(waits) else None,
        files_rtfx=round(sum(run.done_s.values()) / seconds, 1),
        usd_per_hour=round(sum(s / seconds * prices[name] for name, s in paid_s.items()), 2),
    )


_CLIP_S, _CLIP_SPREAD = 20.0, 0.8
_MEAN_CLIP_S = _CLIP_S * float(np.exp(_CLIP_SPREAD**2 / 2))


def _tier(options: argparse.Namespace) -> SimTier:
    n = options.replicas
    tier = next(tier for tier in tiers_of(n) if tier.facts.name == "base")
    slots = options.slots or tier.facts.slots
    facts = replace(tier.facts, min_replicas=n, max_replicas=n, slots=slots)
    rtfx = options.rtfx or tier.rtfx
    return replace(
        tier,
        facts=facts,
        rtfx=rtfx,
        flat=options.flat,
        lost_per_hour=0.0,
        beside_live=options.beside,
    )


def _files(rtfx: float, priority: Priority) -> Stream:
    """Recordings of half an hour, so many seconds of audio in each second."""
    return _stream(rtfx / _FILE_S, priority, _FILE_S, 1e-6)


def _stream(rate: float, priority: Priority, median_s: float, spread: float) -> Stream:
    return Stream(
        lambda now: np.full(len(now), rate),
        max(rate, 1e-9),
        priority,
        median_s,
        spread,
        english=1.0,
    )


_HEADER = (
    "| way | sessions | replicas | word p50 / p99 s | turn p99 s | look p99 s "
    "| interactive p99 s | files, audio s a second | USD an hour |\n" + "|---" * 9 + "|"
)


def _line(row: Row) -> str:
    waited = "" if row.interactive_p99_s is None else f"{row.interactive_p99_s:.2f}"
    return (
        f"| {row.way} | {row.sessions} | {row.replicas:g} | {row.word_p50_s:.2f} / "
        f"{row.word_p99_s:.2f} | {row.turn_p99_s:.2f} | {row.answer_p99_s:.2f} | {waited} "
        f"| {row.files_rtfx:,.0f} | {row.usd_per_hour:.2f} |"
    )


def _plot(rows: Sequence[Row], stem: Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    for way in dict.fromkeys(row.way for row in rows):
        mine = [row for row in rows if row.way == way]
        sessions = [row.sessions for row in mine]
        left.plot(sessions, [row.word_p99_s for row in mine], marker="o", label=way)
        right.plot(sessions, [row.files_rtfx for row in mine], marker="o", label=way)
    left.set(
        xlabel="live sessions", ylabel="s", title="word to text, 99th percentile", ylim=(0, None)
    )
    right.set(xlabel="live sessions", title="files' audio done, s a second", ylim=(0, None))
    left.legend()
    save_picture(figure, stem)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Live speech beside files, simulated.")
    parser.add_argument(
        "--sessions", type=lambda text: list(map(int, text.split(","))), default=[50, 150, 250]
    )
    parser.add_argument("--ways", type=comma_list, default="alone,batch,files,no order")
    parser.add_argument("--fleet-ways", type=comma_list, default="fleet,fleet with files")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rtfx", type=float, help="of a replica; by default a T4's")
    parser.add_argument("--slots", type=int, help="likewise")
    parser.add_argument("--flat", type=float, default=1.0, help="1: a GPU; 0: a CPU")
    parser.add_argument(
        "--beside",
        type=int,
        help="slots that files may take while somebody speaks",
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--look-work", type=float, default=LOOK_WORK_S, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None, metavar="STEM")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
