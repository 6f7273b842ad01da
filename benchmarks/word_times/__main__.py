"""How exact the times of words are, and what they cost.

    python -m benchmarks.word_times make OUT --part tune [--minutes 5] [--languages ...] [--joined]
    python -m benchmarks.word_times run OUT [--systems ...] [--models ...] [--precision int8]

`make` joins prompts of Debian's Asterisk packages, whose edges are known, with pauses of 0.05 to
3 s, or with none (`--joined`). `run` prints a table: edges of recognised words, the share that is
off by more than 100 and 50 ms, medians of starts and ends, impossible words, and seconds of audio
per second with words and without. openai-whisper runs if it is installed, in float32.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import soundfile

from benchmarks.accuracy import LANGUAGES, MODELS
from benchmarks.word_times import corpus
from benchmarks.word_times.scores import Edge, edges, faults, median_off_ms, share_off


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How exact the times of words are.")
    commands = parser.add_subparsers(required=True)
    maker = commands.add_parser("make", help="write recordings with known edges of words")
    maker.add_argument("folder", type=Path)
    maker.add_argument("--part", choices=("tune", "judge"), required=True)
    maker.add_argument("--minutes", type=float, default=5)
    maker.add_argument("--languages", type=_split, default=_split(LANGUAGES))
    maker.add_argument("--seed", default="1")
    maker.add_argument("--joined", action="store_true", help="without pauses")
    maker.set_defaults(command=make)
    runner = commands.add_parser("run", help="transcribe them")
    runner.add_argument("folder", type=Path)
    runner.add_argument("--systems", type=_split, default=[])
    runner.add_argument("--models", type=_split, default=_split(MODELS))
    runner.add_argument("--languages", type=_split, default=_split(LANGUAGES))
    runner.add_argument("--precision", default="int8")
    runner.set_defaults(command=run)
    options = parser.parse_args(arguments)
    options.command(options)


def make(options: argparse.Namespace) -> None:
    pauses_s = (0.0,) if options.joined else corpus.PAUSES_S
    corpus.make(
        options.folder, options.part, options.languages, options.minutes, options.seed, pauses_s
    )


def run(options: argparse.Namespace) -> None:
    from benchmarks.word_times.systems import FACTORIES, missing  # slow to import

    for model in options.models:
        languages = [x for x in options.languages if x == "en" or not model.endswith(".en")]
        recordings = corpus.recordings(options.folder, languages)
        for name in options.systems or FACTORIES:
            if missing(name):
                continue
            system = FACTORIES[name](model, options.precision)
            system(recordings[0].path, recordings[0].language, True)  # warm
            found: list[Edge] = []
            wrong: Counter[str] = Counter()
            took_s = {True: 0.0, False: 0.0}
            audio_s = 0.0
            for recording in recordings:
                audio_s += (duration_s := soundfile.info(recording.path).duration)
                for words in (True, False):
                    began = time.perf_counter()
                    said = system(recording.path, recording.language, words)
                    took_s[words] += time.perf_counter() - began
                    if words:
                        found += edges(recording.language, recording.prompts, said)
                        wrong.update(faults(said, duration_s))
            rtfx = {words: audio_s / seconds for words, seconds in took_s.items()}
            print(_row(model, name, found, wrong, rtfx), flush=True)


def _row(
    model: str, name: str, found: list[Edge], wrong: Counter[str], rtfx: dict[bool, float]
) -> str:
    by_language = [
        f"{language} {100 * share_off([e for e in found if e.language == language], 0.1):.1f}"
        for language in sorted({edge.language for edge in found})
    ]
    cells = [
        model,
        name,
        str(len(found)),
        f"{100 * share_off(found, 0.1):.1f}",
        f"{100 * share_off(found, 0.05):.1f}",
        f"{median_off_ms(found, True):.0f}",
        f"{median_off_ms(found, False):.0f}",
        ", ".join(by_language),
        ", ".join(f"{n} {what}" for what, n in wrong.items() if n) or "none",
        f"{rtfx[True]:.1f} / {rtfx[False]:.1f} ({1 - rtfx[True] / rtfx[False]:.0%} lost)",
    ]
    return f"| {' | '.join(cells)} |"


def _split(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
