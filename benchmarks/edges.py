"""Words at the edges of chunks: what is lost, put in or changed where a file is cut elsewhere.

    python -m benchmarks.edges --audio FILE [--language en] [--model demo:tiny.en] [--step 0.5]

The file is transcribed with the longest chunk set to 3.0, 3.5, ... 29.5 s, every chunk on its own,
so that edges fall everywhere, and each text is compared with that of the file at 29.5 s. Three ways
to cut: `pauses` is the default; for `unbroken`, pauses do not end a region of speech, so that every
cut is made inside speech, at the least speech-like moment of the second half of a chunk, as where
somebody talks or music plays for half a minute; `fixed` cuts the file itself every so many seconds,
wherever that is. Prints words lost, put in and changed for each cut, then one JSON line.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from benchmarks.scoring import wer
from benchmarks.systems import murmur_config
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber
from deployments.options import ChunkingOptions, VadOptions
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from engine import DecodingOptions, Engine, open_checkpoint

SHORTEST_S, LONGEST_S = 3.0, 29.5
WAYS = ("pauses", "unbroken", "fixed")
_UNBROKEN = VadOptions(min_silence_s=1e6)


@dataclass
class Row:
    """Sums over all lengths of chunks; words are counted against the text of the whole file."""

    way: str
    cuts: int = 0
    words: int = 0
    lost: int = 0
    put_in: int = 0
    changed: int = 0

    def per_hundred_cuts(self) -> list[float]:
        return [100 * n / max(1, self.cuts) for n in (self.lost, self.put_in, self.changed)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    transcriber = LocalTranscriber(Engine(open_checkpoint(options.model), murmur_config("int8")))
    base = TranscriptionOptions(
        DecodingOptions(language=options.language), FallbackOptions(temperatures=(0.0,))
    )
    whole = _text(transcriber, [Job("whole", str(options.audio), base)])
    lengths = np.arange(SHORTEST_S, LONGEST_S + 1e-6, options.step)
    duration_s = soundfile.info(options.audio).duration
    print(
        "| cuts | number | lost per 100 | put in per 100 | changed per 100 |\n|---|---|---|---|---|"
    )
    rows = []
    for way in options.ways:
        row = Row(way)
        for length_s in map(float, lengths):
            said = _transcribed(transcriber, options.audio, base, way, length_s)
            rate = wer(whole, said, options.language)
            row.cuts += int(duration_s / length_s)
            row.words += rate.length
            row.lost += rate.deletions
            row.put_in += rate.insertions
            row.changed += rate.substitutions
        lost, put_in, changed = row.per_hundred_cuts()
        print(f"| {way} | {row.cuts} | {lost:.1f} | {put_in:.1f} | {changed:.1f} |", flush=True)
        rows.append(row)
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def _transcribed(
    transcriber: LocalTranscriber,
    audio: Path,
    base: TranscriptionOptions,
    way: str,
    length_s: float,
) -> str:
    """The file's text with chunks of at most that length."""
    if way == "fixed":
        with TemporaryDirectory() as folder:
            parts = _cut(audio, Path(folder), length_s)
            return _text(transcriber, [Job(str(part), str(part), base) for part in parts])
    vad = _UNBROKEN if way == "unbroken" else base.vad
    cut = replace(base, chunking=ChunkingOptions(max_chunk_s=length_s), vad=vad)
    return _text(transcriber, [Job("whole", str(audio), cut)])


def _cut(audio: Path, folder: Path, length_s: float) -> Iterator[Path]:
    """Write the file in parts of that length."""
    pcm, rate = soundfile.read(audio, dtype="int16")
    size = round(length_s * rate)
    for index, start in enumerate(range(0, len(pcm), size)):
        path = folder / f"{index:05}.wav"
        soundfile.write(path, pcm[start : start + size], rate)
        yield path


def _text(transcriber: LocalTranscriber, jobs: Iterable[Job]) -> str:
    jobs = list(jobs)
    texts = {}
    for event in transcriber.run(jobs):
        if isinstance(event, FileFailed):
            raise event.error
        if isinstance(event, FileDone):
            texts[event.name] = event.transcript.text
    return " ".join(texts[job.name] for job in jobs)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Words at the edges of chunks.")
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--language", default="en")
    parser.add_argument("--model", default="demo:tiny.en")
    parser.add_argument("--step", type=float, default=0.5, help="seconds between two lengths")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=WAYS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
