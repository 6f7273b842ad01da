"""The simulator beside a cluster: the same ten minutes of requests, on this machine and simulated.

    python -m benchmarks.replay [--minutes 10] [--load 0.5] [--slots 1] [--seeds 1,2]

One tier of tiny.en on a core, of one replica or two, under bursts that one cannot keep up with, and
two only just: what is compared is how long chunks wait for a slot, from their arrival in the
ingress on (`held` and `waiting` of the server's own timing). What the simulator has to know is
measured before the trace: a clip alone, both replicas full, and how long the second one took to
come. It then runs the cluster's own router and autoscaler, with the same options. Prints a row for
each seed, then one JSON line.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2
import numpy as np

from benchmarks.clusters import SAMPLE_RATE, serving, speech, wav
from benchmarks.simulation.cluster import SimTier
from benchmarks.simulation.policies import Murmur
from benchmarks.simulation.run import Run
from benchmarks.simulation.traces import Arrival
from deployments.autoscaling import ScalingOptions
from deployments.fleet import Priority, Quality, TierFacts

CLIP_S = 15.0
NAME = "bench"
DOWN_DELAY_S = 20.0
PERIOD_S, BURST_S = 120.0, 30.0
"""Bursts of three times the load between them."""
_FULL_S = 40.0


@dataclass(frozen=True)
class Machine:
    """What was measured of the cluster.

    Attributes:
        alone_s: a clip in a replica that does nothing else, from slot to text.
        rtfx: of one of two full replicas.
        cold_start_s: from the first of too many requests to the second replica.
    """

    alone_s: float
    rtfx: float
    cold_start_s: float


@dataclass(frozen=True)
class Waits:
    """Seconds that chunks waited, and replicas on average."""

    n: int
    mean_s: float
    p50_s: float
    p95_s: float
    replicas: float


@dataclass(frozen=True)
class Row:
    """A trace on the cluster, and simulated."""

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
        "batch_size": options.slots,
        "max_replicas": 2,
        "rtfx": 30.0,
        "cold_start_s": options.cold_start,
    }
    settings = {
        "tiers": [tier],
        "autoscaling": {"down_delay_s": DOWN_DELAY_S, "utilization": options.utilization},
    }
    with serving(settings) as url:
        machine, played = asyncio.run(_play(url, options))
    print(
        f"alone {machine.alone_s:.3f} s, full {machine.rtfx:.1f} RTFx a replica, "
        f"second replica after {machine.cold_start_s:.1f} s"
    )
    rows = [Row(seed, waits, _simulate(machine, trace, options)) for seed, trace, waits in played]
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
        machine = await _measure(client, options)
        played = []
        for seed in options.seeds:
            await _wait_for(client, 1)
            trace = _trace(seed, machine, options)
            played.append((seed, trace, await _replay(client, trace)))
    return machine, played


async def _measure(client: httpx2.AsyncClient, options: argparse.Namespace) -> Machine:
    clip = _clip()
    alone = [(await _post(client, clip))[1] for _ in range(12)][2:]
    began = time.perf_counter()
    stop, counted = began + 600.0, 0

    async def work() -> None:
        nonlocal counted
        while time.perf_counter() < stop:
            await _post(client, clip)
            counted += 1

    workers = [asyncio.create_task(work()) for _ in range(8 * options.slots)]
    await _wait_for(client, 2)
    cold_start_s = time.perf_counter() - began
    await asyncio.sleep(5.0)
    before, since = counted, time.perf_counter()
    await asyncio.sleep(_FULL_S)
    rtfx = (counted - before) * CLIP_S / (time.perf_counter() - since) / 2
    stop = 0.0
    await asyncio.gather(*workers)
    return Machine(statistics.mean(alone), rtfx, cold_start_s)


def _trace(seed: int, machine: Machine, options: argparse.Namespace) -> list[Arrival]:
    """Clips of one length, so that what a chunk costs is known, as a Poisson process."""
    rng = np.random.default_rng(seed)
    rate = options.load * 2 * machine.rtfx / CLIP_S
    quiet = rate / (1 + 2 * BURST_S / PERIOD_S)
    at_s, arrivals = 0.0, []
    while True:
        at_s += rng.exponential(1 / (3 * quiet))
        if at_s >= 60 * options.minutes:
            return arrivals
        in_burst = at_s % PERIOD_S >= PERIOD_S - BURST_S
        if in_burst or rng.random() < 1 / 3:
            arrivals.append(Arrival(at_s, CLIP_S, "en", Priority.INTERACTIVE))


async def _replay(client: httpx2.AsyncClient, trace: Sequence[Arrival]) -> Waits:
    clip = _clip()
    began = time.perf_counter()
    replicas: list[int] = []

    async def watch() -> None:
        while True:
            replicas.append((await _tier(client))["replicas"])
            await asyncio.sleep(1.0)

    watching = asyncio.create_task(watch())
    tasks = []
    for arrival in trace:
        await asyncio.sleep(max(0.0, began + arrival.at_s - time.perf_counter()))
        tasks.append(asyncio.create_task(_post(client, clip)))
    waits = [wait_s for wait_s, _ in await asyncio.gather(*tasks)]
    watching.cancel()
    return _waits(waits, statistics.mean(replicas))


def _simulate(machine: Machine, trace: Sequence[Arrival], options: argparse.Namespace) -> Waits:
    facts = TierFacts(
        name=NAME,
        quality=1,
        languages=None,
        translates=False,
        accelerator="cpu",
        usd_per_hour=1.0,
        min_replicas=1,
        max_replicas=2,
        slots=options.slots,
        cold_start_s=options.cold_start,
    )
    # speed(1) = rtfx / slots / (flat + (1 - flat) / slots), measured as CLIP_S / alone_s.
    slowdown = machine.rtfx / options.slots * machine.alone_s / CLIP_S
    share = 1 / options.slots
    flat = 1.0 if options.slots == 1 else min(1.0, max(0.0, (slowdown - share) / (1 - share)))
    tier = SimTier(facts, machine.rtfx, flat, starts_after_s=machine.cold_start_s)
    scaling = ScalingOptions(utilization=options.utilization, down_delay_s=DOWN_DELAY_S)
    policy = Murmur("murmur", scaling, quality=Quality.FAST, escalates=False, chunk_s=CLIP_S)
    run = Run([tier], policy, 0, 0.0, 60.0 * options.minutes)
    outcome = run.play(trace)
    waits = run.cluster.waits[Priority.INTERACTIVE]
    replicas = outcome.device_hours["cpu"] * 3600 / (60 * options.minutes)
    return _waits(list(waits), replicas)


def _waits(waits: Sequence[float], replicas: float) -> Waits:
    return Waits(
        n=len(waits),
        mean_s=statistics.mean(waits),
        p50_s=float(np.quantile(waits, 0.5)),
        p95_s=float(np.quantile(waits, 0.95)),
        replicas=replicas,
    )


def _clip() -> bytes:
    return wav(speech(60.0)[: round(CLIP_S * SAMPLE_RATE)])


async def _post(client: httpx2.AsyncClient, clip: bytes) -> tuple[float, float]:
    """Seconds that its chunk waited for a slot, and those that it was in one."""
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
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--cold-start", type=float, default=10.0, help="as the settings have it")
    parser.add_argument("--utilization", type=float, default=0.75)
    parser.add_argument("--seeds", type=numbers, default="1,2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
