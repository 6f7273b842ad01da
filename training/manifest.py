"""Manifests: which clips there are, and what is said in them.

JSON lines or CSV. A row has `audio` (a path, seen from the manifest's folder) and `text`; it may
have `start` and `end` (seconds: the part of the file that is meant), `language`, `previous` (what
was said before it), and in JSON lines `segments`: `[{"start", "end", "text"}]`, in seconds from the
clip's beginning, in the place of `text`.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

_FIELDS = ("audio", "text", "start", "end", "language", "previous", "segments")
_MAX_FAULTS = 20
_NAMES = ("manifest.jsonl", "manifest.csv")


@dataclass(frozen=True, slots=True)
class Span:
    """What is said between two times, in seconds."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a manifest.

    Attributes:
        place: the manifest and the number of the line, for messages.
        start_s, end_s: the part of the file; None: its beginning or end.
        segments: in seconds from the clip's beginning; none: the text has no times of its own.
    """

    place: str
    audio: Path
    text: str
    start_s: float | None = None
    end_s: float | None = None
    language: str | None = None
    previous: str | None = None
    segments: tuple[Span, ...] = ()


def read_manifest(path: Path) -> list[Row]:
    """The rows of a manifest, or of the one in a folder.

    Raises:
        TrainingError: it cannot be read, is empty, or has rows with faults: a line for each.
    """
    path = _file(path)
    rows, faults = [], []
    for place, fields in _lines(path):
        try:
            rows.append(_row(place, path.parent, fields))
        except ValueError as error:
            faults.append(f"{place}: {error}")
    if not rows and not faults:
        raise TrainingError(f"{path}: the manifest has no rows")
    check(faults)
    return rows


def check(faults: list[str]) -> None:
    """Raises TrainingError with the first faults if there are any."""
    if faults:
        more = len(faults) - _MAX_FAULTS
        also = [f"and {more} more"] if more > 0 else []
        raise TrainingError("\n".join([*faults[:_MAX_FAULTS], *also]))


def _file(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in _NAMES if (path / name).is_file()]
        if len(found) != 1:
            raise TrainingError(f"{path}: the folder must hold one of {' and '.join(_NAMES)}")
        path = found[0]
    if path.suffix not in (".jsonl", ".csv"):
        raise TrainingError(f"{path}: a manifest is a .jsonl or a .csv file")
    return path


def _lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and fields of each row that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                for fields in (reader := csv.DictReader(file)):
                    given = {name: value for name, value in fields.items() if value}
                    yield f"{path}:{reader.line_num}", given
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _object(f"{path}:{number}", line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error


def _object(place: str, line: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{place}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise TrainingError(f"{place}: not a JSON object")
    return fields


def _row(place: str, folder: Path, fields: Mapping[str, Any]) -> Row:
    unknown = [str(name) for name in fields if name not in _FIELDS]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(_FIELDS)}")
    segments = _segments(fields.get("segments"))
    if segments and "text" in fields:
        raise ValueError("give text or segments, not both")
    text = " ".join(s.text for s in segments) if segments else _text(fields, "text")
    start_s, end_s = _seconds(fields.get("start")), _seconds(fields.get("end"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ValueError(f"end {end_s:g} must be after start {start_s or 0.0:g}")
    return Row(
        place=place,
        audio=folder / _text(fields, "audio"),
        text=text,
        start_s=start_s,
        end_s=end_s,
        language=_text(fields, "language") if fields.get("language") else None,
        previous=_text(fields, "previous") if fields.get("previous") else None,
        segments=segments,
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that is not empty")
    return value.strip()


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0) or isinstance(value, bool):
        raise ValueError(f"times must be seconds from 0, not {value!r}")
    return seconds


def _segments(value: Any) -> tuple[Span, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("segments must be a list of objects with start, end and text")
    spans, before = [], 0.0
    for each in value:
        start_s, end_s = _seconds(each.get("start")), _seconds(each.get("end"))
        if start_s is None or end_s is None or not before <= start_s < end_s:
            raise ValueError("segments need start and end, and must not overlap")
        spans.append(Span(start_s, end_s, _text(each, "text")))
        before = end_s
    return tuple(spans)
