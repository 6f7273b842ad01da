"""The clips of manifests as samples: every file is decoded once, into one flat file on disk.

Any format that the project reads will do. All files' samples lie one after another in
`samples.int16`, 16 kHz mono, which every worker maps; a clip is a part of it. The folder's name has
a digest of the manifests' rows and of their files' sizes and times, so that changed data is decoded
again. 100 hours take 11.5 GB.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deployments.audio.reading import read_audio
from deployments.audio.report import AudioReport
from deployments.errors import DeploymentError
from engine import N_SAMPLES, SAMPLE_RATE
from training.errors import TrainingError
from training.manifest import Row, Span, check

Pcm = npt.NDArray[np.int16]

MIN_S = 0.1
"""The shortest clip."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip of at most 30 s: where its samples begin in the flat file, and what is said."""

    place: str
    first: int
    n_samples: int
    language: str
    text: str
    segments: tuple[Span, ...]
    previous: str | None

    @property
    def duration_s(self) -> float:
        return self.n_samples / SAMPLE_RATE


class Recordings:
    """Prepared clips and their samples."""

    def __init__(self, folder: Path) -> None:
        rows = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
        self.clips = [
            Clip(**row | {"segments": tuple(Span(**span) for span in row["segments"])})
            for row in rows
        ]
        self._samples = np.memmap(folder / "samples.int16", np.int16, "r")

    def pcm(self, clip: Clip) -> Pcm:
        """(n_samples,) int16 at 16 kHz, read-only."""
        return self._samples[clip.first : clip.first + clip.n_samples]

    @property
    def duration_s(self) -> float:
        return sum(clip.duration_s for clip in self.clips)


def prepare(
    rows: Sequence[Row],
    folder: Path,
    language: str,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Decode the rows' files into a folder below `folder`, if that has not been done.

    Args:
        language: of rows that have none.
        say: gets a line now and then.

    Returns:
        The folder, for `Recordings`.

    Raises:
        TrainingError: files that cannot be read, or clips that are too long, too short or have
            times outside their file: a line for each.
    """
    target = folder / _digest(rows, language)
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _decode_all(rows, partial, language, say)
        with suppress(OSError):  # somebody else was first
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _digest(rows: Sequence[Row], language: str) -> str:
    digest = hashlib.sha256(language.encode())
    for row in rows:
        digest.update(repr(row).encode())
        with suppress(OSError):  # a missing file is told by whoever decodes it
            stat = row.audio.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _decode_all(
    rows: Sequence[Row], folder: Path, language: str, say: Callable[[str], None]
) -> None:
    faults: list[str] = []
    clips: list[Clip | None] = [None] * len(rows)
    by_file: dict[Path, list[int]] = {}
    for index, row in enumerate(rows):
        by_file.setdefault(row.audio, []).append(index)
    n_written = 0
    with (folder / "samples.int16").open("wb") as out:
        for number, (path, indices) in enumerate(by_file.items(), 1):
            try:
                n_samples = _decode(path, out.write)
            except DeploymentError as error:
                faults += [f"{rows[index].place}: {path}: {error}" for index in indices]
                continue
            for index in indices:
                try:
                    clips[index] = _clip(rows[index], n_written, n_samples, language)
                except ValueError as error:
                    faults.append(f"{rows[index].place}: {error}")
            n_written += n_samples
            if number % 1000 == 0:
                say(f"read {number} of {len(by_file)} files")
        out.flush()
        os.fsync(out.fileno())
    check(faults)
    content = json.dumps([asdict(clip) for clip in clips if clip], ensure_ascii=False)
    (folder / "clips.json").write_text(content, encoding="utf-8")


def _decode(path: Path, write: Callable[[bytes], object]) -> int:
    """Write a file's samples. Returns how many they are. A file that cannot be read whole is
    refused: text without its sound teaches a model to make text up."""
    report = AudioReport()
    n_samples = 0
    for block in read_audio(path, report=report):
        n_samples += len(block)
        write(block.tobytes())
    if report.warnings:
        raise DeploymentError(report.warnings[0].message)
    return n_samples


def _clip(row: Row, first: int, n_samples: int, language: str) -> Clip:
    start = round((row.start_s or 0.0) * SAMPLE_RATE)
    end = n_samples if row.end_s is None else round(row.end_s * SAMPLE_RATE)
    if end > n_samples + SAMPLE_RATE // 10 or start >= n_samples:
        raise ValueError(
            f"the file lasts {n_samples / SAMPLE_RATE:.2f} s, and ends before the clip"
        )
    end = min(end, n_samples)
    duration_s = (end - start) / SAMPLE_RATE
    if end - start > N_SAMPLES:
        raise ValueError(
            f"the clip lasts {duration_s:.1f} s, 30 s at most: cut it, or give start and end"
        )
    if duration_s < MIN_S:
        raise ValueError(f"the clip lasts {duration_s:.2f} s, at least {MIN_S:g} s needed")
    if row.segments and row.segments[-1].end_s > duration_s + 0.1:
        raise ValueError(f"a segment ends after the clip's {duration_s:.2f} s")
    spans = tuple(Span(s.start_s, min(s.end_s, duration_s), s.text) for s in row.segments)
    return Clip(
        place=row.place,
        first=first + start,
        n_samples=end - start,
        language=row.language or language,
        text=row.text,
        segments=spans,
        previous=row.previous,
    )


def join_rows(manifests: Sequence[Path], read: Callable[[Path], list[Row]]) -> list[Row]:
    """The rows of several manifests; the faults of all of them in one error."""
    rows: list[Row] = []
    faults: list[str] = []
    for path in manifests:
        try:
            rows += read(path)
        except TrainingError as error:
            faults += str(error).splitlines()
    check(faults)
    return rows
