"""How many words systems get right.

    python -m benchmarks.words make OUT/tune --part tune [--minutes 3] [--languages ...]
    python -m benchmarks.words run OUT/tune --out RESULTS [--systems ...] [--models ...] [--label L]
    python -m benchmarks.words compare RESULTS/OURS.jsonl RESULTS/THEIRS.jsonl ...
    python -m benchmarks.words moved RESULTS/BEFORE.jsonl RESULTS/AFTER.jsonl

`make` writes recordings of five languages in nine conditions (see `conditions`; `alone` is a prompt
alone in its file). Causes are looked for and settings chosen on the part `tune` only; `judge` is
for looking once. `run` appends a line for each file to RESULTS/SYSTEM_MODEL_PRECISION[_LABEL].jsonl
and goes on where it was stopped. `compare` prints word error rates by language and by condition
with the difference to each other system and its 95 % interval from a paired bootstrap over files.
`moved` prints the words that changed. Needs asterisk-core-sounds-{en,es,fr,it,ru}, their -wav
packages, asterisk-moh-opsound-wav and pocketsphinx-testdata of Debian.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.accuracy import LANGUAGES, MODELS
from benchmarks.arguments import comma_list
from benchmarks.words import corpus, results
from benchmarks.words.results import Difference, Result


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.command(options)


def make(options: argparse.Namespace) -> None:
    corpus.make(options.folder, options.part, options.languages, options.minutes, options.seed)


def run(options: argparse.Namespace) -> None:
    from benchmarks.systems import FACTORIES, precisions_of  # slow to import

    options.out.mkdir(parents=True, exist_ok=True)
    runs = product(options.models, options.systems, options.precisions)
    for model, name, precision in runs:
        if precision not in precisions_of(name):
            continue
        label = f"_{options.label}" if options.label else ""
        short = model.replace(":", "-").replace("/", "-")
        path = options.out / f"{name}_{short}_{precision}{label}.jsonl"
        known = results.load(path)
        languages = [x for x in options.languages if x == "en" or not model.endswith(".en")]
        found = corpus.recordings(options.folder, languages, options.conditions)
        missing = [each for each in found if each.name not in known]
        if not missing:
            continue
        system = FACTORIES[name](model, precision)
        for recording in missing:
            segments = system.transcribe(recording.path, recording.language)
            said = " ".join(segment.text for segment in segments)
            results.append(path, results.score(recording, said))
        print(f"{path}: {len(missing)} files", file=sys.stderr, flush=True)


def compare(options: argparse.Namespace) -> None:
    print("| ours | theirs | of | WER, ours | theirs | difference (95 % interval) | words |")
    print("|---|---|---|---|---|---|---|")
    for path in options.theirs:
        ours, theirs = _common(options.ours, path)
        pairs = list(zip(ours, theirs, strict=True))
        keys = {"all": None} | {key: None for one in ours for key in _groups(one)}
        for key in keys:
            group = [pair for pair in pairs if key in ("all", *_groups(pair[0]))]
            found = results.compare(*zip(*group, strict=True))
            print(_row(options.ours, path, key, found))


def moved(options: argparse.Namespace) -> None:
    for before, after in zip(*_common(options.before, options.after), strict=True):
        if before.said != after.said:
            print(f"{before.name}: {before.errors} -> {after.errors} errors")
            for change in results.moved(before, after):
                print("   ", change)


def _groups(result: Result) -> tuple[str, str]:
    return result.language, result.condition


def _common(one: Path, other: Path) -> tuple[list[Result], list[Result]]:
    """Results of the files that both have, in the same order."""
    first, second = results.load(one), results.load(other)
    names = [name for name in first if name in second]
    if not names:
        raise SystemExit(f"{one} and {other} have no file in common")
    return [first[name] for name in names], [second[name] for name in names]


def _row(ours: Path, theirs: Path, group: str, found: Difference) -> str:
    return (
        f"| {ours.stem} | {theirs.stem} | {group} | {found.ours:.2f} | {found.theirs:.2f} "
        f"| {found.interval} | {found.words} |"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How many words systems get right.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make", help="write recordings with known words")
    making.add_argument("folder", type=Path)
    making.add_argument("--part", choices=("tune", "judge"), default="tune")
    making.add_argument("--minutes", type=float, default=3, help="of each condition and language")
    making.add_argument("--languages", type=comma_list, default=LANGUAGES)
    making.add_argument("--seed", default="1")
    making.set_defaults(command=make)
    running = commands.add_parser("run", help="transcribe them")
    running.add_argument("folder", type=Path)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--systems", type=comma_list, default="murmur")
    running.add_argument("--models", type=comma_list, default=MODELS)
    running.add_argument("--precisions", type=comma_list, default="int8")
    running.add_argument("--languages", type=comma_list, default=LANGUAGES)
    running.add_argument("--conditions", type=comma_list, default="", help="default: all")
    running.add_argument("--label", default="", help="to keep runs of several commits apart")
    running.set_defaults(command=run)
    comparing = commands.add_parser("compare", help="word error rates and their differences")
    comparing.add_argument("ours", type=Path)
    comparing.add_argument("theirs", type=Path, nargs="+")
    comparing.set_defaults(command=compare)
    moving = commands.add_parser("moved", help="words that changed between two results")
    moving.add_argument("before", type=Path)
    moving.add_argument("after", type=Path)
    moving.set_defaults(command=moved)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
