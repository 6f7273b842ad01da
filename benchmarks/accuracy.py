"""How well systems transcribe long files with known words and times.

    python -m benchmarks.accuracy --audio DIR [--systems ...] [--models ...] [--languages ...]

DIR holds LANG.wav and LANG.json: {"segments": [{"start", "end", "text"}, ...]}, times in seconds.
The language is given to the system, not detected. English-only models (".en") skip other languages.
Prints a row for each run as it ends, then one JSON line. `scoring` defines the columns.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import soundfile

from benchmarks import scoring
from benchmarks.arguments import comma_list
from benchmarks.scoring import TimedText
from benchmarks.systems import FACTORIES, GREEDY, System, precisions_of

LANGUAGES = "en,es,fr,it,ru"
MODELS = "demo:tiny.en,demo:base"
PRECISIONS = "float32,int8"


@dataclass(frozen=True)
class Recording:
    """An audio file and what is said in it."""

    path: Path
    language: str
    duration_s: float
    segments: tuple[TimedText, ...]


@dataclass(frozen=True)
class Result:
    """One system on one file. Rates are fractions; RTFx is audio seconds per wall second.

    `wer_folded` ignores accents, for references that were written without them. `cpu_s` is the CPU
    time of all threads, which other work on the machine disturbs less than the wall time.
    """

    system: str
    model: str
    precision: str
    language: str
    wer: float
    wer_folded: float
    cer: float
    words: int
    substitutions: int
    deletions: int
    insertions: int
    start_error_s: float | None
    start_bias_s: float | None
    measured_share: float
    lost: int
    dropped: int
    doubled: int
    hypothesis_segments: int
    audio_s: float
    wall_s: float
    cpu_s: float
    rtfx: float


COLUMNS = (
    ("system", 22),
    ("model", 12),
    ("precision", 9),
    ("lang", 4),
    ("WER", 6),
    ("WER-acc", 7),
    ("CER", 6),
    ("sub/del/ins", 11),
    ("start_s", 7),
    ("measured", 8),
    ("lost", 4),
    ("dropped", 7),
    ("doubled", 7),
    ("RTFx", 6),
    ("cpu_s", 6),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    print(_line([name for name, _ in COLUMNS]), flush=True)
    results: list[Result] = []
    for model, name, precision in product(options.models, options.systems, options.precisions):
        languages = [x for x in options.languages if x == "en" or not model.endswith(".en")]
        if languages and precision in precisions_of(name):
            system = FACTORIES[name](model, precision)
            results += run_system(system, options.audio, languages, options.transcripts)
    print(json.dumps({"results": [asdict(result) for result in results]}))


def run_system(
    system: System, audio: Path, languages: Sequence[str], transcripts: Path | None
) -> list[Result]:
    """Transcribe and score each language's file, printing its row; keep the texts if asked to."""
    results = []
    for language in languages:
        recording = load_recording(audio, language)
        segments, wall_s, cpu_s = timed(system, recording)
        if transcripts:
            _save(transcripts, system, language, segments)
        results.append(evaluate(system, recording, segments, wall_s, cpu_s))
        print(_row(results[-1]), flush=True)
    return results


def load_recording(folder: Path, language: str) -> Recording:
    """Read LANG.wav's length and LANG.json's segments."""
    path = folder / f"{language}.wav"
    truth = json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))
    segments = tuple(TimedText(s["start"], s["end"], s["text"]) for s in truth["segments"])
    return Recording(path, language, soundfile.info(str(path)).duration, segments)


def evaluate(
    system: System,
    recording: Recording,
    segments: Sequence[TimedText],
    wall_s: float,
    cpu_s: float,
) -> Result:
    """Score the text of `system` for `recording`."""
    language = recording.language
    reference = " ".join(s.text for s in recording.segments)
    hypothesis = " ".join(s.text for s in segments)
    words = scoring.wer(reference, hypothesis, language)
    starts = scoring.start_error_s(recording.segments, segments, language)
    found = scoring.presence(recording.segments, hypothesis, language)
    return Result(
        system=system.name,
        model=system.model,
        precision=system.precision,
        language=language,
        wer=words.rate,
        wer_folded=scoring.wer(reference, hypothesis, language, fold_accents=True).rate,
        cer=scoring.cer(reference, hypothesis, language).rate,
        words=words.length,
        substitutions=words.substitutions,
        deletions=words.deletions,
        insertions=words.insertions,
        start_error_s=starts.median_s,
        start_bias_s=starts.bias_s,
        measured_share=starts.measured_share,
        lost=len(found.lost),
        dropped=len(found.dropped),
        doubled=len(found.doubled),
        hypothesis_segments=len(segments),
        audio_s=recording.duration_s,
        wall_s=wall_s,
        cpu_s=cpu_s,
        rtfx=recording.duration_s / wall_s,
    )


def timed(system: System, recording: Recording) -> tuple[list[TimedText], float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    segments = system.transcribe(recording.path, recording.language)
    return segments, time.perf_counter() - wall, time.process_time() - cpu


def _save(folder: Path, system: System, language: str, segments: Sequence[TimedText]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = system.model.replace(":", "-").replace("/", "-")
    path = folder / f"{system.name}_{model}_{system.precision}_{language}.json"
    content = [segment._asdict() for segment in segments]
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _row(result: Result) -> str:
    start = "-" if result.start_error_s is None else f"{result.start_error_s:.3f}"
    return _line(
        [
            result.system,
            result.model,
            result.precision,
            result.language,
            f"{result.wer:.3f}",
            f"{result.wer_folded:.3f}",
            f"{result.cer:.3f}",
            f"{result.substitutions}/{result.deletions}/{result.insertions}",
            start,
            f"{result.measured_share:.2f}",
            str(result.lost),
            str(result.dropped),
            str(result.doubled),
            f"{result.rtfx:.1f}",
            f"{result.cpu_s:.1f}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    padded = (cell.ljust(width) for cell, (_, width) in zip(cells, COLUMNS, strict=True))
    return "  ".join(padded).rstrip()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = selection_parser("Accuracy of speech-recognition systems.", ",".join(GREEDY))
    parser.add_argument("--transcripts", type=Path, help="folder to keep what each system said")
    return parse_selection(parser, arguments)


def selection_parser(description: str, systems: str) -> argparse.ArgumentParser:
    """Options that select systems, models and files; `systems` is the default list of names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--audio", type=Path, required=True, help="folder of LANG.wav, LANG.json")
    parser.add_argument("--systems", type=comma_list, default=systems)
    parser.add_argument("--models", type=comma_list, default=MODELS)
    parser.add_argument("--languages", type=comma_list, default=LANGUAGES)
    parser.add_argument("--precisions", type=comma_list, default=PRECISIONS)
    return parser


def parse_selection(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """Parse, refusing unknown systems."""
    options = parser.parse_args(arguments)
    unknown = set(options.systems) - set(FACTORIES)
    if unknown:
        parser.error(f"unknown systems {sorted(unknown)}; known: {sorted(FACTORIES)}")
    return options


if __name__ == "__main__":
    main()
