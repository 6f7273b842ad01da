"""How fast systems transcribe long files, and how well: side by side in one run.

    python -m benchmarks.offline --audio DIR [--systems ...] [--models ...] [--languages ...]

DIR holds what `benchmarks.make_speech` writes. Each run is a separate process that loads a system
and then times it on every file. Machines are noisy, so the systems take turns, round after round,
and the medians count. Prints a table, then one JSON line. RTFx is audio seconds per wall second
without loading; `peak_rss_mb` is the peak of the whole process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

from benchmarks.accuracy import (
    Result,
    evaluate,
    load_recording,
    parse_selection,
    selection_parser,
    timed,
)
from benchmarks.systems import FACTORIES, GREEDY, precisions_of

SYSTEMS = ",".join(name for name in GREEDY if name != "faster-whisper-no-vad")


@dataclass(frozen=True)
class Run:
    """One system to run on some languages."""

    system: str
    model: str
    precision: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A line of the table: medians over the rounds of one system on one language."""

    system: str
    model: str
    precision: str
    language: str
    rtfx: float
    wer: float
    cer: float
    peak_rss_mb: float
    start_error_s: float | None
    rtfx_min: float
    rtfx_max: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.child:
        _child(options.audio, Run(*json.loads(options.child)))
        return
    measured: dict[tuple[str, ...], list[tuple[Result, float]]] = {}
    for round_number in range(options.rounds):
        for run in _runs(options):
            for result, peak_mb in _measure(options.audio, run):
                key = (run.system, run.model, run.precision, result.language)
                measured.setdefault(key, []).append((result, peak_mb))
                print(
                    f"round {round_number + 1}: {' '.join(key)}: {result.rtfx:.1f} RTFx",
                    file=sys.stderr,
                    flush=True,
                )
    rows = [_row(values) for values in measured.values()]
    _report(rows)
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def _runs(options: argparse.Namespace) -> list[Run]:
    runs = []
    for model, system, precision in product(options.models, options.systems, options.precisions):
        languages = tuple(x for x in options.languages if x == "en" or not model.endswith(".en"))
        if languages and precision in precisions_of(system):
            runs.append(Run(system, model, precision, languages))
    return runs


def _measure(audio: Path, run: Run) -> list[tuple[Result, float]]:
    """Run a system in a separate process; an error there ends the benchmark."""
    values = [run.system, run.model, run.precision, run.languages]
    command = [sys.executable, "-m", "benchmarks.offline", "--audio", str(audio)]
    done = subprocess.run(
        [*command, "--child", json.dumps(values)], stdout=subprocess.PIPE, text=True, check=True
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return [(Result(**result), answer["peak_rss_mb"]) for result in answer["results"]]


def _child(audio: Path, run: Run) -> None:
    system = FACTORIES[run.system](run.model, run.precision)
    results = []
    for language in run.languages:
        recording = load_recording(audio, language)
        segments, wall_s, cpu_s = timed(system, recording)
        results.append(asdict(evaluate(system, recording, segments, wall_s, cpu_s)))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"results": results, "peak_rss_mb": peak_mb}))


def _row(values: Sequence[tuple[Result, float]]) -> Row:
    first = values[0][0]
    rates = [result.rtfx for result, _ in values]
    return Row(
        system=first.system,
        model=first.model,
        precision=first.precision,
        language=first.language,
        rtfx=statistics.median(rates),
        wer=first.wer,
        cer=first.cer,
        peak_rss_mb=max(peak for _, peak in values),
        start_error_s=first.start_error_s,
        rtfx_min=min(rates),
        rtfx_max=max(rates),
    )


def _report(rows: Sequence[Row]) -> None:
    print(
        "| model | language | system | precision | RTFx (min to max) | WER | CER | MB | start s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: (row.model, row.language, -row.rtfx)):
        start = "" if row.start_error_s is None else f"{row.start_error_s:.2f}"
        rates = f"{row.rtfx:.1f} ({row.rtfx_min:.1f} to {row.rtfx_max:.1f})"
        print(
            f"| {row.model} | {row.language} | {row.system} | {row.precision} | {rates} "
            f"| {row.wer:.4f} | {row.cer:.4f} | {row.peak_rss_mb:.0f} | {start} |"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = selection_parser("Speed and accuracy side by side.", SYSTEMS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parse_selection(parser, arguments)


if __name__ == "__main__":
    main()
