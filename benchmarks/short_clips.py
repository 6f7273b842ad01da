"""A short clip on an idle server, beside faster-whisper in a process of its own making.

    python -m benchmarks.short_clips [--audio FILE] [--model demo:tiny.en] [--lengths 3,7,15]
        [--clips 10] [--rounds 3] [--precision int8]

A real cluster on this machine has the model twice: a tier with whole windows of the encoder and one
with short ones, each on one core that may take the other while it idles. Clips cut from a recording
of English go to each of them over HTTP, one by one, and to faster-whisper in this process with as
many threads as there are cores, in its default mode without voice detection and in batches
without timestamps; all greedily. Rounds change the order. Prints for each length the median time of
each system and its ratio to the faster of faster-whisper's two modes, then one JSON line.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import httpx2
import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.clusters import SAMPLE_RATE, serving, speech
from benchmarks.systems import FasterWhisper, FasterWhisperBatched

Transcribe = Callable[[Path], None]
_WINDOWS = ("exact", "short")


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    tiers = [
        {
            "name": window,
            "model": options.model,
            "precision": options.precision,
            "window": window,
            "cpus_when_idle": 2,
        }
        for window in _WINDOWS
    ]
    with tempfile.TemporaryDirectory() as folder, serving({"tiers": tiers}) as url:
        clips = _cut(options, Path(folder))
        with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
            systems = _served(client) | _in_process(options.model, options.precision)
            for transcribe in systems.values():
                transcribe(clips[max(clips)][0])  # what is loaded or compiled at first use
            took = _measure(systems, clips, options.rounds)
    for length_s in clips:
        print(_line(length_s, took), flush=True)
    print(
        json.dumps(
            [
                {"length_s": length_s, "system": name, "p50_ms": round(1000 * median(seconds), 1)}
                for (length_s, name), seconds in took.items()
            ]
        )
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--audio", type=Path, help="mono at 16 kHz; by default committed clips")
    parser.add_argument("--model", default="demo:tiny.en", help="(%(default)s)")
    parser.add_argument("--lengths", default="3,7,15", help="seconds (%(default)s)")
    parser.add_argument("--clips", type=int, default=10, help="of each length (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--precision", default="int8", help="(%(default)s)")
    return parser.parse_args(arguments)


def _cut(options: argparse.Namespace, folder: Path) -> dict[float, list[Path]]:
    """Clips by their length in seconds, from places spread evenly over the recording."""
    found: dict[float, list[Path]] = {}
    for length_s in map(float, options.lengths.split(",")):
        pcm = _recording(options.audio, length_s * options.clips)
        n = round(length_s * SAMPLE_RATE)
        starts = np.linspace(0, len(pcm) - n, options.clips).astype(int)
        found[length_s] = [folder / f"{length_s:g}-{index}.wav" for index in range(options.clips)]
        for path, start in zip(found[length_s], starts, strict=True):
            soundfile.write(path, pcm[start : start + n], SAMPLE_RATE)
    return found


def _recording(path: Path | None, duration_s: float) -> npt.NDArray[np.int16]:
    if path is None:
        return speech(duration_s)
    pcm, rate = soundfile.read(path, dtype="int16")
    if rate != SAMPLE_RATE or pcm.ndim != 1:
        raise SystemExit(f"{path}: not mono at 16 kHz")
    found: npt.NDArray[np.int16] = pcm
    return found


def _served(client: httpx2.Client) -> dict[str, Transcribe]:
    def sends(window: str) -> Transcribe:
        def transcribe(path: Path) -> None:
            answer = client.post(
                "/v1/audio/transcriptions",
                data={"model": window, "language": "en", "response_format": "verbose_json"},
                files={"file": (path.name, path.read_bytes())},
            )
            answer.raise_for_status()

        return transcribe

    return {f"murmur, {window}": sends(window) for window in _WINDOWS}


def _in_process(model: str, precision: str) -> dict[str, Transcribe]:
    default = FasterWhisper(model, precision, vad=False)
    batched = FasterWhisperBatched(model, precision, timestamps=False)

    def run(system: FasterWhisper | FasterWhisperBatched) -> Transcribe:
        def transcribe(path: Path) -> None:
            system.transcribe(path, "en")

        return transcribe

    return {"faster-whisper": run(default), "faster-whisper, batched": run(batched)}


def _measure(
    systems: dict[str, Transcribe], clips: dict[float, list[Path]], n_rounds: int
) -> dict[tuple[float, str], list[float]]:
    """Seconds of each transcription, by length and system."""
    took: dict[tuple[float, str], list[float]] = defaultdict(list)
    names = list(systems)
    for round_number in range(n_rounds):
        order = names if round_number % 2 == 0 else names[::-1]
        for length_s, paths in clips.items():
            for path in paths:
                for name in order:
                    began = time.perf_counter()
                    systems[name](path)
                    took[length_s, name].append(time.perf_counter() - began)
    return took


def _line(length_s: float, took: dict[tuple[float, str], list[float]]) -> str:
    medians = {name: median(found) for (length, name), found in took.items() if length == length_s}
    best = min(time_s for name, time_s in medians.items() if name.startswith("faster-whisper"))
    parts = [f"{name} {1000 * s:.0f} ms ({s / best:.2f})" for name, s in medians.items()]
    return f"{length_s:4g} s: " + ", ".join(parts)


if __name__ == "__main__":
    main()
