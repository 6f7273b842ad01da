"""Rare names that a caller expects: how many are found, and how often one is put where it is not.

    python -m benchmarks.keywords make OUT/tune --part tune
    python -m benchmarks.keywords run OUT/tune --without SPEECH [--models ...] [--ways ...]

`make` writes 160 sentences with 40 names. `run` transcribes them, and the English recordings of
SPEECH (those of `benchmarks.words make`, in which none of the names is said), in several ways: with
no keywords; with them in the prompt; favoured as tokens are chosen (graph); and both. `--more N`
adds so many names that are never said. Recall counts the names that are in their sentence's text,
a false alarm is any other name in a text. Settings are chosen on `tune`; `judge` is for looking
once. Needs flite and tzdata of Debian.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from benchmarks.arguments import comma_list
from benchmarks.keywords import corpus
from benchmarks.scoring import normalise, wer
from benchmarks.words.corpus import recordings
from deployments.local import FileDone, Job, LocalTranscriber
from deployments.transcript.options import TranscriptionOptions
from engine import DecodingOptions, Engine, EngineConfig, Precision, open_checkpoint

WAYS = {
    "none": DecodingOptions(),
    "prompt": DecodingOptions(keyword_boost=0.0),
    "graph": DecodingOptions(keyword_boost=1.0, keywords_in_prompt=False),
    "both": DecodingOptions(keyword_boost=1.0),
}
"""Ways to use keywords; those of `none` are left out."""
_SLOTS = 24


@dataclass
class Found:
    """What came of one way.

    Attributes:
        n_found: sentences whose name is in their text.
        n_wrong: other names in these texts.
        errors, words: of these sentences.
        n_alarms: names in speech that has none.
        errors_without, words_without: of that speech.
    """

    n_found: int = 0
    n_wrong: int = 0
    errors: int = 0
    words: int = 0
    n_alarms: int = 0
    errors_without: int = 0
    words_without: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    options.command(options)


def make(options: argparse.Namespace) -> None:
    corpus.make(options.folder, options.part)


def run(options: argparse.Namespace) -> None:
    spoken = corpus.load(options.folder)
    said = list(dict.fromkeys(each.name for each in spoken))
    part = options.part or options.folder.name
    names = [*said, *[name for name in corpus.names_of(part) if name not in said][: options.more]]
    print("| model | beams | way | recall | other names | WER | alarms without | WER without |")
    print("|---|---|---|---|---|---|---|---|")
    for model, beams in product(options.models, options.beams):
        config = EngineConfig(precision=Precision(options.precision), max_slots=_SLOTS)
        transcriber = LocalTranscriber(Engine(open_checkpoint(model), config))
        for way in options.ways:
            decoding = replace(
                WAYS[way],
                language="en",
                beam_size=beams,
                keywords=() if way == "none" else tuple(names),
            )
            found = _look(transcriber, decoding, options, spoken, names)
            n = len(spoken)
            print(
                f"| {model} | {beams} | {way} | {found.n_found / n:.1%} ({found.n_found} of {n}) "
                f"| {found.n_wrong} | {100 * found.errors / found.words:.2f} | {found.n_alarms} "
                f"| {100 * found.errors_without / max(1, found.words_without):.2f} |",
                flush=True,
            )


def _look(
    transcriber: LocalTranscriber,
    decoding: DecodingOptions,
    options: argparse.Namespace,
    spoken: Sequence[corpus.Spoken],
    names: Sequence[str],
) -> Found:
    found = Found()
    texts = _texts(transcriber, [options.folder / each.file for each in spoken], decoding)
    for each, text in zip(spoken, texts, strict=True):
        here = _names_in(text, names)
        found.n_found += each.name in here
        found.n_wrong += sum(name != each.name for name in here)
        errors = wer(each.text, text, "en")
        found.errors, found.words = found.errors + errors.errors, found.words + errors.length
    if options.without is not None:
        speech = recordings(options.without, ["en"], options.conditions)
        for one, text in zip(
            speech, _texts(transcriber, [each.path for each in speech], decoding), strict=True
        ):
            alarms = _names_in(text, names)
            found.n_alarms += len(alarms)
            errors = wer(one.text, text, "en")
            found.errors_without += errors.errors
            found.words_without += errors.length
            for name in alarms:
                print(f"  {one.name}: {name}", file=sys.stderr)
    return found


def _texts(
    transcriber: LocalTranscriber, paths: Sequence[Path], decoding: DecodingOptions
) -> list[str]:
    options = TranscriptionOptions(decoding=decoding)
    jobs = [Job(str(path), str(path), options) for path in paths]
    texts = {
        event.name: event.transcript.text
        for event in transcriber.run(jobs)
        if isinstance(event, FileDone)
    }
    return [texts[job.name] for job in jobs]


def _names_in(text: str, names: Sequence[str]) -> list[str]:
    padded = f" {normalise(text, 'en')} "
    return [name for name in names if f" {normalise(name, 'en')} " in padded]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Names that a caller expects, and alarms.")
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make", help="speak sentences with names")
    making.add_argument("folder", type=Path)
    making.add_argument("--part", choices=("tune", "judge"), default="tune")
    making.set_defaults(command=make)
    running = commands.add_parser("run", help="transcribe them")
    running.add_argument("folder", type=Path)
    running.add_argument("--part", choices=("tune", "judge"), help="default: the folder's name")
    running.add_argument("--without", type=Path, help="recordings without names")
    running.add_argument("--conditions", type=comma_list, default="", help="of these; default: all")
    running.add_argument("--models", type=comma_list, default="demo:base,demo:tiny.en")
    running.add_argument("--precision", default="int8")
    running.add_argument("--ways", type=comma_list, default=",".join(WAYS))
    running.add_argument("--beams", type=_numbers, default="1")
    running.add_argument("--more", type=int, default=0, help="names that are never said")
    running.set_defaults(command=run)
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in comma_list(text)]


if __name__ == "__main__":
    main()
