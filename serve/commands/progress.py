"""What a command tells while it works: a bar on a terminal, JSON lines otherwise."""

import json
import sys
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from deployments.messages import AudioWarning


class Progress(Protocol):
    """Told of files as they advance; `close` before the program ends."""

    def advance(self, file: str, decoded_s: float) -> None:
        """`decoded_s` seconds of a file's audio were read so far."""

    def warned(self, file: str, warning: AudioWarning) -> None:
        """A file's audio could not be read whole; told before it is done."""

    def done(self, file: str, duration_s: float, **details: Any) -> None:
        """A file is finished."""

    def failed(self, file: str, reason: str) -> None:
        """A file failed."""

    def close(self) -> None: ...


class BarProgress:
    """A bar that counts files, with the seconds of audio read; errors as lines above it."""

    def __init__(self, n_files: int, stream: TextIO) -> None:
        self._stream = stream
        self._decoded_s: dict[str, float] = {}
        self._bar = tqdm(total=n_files, unit="file", file=stream, dynamic_ncols=True)

    def advance(self, file: str, decoded_s: float) -> None:
        self._decoded_s[file] = decoded_s
        self._bar.set_postfix_str(f"{sum(self._decoded_s.values()):.0f} s of audio")

    def warned(self, file: str, warning: AudioWarning) -> None:
        tqdm.write(f"murmur: {file}: {warning.message}", file=self._stream)

    def done(self, file: str, duration_s: float, **details: Any) -> None:
        self.advance(file, duration_s)
        self._bar.update()

    def failed(self, file: str, reason: str) -> None:
        tqdm.write(f"murmur: {file}: {reason}", file=self._stream)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class JsonProgress:
    """One JSON object a line: `{"event": "progress", "file": ..., ...}`. Events are `progress`,
    `warning`, `done` and `error`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

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
        print(json.dumps(event, ensure_ascii=False), file=self._stream, flush=True)


def open_progress(n_files: int) -> Progress:
    """Progress on the standard error, in the form that suits what it is."""
    if sys.stderr.isatty():
        return BarProgress(n_files, sys.stderr)
    return JsonProgress(sys.stderr)
