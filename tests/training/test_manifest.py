"""Manifests: what a row may say, and one clear line for each fault."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import TrainingError
from training.manifest import Span, read_manifest


def _write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_json_lines(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.jsonl",
        {"audio": "x.wav", "text": " Hello. "},
        {
            "audio": "/y.mp3",
            "start": 1,
            "end": 3.5,
            "language": "es",
            "previous": "Antes.",
            "segments": [
                {"start": 0.5, "end": 1, "text": "Uno."},
                {"start": 1, "end": 2, "text": "Dos."},
            ],
        },
    )
    first, second = read_manifest(path)
    assert (first.audio, first.text, first.segments) == (tmp_path / "x.wav", "Hello.", ())
    assert (first.start_s, first.end_s, first.language) == (None, None, None)
    assert (second.audio, second.text) == (Path("/y.mp3"), "Uno. Dos.")
    assert (second.start_s, second.end_s) == (1.0, 3.5)
    assert (second.language, second.previous) == ("es", "Antes.")
    assert second.segments == (Span(0.5, 1.0, "Uno."), Span(1.0, 2.0, "Dos."))


def test_rows_of_csv_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        'audio,text,start,end\nx.wav,"One, two.",,\nx.wav,Three.,2,3\n', encoding="utf-8-sig"
    )
    first, second = read_manifest(tmp_path)
    assert (first.text, first.start_s) == ("One, two.", None)
    assert (second.start_s, second.end_s) == (2.0, 3.0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio": "x.wav"}, "text must be a text that is not empty"),
        ({"audio": "x.wav", "text": "  "}, "text must be a text that is not empty"),
        ({"text": "a"}, "audio must be a text"),
        ({"audio": "x.wav", "text": "a", "txt": "b"}, "unknown field 'txt'"),
        ({"audio": "x.wav", "text": "a", "start": -1}, "times must be seconds from 0, not -1"),
        ({"audio": "x.wav", "text": "a", "start": True}, "times must be seconds from 0, not True"),
        ({"audio": "x.wav", "text": "a", "end": "soon"}, "times must be seconds from 0"),
        ({"audio": "x.wav", "text": "a", "start": 2, "end": 2}, "end 2 must be after start 2"),
        ({"audio": "x.wav", "text": "a", "segments": [{}]}, "segments need start and end"),
        ({"audio": "x.wav", "segments": "a"}, "segments must be a list of objects"),
    ],
)
def test_faults_of_a_row(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = _write(tmp_path / "a.jsonl", {"audio": "x.wav", "text": "fine"}, row)
    with pytest.raises(TrainingError) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jsonl", *({"audio": "x.wav"} for _ in range(23)))
    with pytest.raises(TrainingError) as error:
        read_manifest(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 21 and lines[-1] == "and 3 more"


def test_faults_of_a_file(tmp_path: Path) -> None:
    cases = {
        "missing.jsonl": "cannot be read",
        "empty.jsonl": "the manifest has no rows",
        "list.jsonl": "not a JSON object",
        "broken.jsonl": "not JSON",
        "a.txt": "a manifest is a .jsonl or a .csv file",
    }
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "folder").mkdir()
    for name, words in cases.items():
        with pytest.raises(TrainingError, match=words):
            read_manifest(tmp_path / name)
    with pytest.raises(TrainingError, match="must hold one of manifest.jsonl and manifest.csv"):
        read_manifest(tmp_path / "folder")
