"""What less memory costs: word errors, speed and bytes of every precision and way to store windows.

    python -m benchmarks.precision --audio DIR [--models ...] [--ways ...] [--plot STEM]

DIR is as for `benchmarks.accuracy`. Each way runs in a separate process, with chunks on their own,
no context and no fallback. A way is PRECISION[/CROSS-ATTENTION[/8-bit]], such as
int8/absorbed/8-bit, or faster-whisper/COMPUTE-TYPE. Weights and slots count as they are stored.
Peak is the process's resident memory above that before the model, audio and voice detection
included. Prints a row
for each way and language, a summary, then one JSON line; --plot draws STEM.png and STEM.svg.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import scoring
from benchmarks.accuracy import LANGUAGES, MODELS, Recording, load_recording, timed
from benchmarks.arguments import comma_list
from benchmarks.local_runner import local_runner
from benchmarks.systems import FasterWhisper, Murmur, System
from engine import CrossAttentionMode, EngineConfig, Precision
from engine.devices import peak_resident_bytes, resident_bytes
from training.pictures import save_picture

WAYS = (
    "float32,float32/cached-8bit,float32/absorbed,float32/absorbed/8-bit,bfloat16,bfloat16/absorbed,"
    "float16,int8,int8/cached,int8/absorbed,int8/absorbed/8-bit,int8-weight-only,"
    "int8-weight-only/absorbed/8-bit,int4-g32,int4-g64,int4-g128,int4-g32/absorbed/8-bit,"
    "faster-whisper/float32,faster-whisper/int8"
)
SLOTS = 24
_OTHER = "faster-whisper"


@dataclass(frozen=True)
class Row:
    """One way on one file. Rates are fractions of the reference; bytes are those of the process."""

    model: str
    way: str
    language: str
    wer: float
    cer: float
    errors: int
    words: int
    rtfx: float
    wall_s: float
    weight_bytes: int | None
    slot_bytes: int | None
    peak_bytes: int


@dataclass(frozen=True)
class Summary:
    """One way over all files of a model: errors by all words, audio by all time."""

    model: str
    way: str
    wer: float
    wer_points_above_first: float
    worst_language_points: float
    rtfx: float
    weight_mb: float | None
    slot_mb: float | None
    peak_mb: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.one:
        print(json.dumps([asdict(row) for row in _measure(options)]))
        return
    print("| model | way | language | WER | CER | RTFx | weights MB | slots MB | peak MB |")
    print("|---" * 9 + "|", flush=True)
    rows = []
    for model in options.models:
        for way in options.ways:
            for row in _in_a_process(options, model, way):
                rows.append(row)
                _print_row(row)
    summaries = [s for model in options.models for s in summarise(rows, model)]
    _print_summaries(summaries)
    if options.plot:
        _plot(summaries, options.plot)
    result = {"rows": [asdict(row) for row in rows], "summaries": [asdict(s) for s in summaries]}
    print(json.dumps(result))


def summarise(rows: Sequence[Row], model: str) -> list[Summary]:
    """Compare each way with the first one of the model."""
    by_way: dict[str, list[Row]] = {}
    for row in rows:
        if row.model == model:
            by_way.setdefault(row.way, []).append(row)
    first = next(iter(by_way.values()), [])
    return [_summary(way, own, first) for way, own in by_way.items()]


def _summary(way: str, rows: Sequence[Row], first: Sequence[Row]) -> Summary:
    reference = {row.language: row.wer for row in first}
    audio_s = sum(row.rtfx * row.wall_s for row in rows)
    return Summary(
        model=rows[0].model,
        way=way,
        wer=_rate(rows),
        wer_points_above_first=100 * (_rate(rows) - _rate(first)),
        worst_language_points=max(100 * (row.wer - reference[row.language]) for row in rows),
        rtfx=audio_s / sum(row.wall_s for row in rows),
        weight_mb=_megabytes(rows[0].weight_bytes),
        slot_mb=_megabytes(rows[0].slot_bytes),
        peak_mb=max(row.peak_bytes for row in rows) / 1e6,
    )


def _rate(rows: Sequence[Row]) -> float:
    return sum(row.errors for row in rows) / sum(row.words for row in rows)


def _megabytes(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / 1e6


def _in_a_process(options: argparse.Namespace, model: str, way: str) -> list[Row]:
    command = [sys.executable, "-m", "benchmarks.precision", "--audio", str(options.audio)]
    command += ["--models", model, "--ways", way, "--languages", ",".join(options.languages)]
    done = subprocess.run([*command, "--one"], stdout=subprocess.PIPE, text=True, check=True)
    return [Row(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def config_of(way: str) -> EngineConfig:
    """The engine configuration of PRECISION[/CROSS-ATTENTION[/8-bit]].

    Raises:
        ValueError: there is no such way.
    """
    precision, cross, own, *rest = (*way.split("/"), "", "")
    if own not in ("", "8-bit") or any(rest):
        raise ValueError(f"{way!r} is not PRECISION[/CROSS-ATTENTION[/8-bit]]")
    return EngineConfig(
        precision=Precision(precision),
        cross_attention=CrossAttentionMode(cross) if cross else None,
        int8_self_attention=own == "8-bit",
        max_slots=SLOTS,
    )


def _measure(options: argparse.Namespace) -> list[Row]:
    """One model in one way, in this process."""
    model, way = options.models[0], options.ways[0]
    bare_bytes = resident_bytes()
    weight_bytes = slot_bytes = None
    system: System
    if way.startswith(_OTHER):
        system = FasterWhisper(model, way.partition("/")[2], vad=True)
    else:
        system, weight_bytes, slot_bytes = _load(model, way)
    languages = [x for x in options.languages if x == "en" or not model.endswith(".en")]
    return [
        _row(system, way, load_recording(options.audio, x), bare_bytes, weight_bytes, slot_bytes)
        for x in languages
    ]


def _load(model: str, way: str) -> tuple[Murmur, int, int]:
    system = Murmur(model, config_of(way), context_chunks=1)
    runner = local_runner(system.engine)
    slot_bytes = sum(bank.cache.n_bytes for bank in runner.banks)
    return system, runner.n_bytes - slot_bytes, slot_bytes


def _row(
    system: System,
    way: str,
    recording: Recording,
    bare_bytes: int,
    weight_bytes: int | None,
    slot_bytes: int | None,
) -> Row:
    segments, wall_s, _ = timed(system, recording)
    reference = " ".join(s.text for s in recording.segments)
    hypothesis = " ".join(s.text for s in segments)
    words = scoring.wer(reference, hypothesis, recording.language)
    return Row(
        model=system.model,
        way=way,
        language=recording.language,
        wer=words.rate,
        cer=scoring.cer(reference, hypothesis, recording.language).rate,
        errors=words.errors,
        words=words.length,
        rtfx=recording.duration_s / wall_s,
        wall_s=wall_s,
        weight_bytes=weight_bytes,
        slot_bytes=slot_bytes,
        peak_bytes=peak_resident_bytes() - bare_bytes,
    )


def _print_row(row: Row) -> None:
    weights, slots = (
        "-" if n is None else f"{n / 1e6:.0f}" for n in (row.weight_bytes, row.slot_bytes)
    )
    print(
        f"| {row.model} | {row.way} | {row.language} | {row.wer:.4f} | {row.cer:.4f} "
        f"| {row.rtfx:.1f} | {weights} | {slots} | {row.peak_bytes / 1e6:.0f} |",
        flush=True,
    )


def _print_summaries(summaries: Sequence[Summary]) -> None:
    print("\n| model | way | WER | points | worst language | RTFx | weights MB | slots MB | peak |")
    print("|---" * 9 + "|")
    for s in summaries:
        weights, slots = ("-" if mb is None else f"{mb:.0f}" for mb in (s.weight_mb, s.slot_mb))
        print(
            f"| {s.model} | {s.way} | {s.wer:.4f} | {s.wer_points_above_first:+.2f} "
            f"| {s.worst_language_points:+.2f} | {s.rtfx:.1f} | {weights} | {slots} "
            f"| {s.peak_mb:.0f} |"
        )


def _plot(summaries: Sequence[Summary], stem: Path) -> None:
    """Plot word error rate against weights and slots, one panel per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "murmur"  # the same file from the same numbers
    models = list(dict.fromkeys(s.model for s in summaries))
    figure, axes = pyplot.subplots(1, len(models), figsize=(8 * len(models), 5), squeeze=False)
    for panel, model in zip(axes[0], models, strict=True):
        for number, s in enumerate((s for s in summaries if s.model == model), 1):
            if s.weight_mb is None or s.slot_mb is None:
                continue
            # Points are numbered: names would overlap where the word error rates are alike.
            x, y = s.weight_mb + s.slot_mb, 100 * s.wer
            panel.plot(x, y, "o", label=f"{number} {s.way}")
            above = 5 if number % 2 else -11
            panel.annotate(number, (x, y), textcoords="offset points", xytext=(-3, above),
                           fontsize=8)  # fmt: skip
        panel.set(xlabel=f"weights and {SLOTS} slots (MB)", ylabel="WER (%)", title=model)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_picture(figure, stem)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What less memory costs.")
    parser.add_argument("--audio", type=Path, required=True, help="folder of LANG.wav, LANG.json")
    parser.add_argument("--models", type=comma_list, default=MODELS)
    parser.add_argument("--ways", type=comma_list, default=WAYS)
    parser.add_argument("--languages", type=comma_list, default=LANGUAGES)
    parser.add_argument("--plot", type=Path, help="where to draw, without the suffix")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
