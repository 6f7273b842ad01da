"""One long file over more and more replicas: how much faster, and how much is lost.

    python -m benchmarks.fanout [--minutes 30] [--model demo:tiny.en] [--replicas 1,2,4]

Each replica computes with one thread on a logical node of its own, so that audio crosses from node
to node. The file goes through a handle as bytes, and the answer comes back whole. Replica counts
take turns, round after round. The share lost is 1 - speed-up / replicas. With more replicas than
cores, speed means nothing and only the text is compared: it must be the same for every count.
Prints a table, then one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.clusters import speech, wav


@dataclass(frozen=True)
class Row:
    """Medians of the rounds; `speed_up` and `lost` against one replica, None above the cores."""

    replicas: int
    seconds: float
    rtfx: float
    speed_up: float | None
    lost: float | None
    same_text: bool


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.child:
        _child(options)
        return
    counts = [int(count) for count in options.replicas.split(",")]
    runs: dict[int, list[tuple[float, str]]] = {count: [] for count in counts}
    for _ in range(options.rounds):
        for count in counts:
            runs[count].append(_measure(options, count))
            print(f"{count} replicas: {runs[count][-1][0]:.1f} s", file=sys.stderr)
    text = runs[counts[0]][0][1]
    alone_s = statistics.median(seconds for seconds, _ in runs[counts[0]])
    rows = [_row(options, count, runs[count], alone_s * counts[0], text) for count in counts]
    print(f"{'replicas':>8} {'seconds':>8} {'RTFx':>7} {'speed-up':>8} {'lost':>6}  same text")
    for row in rows:
        speed = "" if row.speed_up is None else f"{row.speed_up:.2f}"
        lost = "" if row.lost is None else f"{row.lost:.0%}"
        print(
            f"{row.replicas:8d} {row.seconds:8.1f} {row.rtfx:7.1f} {speed:>8} {lost:>6}  "
            f"{row.same_text}"
        )
    print(json.dumps({"rows": [asdict(row) for row in rows]}))


def _row(
    options: argparse.Namespace,
    count: int,
    runs: list[tuple[float, str]],
    one_s: float,
    text: str,
) -> Row:
    seconds = statistics.median(seconds for seconds, _ in runs)
    fits = count <= (os.cpu_count() or 1)
    speed_up = one_s / seconds if fits else None
    return Row(
        replicas=count,
        seconds=seconds,
        rtfx=60 * options.minutes / seconds,
        speed_up=speed_up,
        lost=None if speed_up is None else 1 - speed_up / count,
        same_text=all(got == text for _, got in runs),
    )


def _measure(options: argparse.Namespace, count: int) -> tuple[float, str]:
    command = [sys.executable, "-m", "benchmarks.fanout", "--child", str(count)]
    command += ["--minutes", str(options.minutes), "--model", options.model]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return result["seconds"], result["text"]


def _child(options: argparse.Namespace) -> None:
    """One cluster: a head for the ingress, and a node for each replica."""
    import ray
    from ray import serve as ray_serve
    from ray.cluster_utils import Cluster

    from deployments.options import TranscribeOptions
    from serve.app import assemble
    from serve.settings.loading import load_settings

    count = options.child
    tier = {
        "name": "bench",
        "model": options.model,
        "min_replicas": count,
        "max_replicas": count,
        "cpus": 1,
    }
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(count):
            cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False)
        ray_serve.start(proxy_location="Disabled")
        application = assemble(load_settings(None, {}, {"tiers": [tier]}))
        handle = ray_serve.run(application, name="murmur", route_prefix=None)
        wanted = TranscribeOptions(model="bench")
        handle.transcribe.remote(wav(speech(60)), wanted).result()  # loads what is loaded once
        audio = wav(speech(60 * options.minutes))
        began = time.perf_counter()
        transcript = handle.transcribe.remote(audio, wanted).result()
        seconds = time.perf_counter() - began
        ray_serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps({"seconds": seconds, "text": transcript.text}))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One file over several replicas.")
    parser.add_argument("--minutes", type=float, default=30, help="of audio (%(default)s)")
    parser.add_argument("--model", default="demo:tiny.en", help="(%(default)s)")
    parser.add_argument("--replicas", default="1,2,4", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
