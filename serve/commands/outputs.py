"""Writes transcripts: to the standard output one after another, or to a file each in a folder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from deployments.messages import Transcript, TranscriptSegment
from engine import language_name
from serve.commands.progress import Writer, json_line
from serve.http.cue_limits import CueLimits
from serve.http.formats import (
    to_json,
    to_verbose_json,
    to_words,
    warnings_object,
)
from serve.http.lines import LINE_FORMATS, LineFormat, LineWriter, to_lines

_SUFFIXES = {"verbose_json": ".json"}
"""Where it is not the format's name."""


class Outputs(Protocol):
    """Takes segments as they become final, and the whole transcript when a file is finished."""

    def segments(self, file: str, segments: Sequence[TranscriptSegment]) -> None: ...

    def finished(self, file: str, transcript: Transcript) -> None:
        """The file is finished, whole or cut short by an error.

        Raises:
            OSError: the transcript cannot be written.
        """

    def discarded(self, file: str) -> None:
        """The file failed before it gave any text."""


def render(
    transcript: Transcript,
    output_format: str,
    file: str | None = None,
    stream: object = None,
    limits: CueLimits | None = None,
) -> str:
    """A whole transcript in one of the command's formats; JSON and ctm name the file if it is
    given.

    Args:
        limits: of the cues of subtitles.
        stream: where the result will be written; None for a file in UTF-8.
    """
    if output_format not in ("json", "verbose_json"):
        line_format = cast(LineFormat, output_format)
        return to_lines(transcript, line_format, limits, Path(file or "audio").stem)
    body: dict[str, Any] = {} if file is None else {"file": file}
    if output_format == "json":
        body |= to_json(transcript)
    else:
        body |= to_verbose_json(transcript, language_name(transcript.language))
    if words := to_words(transcript.segments):
        body["words"] = words
    if warnings := warnings_object(transcript):
        body["warnings"] = warnings
    return json_line(body, stream) + "\n"


class StandardOutput:
    """Prints transcripts in the order of the files. The first unfinished file streams, the others
    wait for it.

    JSON formats print one line per file when it is finished. With several files, plain text has
    headings, and JSON has the key `file`.
    """

    def __init__(
        self,
        files: Sequence[str],
        output_format: str,
        stream: Writer | None = None,
        limits: CueLimits | None = None,
    ) -> None:
        self._files = list(files)
        self._limits = limits
        self._format = output_format
        self._stream = stream or sys.stdout
        self._streams_lines = output_format in LINE_FORMATS
        self._has_many = len(files) > 1
        self._waiting: dict[str, list[TranscriptSegment]] = {}
        self._finished: dict[str, Transcript | None] = {}
        self._writer: LineWriter | None = None

    def segments(self, file: str, segments: Sequence[TranscriptSegment]) -> None:
        self._waiting.setdefault(file, []).extend(segments)
        self._flush()

    def finished(self, file: str, transcript: Transcript) -> None:
        self._finished[file] = transcript
        self._flush()

    def discarded(self, file: str) -> None:
        self._finished[file] = None
        self._flush()

    def _flush(self) -> None:
        while self._files:
            file = self._files[0]
            segments = self._waiting.pop(file, [])
            if self._streams_lines and (segments or self._finished.get(file) is not None):
                self._print_lines(segments)
            if file not in self._finished:
                break
            transcript = self._finished.pop(file)
            if not self._streams_lines and transcript is not None:
                name = file if self._has_many else None
                self._stream.write(render(transcript, self._format, name, self._stream))
            self._writer = None
            self._files.pop(0)
        self._stream.flush()

    def _heading(self) -> str:
        return f"==> {self._files[0]} <==\n" if self._has_many and self._format == "txt" else ""

    def _print_lines(self, segments: Sequence[TranscriptSegment]) -> None:
        if self._writer is None:
            name = Path(self._files[0]).stem
            self._writer = LineWriter(cast(LineFormat, self._format), self._limits, name)
            self._stream.write(self._heading() + self._writer.header)
        for segment in segments:
            self._stream.write(self._writer.render(segment))


class OutputFolder:
    """Writes each finished file's transcript into the folder: `talk.mp3` gives `talk.srt`.

    If two inputs would give the same name, the input's suffix is kept: `talk.mp3.srt`.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(
        self,
        files: Sequence[str],
        output_format: str,
        folder: str,
        limits: CueLimits | None = None,
    ) -> None:
        self._format = output_format
        self._limits = limits
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._targets = self._name_targets(files)
        self._check_writable()

    def segments(self, file: str, segments: Sequence[TranscriptSegment]) -> None:
        """Nothing to do: a file is written when it is finished."""

    def finished(self, file: str, transcript: Transcript) -> None:
        target = self._targets[file]
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            named = target.stem if self._format == "ctm" else None
            content = render(transcript, self._format, named, limits=self._limits)
            partial.write_text(content, encoding="utf-8")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def discarded(self, file: str) -> None:
        """Nothing to do: there is nothing to write."""

    def _name_targets(self, files: Sequence[str]) -> dict[str, Path]:
        suffix = _SUFFIXES.get(self._format, f".{self._format}")
        stems = [self._stem(file) for file in files]
        targets: dict[str, Path] = {}
        taken: set[str] = set()
        for file, stem in zip(files, stems, strict=True):
            name = stem if stems.count(stem) == 1 else Path(file).name
            unique, count = name, 2
            while unique in taken:
                unique, count = f"{name}.{count}", count + 1
            taken.add(unique)
            targets[file] = self._folder / f"{unique}{suffix}"
        return targets

    def _stem(self, file: str) -> str:
        return "stdin" if file == "-" else Path(file).stem

    def _check_writable(self) -> None:
        probe = self._folder / f".murmur.{os.getpid()}.partial"
        probe.touch()
        probe.unlink()
