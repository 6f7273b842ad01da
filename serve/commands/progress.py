"""Progress of a command while it works: a bar on a terminal, JSON lines otherwise."""

import codecs
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from deployments.messages import AudioWarning


class Writer(Protocol):
    """Takes text in whole lines."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class Progress(Protocol):
    """Shows how files advance, between `start` and `close`."""

    def text(self) -> Writer:
        """A writer to the standard output that does not disturb the progress display."""

    def start(self) -> None: ...

    def advance(self, file: str, decoded_s: float) -> None:
        """`decoded_s` seconds of a file's audio have been read so far."""

    def warned(self, file: str, warning: AudioWarning) -> None:
        """A file's audio could not be read whole. Called before `done`."""

    def done(self, file: str, duration_s: float, **details: Any) -> None:
        """A file is finished."""

    def failed(self, file: str, reason: str) -> None:
        """A file failed."""

    def close(self) -> None: ...


class BarProgress:
    """A bar that counts files and shows the seconds of audio read; errors are lines above it.

    Args:
        console: of a terminal.
        shares_terminal: the standard output is on the same terminal, so text must go above the bar.
    """

    def __init__(self, n_files: int, console: Console, shares_terminal: bool) -> None:
        self._console = console
        self._shares_terminal = shares_terminal
        self._decoded_s: dict[str, float] = {}
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files, {task.fields[audio]} of audio"),
            TimeElapsedColumn(),
            console=console,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=n_files, audio="0 s")

    def text(self) -> Writer:
        return _AboveBar(self._console) if self._shares_terminal else sys.stdout

    def start(self) -> None:
        self._bar.start()

    def advance(self, file: str, decoded_s: float) -> None:
        self._decoded_s[file] = decoded_s
        self._bar.update(self._task, audio=f"{sum(self._decoded_s.values()):.0f} s")

    def warned(self, file: str, warning: AudioWarning) -> None:
        self._say(f"murmur: {file}: {warning.message}\n")

    def done(self, file: str, duration_s: float, **details: Any) -> None:
        self.advance(file, duration_s)
        self._bar.advance(self._task)

    def failed(self, file: str, reason: str) -> None:
        self._say(f"murmur: {file}: {reason}\n")
        self._bar.advance(self._task)

    def close(self) -> None:
        self._bar.stop()

    def _say(self, line: str) -> None:
        _AboveBar(self._console).write(line)


class _AboveBar:
    """Writes text to a console without markup or wrapping, above the bar if there is one."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> None:
        self._console.out(text, end="", highlight=False)

    def flush(self) -> None:
        """Nothing to do: a console does not buffer."""


class JsonProgress:
    """One JSON object a line: `{"event": "progress", "file": ..., ...}`. Events are `progress`,
    `warning`, `done` and `error`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def text(self) -> Writer:
        return sys.stdout

    def start(self) -> None:
        """Nothing to do."""

    def advance(self, file: str, decoded_s: float) -> None:
        self._write(event="progress", file=file, decoded_s=round(decoded_s, 3))

    def warned(self, file: str, warning: AudioWarning) -> None:
        self._write(event="warning", file=file, **asdict(warning))

    def done(self, file: str, duration_s: float, **details: Any) -> None:
        self._write(event="done", file=file, duration_s=round(duration_s, 3), **details)

    def failed(self, file: str, reason: str) -> None:
        self._write(event="error", file=file, reason=reason)

    def close(self) -> None:
        self._stream.flush()

    def _write(self, **event: Any) -> None:
        print(json_line(event, self._stream), file=self._stream, flush=True)


def json_line(value: Mapping[str, Any], stream: object) -> str:
    """JSON for a stream. Characters that its encoding may lack are escaped here, because the
    stream's own escapes would not be valid JSON."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return json.dumps(value, ensure_ascii=codecs.lookup(encoding).name != "utf-8")


def open_progress(n_files: int) -> Progress:
    """Progress on the standard error: a bar if that is a terminal, else JSON lines."""
    if not sys.stderr.isatty():
        return JsonProgress(sys.stderr)
    console = Console(file=sys.stderr, force_terminal=True, highlight=False)
    return BarProgress(n_files, console, _on_one_terminal(sys.stdout, sys.stderr))


def _on_one_terminal(one: TextIO | None, other: TextIO) -> bool:
    if one is None or not one.isatty():
        return False
    return os.ttyname(one.fileno()) == os.ttyname(other.fileno())
