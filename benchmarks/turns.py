"""Several languages in a file: words right, and language right by the second.

    python -m benchmarks.turns [--part judge] [--minutes 10] [--model demo:base] [--seed 1]

English, Spanish, French, Italian and Russian prompts (`benchmarks.make_speech`) take turns of 20 to
60 s. The file is transcribed with `multilingual`, in the language of its first speech, and, for
comparison, each turn on its own with its language given. A segment belongs to the turn in which its
middle lies. Prints a table, then one JSON line.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from tempfile import NamedTemporaryFile

import numpy as np
import numpy.typing as npt
import soundfile

from benchmarks.make_speech import PAUSES_S, RATE, VOICES, find_prompts, read
from benchmarks.scoring import wer
from benchmarks.systems import murmur_config
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber
from deployments.messages import TranscriptSegment
from deployments.options import TranscribeOptions
from deployments.tier import TierInfo
from deployments.transcript.options import TranscriptionOptions, transcription_options
from engine import Engine, open_checkpoint

TURN_S = (20.0, 60.0)
_STEP_S = 0.1


@dataclass(frozen=True)
class Turn:
    """What one speaker says; times in seconds of the file."""

    language: str
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Row:
    """Word error rate over all turns, and the share of said seconds in the right language."""

    way: str
    wer: float
    words: int
    language_right: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    samples, turns = build(options.part, options.minutes, random.Random(options.seed))
    engine = Engine(open_checkpoint(options.model), murmur_config("int8"))
    transcriber = LocalTranscriber(engine)
    info = TierInfo(options.model, "int8", tuple(engine.tokenizer.languages), True, 24, 24)

    def wanted(language: str | None = None, multilingual: bool = False) -> TranscriptionOptions:
        asked = TranscribeOptions(language=language, multilingual=multilingual)
        return transcription_options(asked, info)

    whole = Turn("", 0.0, len(samples) / RATE, "")
    rows = [
        _row(
            "multilingual",
            turns,
            _heard(transcriber, samples, [(whole, wanted(multilingual=True))]),
        ),
        _row(
            "language of the first speech", turns, _heard(transcriber, samples, [(whole, wanted())])
        ),
        _row(
            "each turn alone, its language given",
            turns,
            _heard(transcriber, samples, [(t, wanted(language=t.language)) for t in turns]),
        ),
    ]
    print(f"{len(turns)} turns, {len(samples) / RATE / 60:.1f} min")
    print("| way | WER | words | language right |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.way} | {row.wer:.4f} | {row.words} | {100 * row.language_right:.1f} % |")
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def build(
    part: str, minutes: float, rng: random.Random
) -> tuple[npt.NDArray[np.float32], list[Turn]]:
    """Samples at 16 kHz, and who speaks when: no language twice in a row."""
    prompts = {language: list(find_prompts(language, part)) for language in VOICES}
    audio: list[npt.NDArray[np.float32]] = []
    turns: list[Turn] = []
    now_s, language = 0.0, ""
    while now_s < 60 * minutes:
        language = rng.choice([name for name in VOICES if name != language])
        start_s, length_s, texts = now_s, rng.uniform(*TURN_S), []
        while now_s - start_s < length_s:
            path, text = rng.choice(prompts[language])
            speech = read(path)
            pause = np.zeros(int(rng.choice(PAUSES_S) * RATE), np.float32)
            audio += [speech, pause]
            texts.append(text)
            now_s += (len(speech) + len(pause)) / RATE
        turns.append(Turn(language, start_s, now_s, " ".join(texts)))
    return np.concatenate(audio), turns


def _heard(
    transcriber: LocalTranscriber,
    samples: npt.NDArray[np.float32],
    stretches: Sequence[tuple[Turn, TranscriptionOptions]],
) -> list[TranscriptSegment]:
    """Segments on the file's clock, of stretches that are transcribed on their own."""
    found = []
    for stretch, options in stretches:
        part = samples[round(stretch.start_s * RATE) : round(stretch.end_s * RATE)]
        with NamedTemporaryFile(suffix=".wav") as file:
            soundfile.write(file.name, np.clip(part, -1, 1), RATE, subtype="PCM_16")
            for event in transcriber.run([Job("file", file.name, options)]):
                if isinstance(event, FileFailed):
                    raise event.error
                if isinstance(event, FileDone):
                    found += [_moved(s, stretch.start_s) for s in event.transcript.segments]
    return found


def _moved(segment: TranscriptSegment, by_s: float) -> TranscriptSegment:
    return replace(segment, start_s=segment.start_s + by_s, end_s=segment.end_s + by_s)


def _row(way: str, turns: Sequence[Turn], segments: Sequence[TranscriptSegment]) -> Row:
    errors = words = 0
    steps = right = 0
    for turn in turns:
        own = [s for s in segments if turn.start_s <= (s.start_s + s.end_s) / 2 < turn.end_s]
        rate = wer(
            turn.text,
            "".join(s.text for s in own),
            turn.language,
            fold_accents=turn.language != "en",
        )
        errors, words = errors + rate.errors, words + rate.length
        for segment in own:
            n = max(1, round((segment.end_s - segment.start_s) / _STEP_S))
            steps, right = steps + n, right + n * (segment.language == turn.language)
    return Row(way, errors / max(1, words), words, right / max(1, steps))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Several languages in a file.")
    parser.add_argument("--part", choices=["tune", "judge"], default="judge")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", default="demo:base")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
