"""Resident memory of `murmur transcribe` over time, on a file of any length.

    python -m benchmarks.memory FILE [--repeat N] [--plot OUT.png] [-- ARGUMENTS OF TRANSCRIBE]

With --repeat the file is first written N times into one FLAC file: a few minutes of speech become
hours. Memory is that of the process and its ffmpeg, sampled every second.
Prints a table by tenths of the run, then one JSON line.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import soundfile

INTERVAL_S = 1.0


@dataclass(frozen=True)
class Sample:
    """Seconds since the start, resident bytes, and seconds of audio read so far."""

    time_s: float
    rss_bytes: int
    decoded_s: float


def main(arguments: Sequence[str] | None = None) -> None:
    options, rest = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = options.file
        if options.repeat > 1:
            path = Path(folder) / "long.flac"
            _repeat(options.file, options.repeat, path)
        duration_s = soundfile.info(str(path)).duration
        samples, n_characters = _run([str(path), *rest])
    if options.plot:
        _plot(samples, options.plot, duration_s)
    _report(samples, duration_s, n_characters)


def _repeat(source: Path, count: int, target: Path) -> None:
    pcm, rate = soundfile.read(source, dtype="int16")
    with soundfile.SoundFile(target, "w", rate, 1, "PCM_16") as out:
        for _ in range(count):
            out.write(pcm)


def _run(arguments: Sequence[str]) -> tuple[list[Sample], int]:
    """Run the command to its end; its progress lines say how much audio was read."""
    command = [sys.executable, "-m", "serve.commands.cli", "transcribe", *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.NamedTemporaryFile("r") as err:
        start = time.perf_counter()
        with open(err.name, "w") as sink, subprocess.Popen(command, stdout=out, stderr=sink) as run:
            process = psutil.Process(run.pid)
            samples, decoded_s = [], 0.0
            while run.poll() is None:
                decoded_s = _last_progress(err.read(), decoded_s)
                now = time.perf_counter() - start
                samples.append(Sample(now, _resident_bytes(process), decoded_s))
                time.sleep(INTERVAL_S)
        if run.returncode:
            raise SystemExit(f"murmur failed with exit code {run.returncode}")
        out.seek(0)
        return [sample for sample in samples if sample.rss_bytes], len(out.read())


def _last_progress(lines: str, before_s: float) -> float:
    for line in reversed(lines.splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a line that is still being written
        if event["event"] == "progress":
            return float(event["decoded_s"])
    return before_s


def _resident_bytes(process: psutil.Process) -> int:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total


def _plot(samples: Sequence[Sample], path: Path, duration_s: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    minutes = [sample.time_s / 60 for sample in samples]
    axes.plot(minutes, [sample.rss_bytes / 2**20 for sample in samples], label="resident memory")
    axes.set(xlabel="minutes since the start", ylabel="MiB", ylim=(0, None))
    axes.set_title(f"murmur transcribe, {duration_s / 3600:.2f} hours of audio")
    right = axes.twinx()
    right.plot(minutes, [sample.decoded_s / 3600 for sample in samples], "C1--", label="audio read")
    right.set(ylabel="hours of audio read", ylim=(0, None))
    figure.legend(loc="lower right", bbox_to_anchor=(0.88, 0.15))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _report(samples: Sequence[Sample], duration_s: float, n_characters: int) -> None:
    wall_s = samples[-1].time_s
    peak = max(sample.rss_bytes for sample in samples)
    print(f"{'share of run':>12}  {'audio read (s)':>14}  {'peak RSS (MiB)':>14}")
    for tenth in range(10):
        low, high = tenth * wall_s / 10, (tenth + 1) * wall_s / 10
        part = [sample for sample in samples if low <= sample.time_s <= high]
        if part:
            rss = max(sample.rss_bytes for sample in part) / 2**20
            share = f"{tenth / 10:.0%}-{(tenth + 1) / 10:.0%}"
            print(f"{share:>12}  {part[-1].decoded_s:>14.0f}  {rss:>14.0f}")
    result = {
        "audio_s": round(duration_s, 1),
        "wall_s": round(wall_s, 1),
        "rtfx": round(duration_s / wall_s, 2),
        "peak_rss_mb": round(peak / 2**20, 1),
        "characters": n_characters,
    }
    print(json.dumps({"results": [result]}))


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    split = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Resident memory of murmur transcribe over time.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args(argv[:split]), argv[split + 1 :]


if __name__ == "__main__":
    main()
