"""What serving costs on top of the engine: latency at rising load, and where the time goes.

    python -m benchmarks.http [--model demo:tiny.en] [--threads 1] [--proxies python,haproxy]

A real cluster on this machine answers clips of ten seconds. Requests first come one by one, then in
an open loop: they arrive at random at a share of the cluster's capacity, whether or not
others are finished. Capacity is measured by keeping the cluster full; in turns with that, the
engine alone gets the same chunks in a process without Ray. Prints tables, then one JSON line.

`hops` is a request's time without reading audio, voice activity and the engine: upload, proxy,
ingress, the way to the replica and back, and the answer. The client shares the machine, so its own
work counts, too.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from benchmarks.clusters import SAMPLE_RATE, serving, speech, wav

CLIP_S = 10.0
STAGES = ("read", "vad", "held", "waiting", "prefill", "decode")
N_IDLE = 40


@dataclass(frozen=True)
class Sample:
    """One request: seconds that the client waited, and seconds that the server reports."""

    latency_s: float
    stages_s: dict[str, float]

    @property
    def hops_s(self) -> float:
        return self.latency_s - sum(self.stages_s[stage] for stage in STAGES)


@dataclass(frozen=True)
class Row:
    """One load. Latencies in milliseconds; `rtfx` is audio seconds served per second."""

    proxy: str
    load: str
    requests: int
    rtfx: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    hops_ms: float
    read_ms: float
    vad_ms: float
    queue_ms: float
    engine_ms: float
    refused: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.engine_alone:
        print(_engine_alone(options.model, options.threads, options.engine_alone))
        return
    rows: list[Row] = []
    saturation: dict[str, list[float]] = {}
    alone: list[float] = []
    for proxy in options.proxies.split(","):
        tier = {"name": "bench", "model": options.model, "cpus": options.threads}
        settings = {"tiers": [tier], "http": {"haproxy": proxy == "haproxy"}}
        with serving(settings) as url:
            asyncio.run(_warm_up(url))
            rows.append(asyncio.run(_one_by_one(url, proxy)))
            print(_line(rows[-1]), file=sys.stderr)
            for _ in range(options.rounds):
                rows.append(asyncio.run(_closed(url, proxy, options.concurrency, options.seconds)))
                saturation.setdefault(proxy, []).append(rows[-1].rtfx)
                print(_line(rows[-1]), file=sys.stderr)
                alone.append(_measure_engine(options))
                print(f"engine alone: {alone[-1]:.1f} RTFx", file=sys.stderr)
            limit = statistics.median(saturation[proxy])
            for share in map(float, options.loads.split(",")):
                rows.append(asyncio.run(_open(url, proxy, share, limit, options.seconds)))
                print(_line(rows[-1]), file=sys.stderr)
    _report(rows, saturation, alone)


async def _warm_up(url: str) -> None:
    async with _client(url) as client:
        for body in _bodies()[:4]:
            await _request(client, body)


async def _one_by_one(url: str, proxy: str) -> Row:
    bodies = _bodies()
    async with _client(url) as client:
        began = time.perf_counter()
        samples = [await _request(client, bodies[n % len(bodies)]) for n in range(N_IDLE)]
        return _row(proxy, "one by one", samples, time.perf_counter() - began)


async def _closed(url: str, proxy: str, concurrency: int, seconds: float) -> Row:
    """Keep so many requests running. Counts requests that end between the time when all slots are
    in use and the time when no new ones begin."""
    bodies = _bodies()
    samples: list[Sample | None] = []
    ends: list[float] = []

    async def work(client: httpx2.AsyncClient, number: int) -> None:
        while time.perf_counter() < stop:
            samples.append(await _request(client, bodies[number % len(bodies)]))
            ends.append(time.perf_counter())
            number += 1

    async with _client(url) as client:
        start = time.perf_counter() + seconds / 4
        stop = start + seconds
        await asyncio.gather(*(work(client, number) for number in range(concurrency)))
    n_counted = sum(start <= end < stop for end in ends)
    row = _row(proxy, f"{concurrency} at once", samples, seconds)
    return Row(**{**asdict(row), "rtfx": n_counted * CLIP_S / seconds})


async def _open(url: str, proxy: str, share: float, limit: float, seconds: float) -> Row:
    bodies, chance = _bodies(), random.Random(1)
    rate = share * limit / CLIP_S
    tasks: list[asyncio.Task[Sample | None]] = []
    async with _client(url) as client:
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            body = bodies[len(tasks) % len(bodies)]
            tasks.append(asyncio.create_task(_request(client, body)))
            await asyncio.sleep(chance.expovariate(rate))
        samples = await asyncio.gather(*tasks)
        took = time.perf_counter() - began
    return _row(proxy, f"{share:.0%} of full", samples, took)


def _client(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx2.AsyncClient(base_url=url, timeout=300, limits=limits)


def _bodies() -> list[bytes]:
    """Clips as WAV files."""
    pcm = speech(60.0)
    size = round(CLIP_S * SAMPLE_RATE)
    return [wav(pcm[start : start + size]) for start in range(0, len(pcm), size)]


async def _request(client: httpx2.AsyncClient, body: bytes) -> Sample | None:
    """Send a request; None if it was refused for overload."""
    began = time.perf_counter()
    answer = await client.post(
        "/v1/audio/transcriptions",
        data={"model": "bench"},
        files={"file": ("clip.wav", body, "audio/wav")},
    )
    latency_s = time.perf_counter() - began
    if answer.status_code == 429:
        return None
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    stages = (part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    return Sample(latency_s, {name: float(ms) / 1000 for name, ms in stages})


def _row(proxy: str, load: str, samples: Sequence[Sample | None], took_s: float) -> Row:
    done = [sample for sample in samples if sample is not None]
    latencies = sorted(1000 * sample.latency_s for sample in done)

    def median(*stages: str) -> float:
        return 1000 * statistics.median(sum(s.stages_s[n] for n in stages) for s in done)

    return Row(
        proxy=proxy,
        load=load,
        requests=len(done),
        rtfx=len(done) * CLIP_S / took_s,
        p50_ms=_quantile(latencies, 0.5),
        p95_ms=_quantile(latencies, 0.95),
        p99_ms=_quantile(latencies, 0.99),
        hops_ms=1000 * statistics.median(sample.hops_s for sample in done),
        read_ms=median("read"),
        vad_ms=median("vad"),
        queue_ms=median("held", "waiting"),
        engine_ms=median("prefill", "decode"),
        refused=len(samples) - len(done),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _measure_engine(options: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.http", "--engine-alone", str(options.seconds)]
    command += ["--model", options.model, "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _engine_alone(model: str, threads: int, seconds: float) -> float:
    """RTFx of the engine when kept full with the chunks of the served requests."""
    import torch

    from deployments.messages import to_request
    from deployments.transcript.options import TranscriptionOptions
    from deployments.transcript.transcription import Transcription
    from engine import Engine, EngineConfig, default_precision

    torch.set_num_threads(threads)
    precision = default_precision(torch.device("cpu"))
    engine = Engine.load(model, EngineConfig(precision=precision, max_slots=24))
    size = round(CLIP_S * SAMPLE_RATE)
    pcm = speech(60.0)
    clips = [pcm[start : start + size] for start in range(0, len(pcm), size)]
    owners: dict[str, int] = {}

    def add() -> None:
        number = len(owners)
        detect = engine.tokenizer.multilingual
        state = Transcription(str(number), TranscriptionOptions(), detect)
        for chunk in [*state.push(clips[number % len(clips)]), *state.finish()]:
            owners[chunk.key] = number
            engine.add_request(to_request(chunk))

    n_done, counting, began = 0, False, time.perf_counter()
    while True:
        while engine.n_waiting < 8:
            add()
        n_done += len(engine.step())
        passed = time.perf_counter() - began
        if not counting and passed > seconds / 4:
            n_done, counting, began = 0, True, time.perf_counter()
        elif counting and passed > seconds:
            return n_done * CLIP_S / passed


def _report(rows: Sequence[Row], saturation: dict[str, list[float]], alone: list[float]) -> None:
    print(_HEAD)
    for row in rows:
        print(_line(row))
    engine = statistics.median(alone)
    print(f"\nengine alone: {engine:.1f} RTFx (median of {len(alone)})")
    for proxy, values in saturation.items():
        full = statistics.median(values)
        print(f"{proxy}, kept full: {full:.1f} RTFx, {full / engine:.0%} of the engine alone")
    result: dict[str, Any] = {"rows": [asdict(row) for row in rows]}
    print(json.dumps({**result, "engine_alone_rtfx": alone, "saturation_rtfx": saturation}))


_HEAD = (
    f"{'proxy':8} {'load':12} {'n':>5} {'RTFx':>6} {'p50':>7} {'p95':>7} {'p99':>7} | "
    f"{'hops':>6} {'read':>5} {'VAD':>6} {'queue':>7} {'engine':>7}  ms; refused"
)


def _line(row: Row) -> str:
    return (
        f"{row.proxy:8} {row.load:12} {row.requests:5d} {row.rtfx:6.1f} {row.p50_ms:7.0f} "
        f"{row.p95_ms:7.0f} {row.p99_ms:7.0f} | {row.hops_ms:6.1f} {row.read_ms:5.1f} "
        f"{row.vad_ms:6.1f} {row.queue_ms:7.1f} {row.engine_ms:7.0f}  {row.refused}"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Served requests beside the engine alone.")
    parser.add_argument("--model", default="demo:tiny.en", help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (%(default)s)")
    parser.add_argument("--proxies", default="python,haproxy", help="(%(default)s)")
    parser.add_argument("--loads", default="0.25,0.5,0.75,0.9,1.2", help="shares of full")
    parser.add_argument("--concurrency", type=int, default=32, help="kept full (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="of each load (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="kept full (%(default)s)")
    parser.add_argument("--engine-alone", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
