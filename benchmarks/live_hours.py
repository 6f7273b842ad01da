"""Whether a live session of hours stays as it began: memory and lag from its beginning to its end.

    python -m benchmarks.make_speech speech --languages en --minutes 10
    python -m benchmarks.live_hours speech/en.wav [--hours 2] [--speed 8] [--plot FILE]

A real cluster on this machine, with one replica, hears the recording again and again in one session
over a WebSocket, faster than people speak. Every few seconds the resident memory of the replica and
of the ingress is noted. Prints a table by tenths of the session, then one JSON line.

lag       From the end of a word to the moment at which its text arrived, by the clock on the wall;
          median and 95th percentile.
memory    Highest of the tenth, in MiB, of the ingress and of the replica.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.clusters import SAMPLE_RATE, served_bytes, serving
from benchmarks.live import Heard, hear
from benchmarks.scoring import wer

_EVERY_S = 2.0
_N_PARTS = 10
_TIER = "bench"


@dataclass(frozen=True)
class Sample:
    """Resident memory at a time, in seconds since the session's beginning."""

    at_s: float
    ingress_bytes: int
    replica_bytes: int


@dataclass(frozen=True)
class Row:
    """A tenth of the session. `audio_h`: hours of audio that had been spoken at its end."""

    audio_h: float
    words: int
    lag_p50_s: float
    lag_p95_s: float
    ingress_mib: float
    replica_mib: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    truth = json.loads(options.speech.with_suffix(".json").read_text(encoding="utf-8"))
    pcm, rate = soundfile.read(options.speech, dtype="int16")
    assert rate == SAMPLE_RATE and pcm.ndim == 1
    n_times = max(1, round(options.hours * 3600 * rate / len(pcm)))
    tier = {"name": _TIER, "model": options.model, "min_replicas": 1, "max_replicas": 1}
    with serving({"tiers": [tier]}) as url:
        heard, samples = asyncio.run(_listen(url, np.tile(pcm, n_times), options.speed))
    wall_s = len(pcm) * n_times / rate / options.speed
    rows = _rows(heard, samples, wall_s, options.speed)
    print(f"{'hours':>6} {'words':>6} {'lag p50':>8} {'p95':>6} {'ingress':>8} {'replica':>8}")
    for row in rows:
        print(
            f"{row.audio_h:6.2f} {row.words:6} {row.lag_p50_s:8.2f} {row.lag_p95_s:6.2f} "
            f"{row.ingress_mib:8.0f} {row.replica_mib:8.0f}"
        )
    said = " ".join(segment["text"] for segment in truth["segments"])
    errors = wer(" ".join([said] * n_times), " ".join(heard.text), truth["language"])
    print(f"WER {errors.rate:.4f} of {errors.length} words")
    if options.plot:
        _plot(heard, samples, options.speed, options.plot)
    print(json.dumps([asdict(row) for row in rows]))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("speech", type=Path, help="a recording of benchmarks.make_speech")
    parser.add_argument("--model", default="demo:tiny.en")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--speed", type=float, default=8.0)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(arguments)


async def _listen(url: str, pcm: npt.NDArray[np.int16], speed: float) -> tuple[Heard, list[Sample]]:
    heard, samples = Heard(), list[Sample]()
    watching = asyncio.create_task(_watch(samples))
    try:
        await hear(url, pcm, {"model": _TIER}, heard, speed)
    finally:
        watching.cancel()
    return heard, samples


async def _watch(samples: list[Sample]) -> None:
    began_s = time.monotonic()
    while True:
        found = await asyncio.to_thread(served_bytes)
        at_s = time.monotonic() - began_s
        samples.append(Sample(at_s, _of(found, "Ingress"), _of(found, _TIER)))
        await asyncio.sleep(_EVERY_S)


def _of(found: dict[str, int], deployment: str) -> int:
    return sum(n_bytes for title, n_bytes in found.items() if deployment in title)


def _rows(heard: Heard, samples: Sequence[Sample], wall_s: float, speed: float) -> list[Row]:
    rows = []
    for part in range(_N_PARTS):
        low, high = part * wall_s / _N_PARTS, (part + 1) * wall_s / _N_PARTS
        lags = [
            lag
            for end_s, lag in zip(heard.word_ends_s, heard.word_lags_s, strict=True)
            if low <= end_s < high
        ]
        inside = [sample for sample in samples if low <= sample.at_s < high]
        rows.append(
            Row(
                audio_h=round(high * speed / 3600, 2),
                words=len(lags),
                lag_p50_s=round(median(lags), 3),
                lag_p95_s=round(float(np.percentile(lags, 95)), 3),
                ingress_mib=round(max(s.ingress_bytes for s in inside) / 2**20, 1),
                replica_mib=round(max(s.replica_bytes for s in inside) / 2**20, 1),
            )
        )
    return rows


def _plot(heard: Heard, samples: Sequence[Sample], speed: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5))
    hours: Any = [end_s * speed / 3600 for end_s in heard.word_ends_s]
    above.plot(hours, heard.word_lags_s, ".", markersize=1.5, alpha=0.4)
    above.set(ylabel="lag of a word, s", ylim=(0, None))
    hours = [sample.at_s * speed / 3600 for sample in samples]
    below.plot(hours, [s.replica_bytes / 2**20 for s in samples], label="replica")
    below.plot(hours, [s.ingress_bytes / 2**20 for s in samples], label="ingress")
    below.set(xlabel="hours of speech", ylabel="resident memory, MiB", ylim=(0, None))
    below.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
