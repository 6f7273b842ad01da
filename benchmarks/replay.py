"""Compares the simulator with a cluster: the same ten minutes of requests, real and simulated.

    python -m benchmarks.replay [--minutes 10] [--load 0.5] [--seeds 1,2]

The cluster has one tier of tiny.en, with one or two replicas of one core and slot, under bursts
that one replica cannot keep up with. The comparison is how long chunks wait for a slot after their
arrival in the ingress (`held` and `waiting` of the server's own timing).

The simulator is given: when requests came; how long each was in its slot, because this machine's
speed depends on what else it runs; the speed that the board assumed for a replica; and, measured
before the trace, how long a replica takes to start and how long a slot is empty between two chunks
while others wait. Everything else it has to find out with the cluster's own router and autoscaler:
which chunk goes where and when, and how many replicas there are when. Prints a row for each seed,
then one JSON line.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import httpx2
import numpy as np

from benchmarks.clusters import SAMPLE_RATE, serving, speech, wav
from benchmarks.simulation.cluster import SimTier
from benchmarks.simulation.policies import Murmur
from benchmarks.simulation.run import Run
from benchmarks.simulation.traces import Arrival
from deployments.fleet import Priority, Quality, TierFacts
from deployments.routing.autoscaling import ScalingOptions

CLIP_S = 15.0
NAME = "bench"
COLD_START_S = 10.0
DOWN_DELAY_S = 20.0
PERIOD_S, BURST_S = 120.0, 30.0
"""Bursts of three times the load between them."""
_FULL_S = 40.0


@dataclass(frozen=True)
class Machine:
    """What was measured of the cluster.

    Attributes:
        rtfx: speed of one of two full replicas.
        cold_start_s: time from the decision for a second replica to its first report.
        between_s: time that a slot of a full replica is empty from one chunk to the next.
    """

    rtfx: float
    cold_start_s: float
    between_s: float


@dataclass(frozen=True)
class Waits:
    """Seconds that chunks waited, the mean number of replicas, and each change of the number
    wanted, as (seconds, replicas)."""

    n: int
    mean_s: float
    p50_s: float
    p95_s: float
    replicas: float
    changes: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Row:
    """A trace on the cluster and in the simulator."""

    seed: int
    cluster: Waits
    simulated: Waits

    @property
    def ratio(self) -> float:
        return self.simulated.mean_s / self.cluster.mean_s


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    tier = {
        "name": NAME,
        "model": "demo:tiny.en",
        "batch_size": 1,
        "max_replicas": 2,
        "rtfx": 30.0,
        "cold_start_s": COLD_START_S,
    }
    settings = {"tiers": [tier], "autoscaling": {"down_delay_s": DOWN_DELAY_S}}
    with serving(settings) as url:
        machine, played = asyncio.run(_play(url, options))
    print(
        f"{machine.rtfx:.1f} RTFx a replica, the second after {machine.cold_start_s:.1f} s, "
        f"{1000 * machine.between_s:.0f} ms between chunks"
    )
    rows = [
        Row(seed, waits, _simulate(machine, trace, told_rtfx, options))
        for seed, trace, waits, told_rtfx in played
    ]
    print(
        "| seed | chunks | mean wait | simulated | ratio | p95 | simulated | replicas | simulated |"
    )
    print("|---" * 9 + "|")
    for row in rows:
        real, made = row.cluster, row.simulated
        print(
            f"| {row.seed} | {real.n} | {real.mean_s:.2f} s | {made.mean_s:.2f} s "
            f"| {row.ratio:.2f} | {real.p95_s:.1f} s | {made.p95_s:.1f} s "
            f"| {real.replicas:.2f} | {made.replicas:.2f} |"
        )
    print(json.dumps({"machine": asdict(machine), "rows": [asdict(row) for row in rows]}))


async def _play(url: str, options: argparse.Namespace) -> tuple[Machine, list[Any]]:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        machine = await _measure(client)
        played = []
        for seed in options.seeds:
            await _wait_for(client, 1)
            told_rtfx = (await _tier(client))["rtfx"]
            played.append((seed, *await _replay(client, _trace(seed, machine, options)), told_rtfx))
    return machine, played


async def _measure(client: httpx2.AsyncClient) -> Machine:
    clip = _clip()
    await _post(client, clip)
    stop = time.perf_counter() + 600.0
    slots_s: list[float] = []

    async def work() -> None:
        while time.perf_counter() < stop:
            _, took_s = await _post(client, clip)
            slots_s.append(took_s)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    while (await _tier(client))["target_replicas"] != 2:
        await asyncio.sleep(0.1)
    decided = time.perf_counter()
    await _wait_for(client, 2)
    cold_start_s = time.perf_counter() - decided
    await asyncio.sleep(5.0)
    before, since = len(slots_s), time.perf_counter()
    await asyncio.sleep(_FULL_S)
    counted = slots_s[before:]
    chunk_s = 2 * (time.perf_counter() - since) / len(counted)
    stop = 0.0
    await asyncio.gather(*workers)
    between_s = max(0.0, chunk_s - statistics.mean(counted))
    return Machine(CLIP_S / chunk_s, cold_start_s, between_s)


def _trace(seed: int, machine: Machine, options: argparse.Namespace) -> list[Arrival]:
    """A Poisson process of clips of one length, so that the cost of a chunk is known."""
    rng = np.random.default_rng(seed)
    rate = options.load * 2 * machine.rtfx / CLIP_S
    quiet = rate / (1 + 2 * BURST_S / PERIOD_S)
    at_s = 0.0
    arrivals: list[Arrival] = []
    while True:
        at_s += rng.exponential(1 / (3 * quiet))
        if at_s >= 60 * options.minutes:
            return arrivals
        in_burst = at_s % PERIOD_S >= PERIOD_S - BURST_S
        if in_burst or rng.random() < 1 / 3:
            arrivals.append(Arrival(at_s, CLIP_S, "en", Priority.INTERACTIVE))


async def _replay(
    client: httpx2.AsyncClient, trace: Sequence[Arrival]
) -> tuple[list[tuple[Arrival, float]], Waits]:
    """Each request with the seconds that it was in its slot, and how long they waited."""
    clip = _clip()
    began = time.perf_counter()
    replicas: list[int] = []
    changes: list[tuple[float, int]] = []

    async def watch() -> None:
        while True:
            tier = await _tier(client)
            replicas.append(tier["replicas"])
            if not changes or changes[-1][1] != tier["target_replicas"]:
                changes.append((time.perf_counter() - began, tier["target_replicas"]))
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    tasks = []
    for arrival in trace:
        await asyncio.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(_post(client, clip)))
    stages = await asyncio.gather(*tasks)
    watching.cancel()
    served = [(arrival, took_s) for arrival, (_, took_s) in zip(trace, stages, strict=True)]
    waits = [wait_s for wait_s, _ in stages]
    return served, _waits(waits, statistics.mean(replicas), changes)


def _simulate(
    machine: Machine,
    served: Sequence[tuple[Arrival, float]],
    told_rtfx: float,
    options: argparse.Namespace,
) -> Waits:
    facts = TierFacts(
        name=NAME,
        quality=1,
        languages=None,
        translates=False,
        accelerator="cpu",
        usd_per_hour=1.0,
        min_replicas=1,
        max_replicas=2,
        slots=1,
        cold_start_s=COLD_START_S,
    )
    busy_s = [took_s + machine.between_s for _, took_s in served]
    rtfx = CLIP_S / statistics.mean(busy_s)
    tier = SimTier(facts, rtfx, starts_after_s=machine.cold_start_s, told_rtfx=told_rtfx)
    policy = Murmur(
        "murmur",
        ScalingOptions(down_delay_s=DOWN_DELAY_S),
        quality=Quality.FAST,
        escalates=False,
        chunk_s=CLIP_S,
    )
    trace = [
        arrival._replace(work_s=seconds * rtfx)
        for (arrival, _), seconds in zip(served, busy_s, strict=True)
    ]
    run = Run([tier], policy, 0, 0.0, 60.0 * options.minutes, node_linger_s=0.0)
    outcome = run.play(trace)
    changes = [(at_s, n) for at_s, _, n in run.changes]
    # Counts running replicas: a machine that is starting costs money but does nothing.
    ready_s = outcome.device_hours["cpu"] * 3600 - sum(
        machine.cold_start_s for (_, before), (_, n) in pairwise(changes) if n > before
    )
    waits = list(run.cluster.waits[Priority.INTERACTIVE])
    return _waits(waits, ready_s / (60 * options.minutes), changes)


def _waits(waits: Sequence[float], replicas: float, changes: Sequence[tuple[float, int]]) -> Waits:
    return Waits(
        n=len(waits),
        mean_s=statistics.mean(waits),
        p50_s=float(np.quantile(waits, 0.5)),
        p95_s=float(np.quantile(waits, 0.95)),
        replicas=replicas,
        changes=tuple(changes),
    )


def _clip() -> bytes:
    return wav(speech(60.0)[: round(CLIP_S * SAMPLE_RATE)])


async def _post(client: httpx2.AsyncClient, clip: bytes) -> tuple[float, float]:
    """Seconds that its chunk waited for a slot, and seconds that it was in one."""
    answer = await client.post(
        "/v1/audio/transcriptions",
        data={"model": "auto", "language": "en", "quality": "fast"},
        files={"file": ("clip.wav", clip, "audio/wav")},
    )
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    parts = (part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    stages_s = {name: float(ms) / 1000 for name, ms in parts}
    return stages_s["held"] + stages_s["waiting"], stages_s["prefill"] + stages_s["decode"]


async def _tier(client: httpx2.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/v1/cluster")).json()["tiers"][0]
    return found


async def _wait_for(client: httpx2.AsyncClient, n: int) -> None:
    while (await _tier(client))["replicas"] != n:
        await asyncio.sleep(0.25)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number.strip()]

    parser = argparse.ArgumentParser(description="The simulator beside a cluster.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=float, default=0.5, help="of both replicas, on average")
    parser.add_argument("--seeds", type=numbers, default="1,2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
