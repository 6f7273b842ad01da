"""Where transcripts go, and what is told meanwhile."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from deployments.messages import Transcript, TranscriptSegment
from serve.commands.outputs import OutputFolder, StandardOutput
from serve.commands.progress import BarProgress, JsonProgress


def segment(text: str, start_s: float = 0.0) -> TranscriptSegment:
    return TranscriptSegment(start_s, start_s + 1, text, (), 0.0, -0.1, 1.0, 0.0, "m")


def transcript(*texts: str) -> Transcript:
    segments = tuple(segment(text, float(index)) for index, text in enumerate(texts))
    return Transcript("".join(texts).strip(), "en", 9.0, "transcribe", segments)


def test_the_first_file_streams_and_the_second_waits() -> None:
    stream = io.StringIO()
    output = StandardOutput(["a", "b"], "txt", stream)
    output.segments("b", [segment(" b one")])
    assert stream.getvalue() == ""
    output.segments("a", [segment(" a one")])
    assert stream.getvalue() == "==> a <==\na one\n"
    output.finished("b", transcript(" b one"))
    output.finished("a", transcript(" a one"))
    assert stream.getvalue() == "==> a <==\na one\n==> b <==\nb one\n"


def test_one_file_has_no_heading() -> None:
    stream = io.StringIO()
    output = StandardOutput(["a"], "srt", stream)
    output.segments("a", [segment(" one"), segment(" two", 2.0)])
    output.finished("a", transcript(" one", " two"))
    assert [line for line in stream.getvalue().splitlines() if line.isdigit()] == ["1", "2"]


def test_a_failed_file_does_not_hold_up_the_next() -> None:
    stream = io.StringIO()
    output = StandardOutput(["bad", "good"], "json", stream)
    output.segments("good", [segment(" good")])
    output.finished("good", transcript(" good"))
    assert stream.getvalue() == ""
    output.discarded("bad")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"file": "good", "text": "good", "duration": 9.0, "languages": [{"code": "en"}]}
    ]


def test_an_empty_transcript_still_has_its_header() -> None:
    stream = io.StringIO()
    StandardOutput(["a"], "vtt", stream).finished("a", transcript())
    assert stream.getvalue() == "WEBVTT\n\n"


def test_a_folder_gets_whole_files_only(tmp_path: Path) -> None:
    output = OutputFolder(["x/a.wav", "y/a.wav", "-"], "txt", str(tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    for file in ("x/a.wav", "y/a.wav", "-"):
        output.finished(file, transcript(f" {file}"))
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert texts == {"a.wav.txt": "x/a.wav\n", "a.wav.2.txt": "y/a.wav\n", "stdin.txt": "-\n"}


def test_progress_is_json_lines_away_from_a_terminal() -> None:
    stream = io.StringIO()
    progress = JsonProgress(stream)
    progress.advance("a", 1.23456)
    progress.done("a", 2.0, language="it")
    progress.failed("b", "no such file")
    progress.close()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"event": "progress", "file": "a", "decoded_s": 1.235},
        {"event": "done", "file": "a", "duration_s": 2.0, "language": "it"},
        {"event": "error", "file": "b", "reason": "no such file"},
    ]


@pytest.mark.parametrize("n_files", [2, 3])
def test_progress_is_a_bar_on_a_terminal(n_files: int) -> None:
    stream = io.StringIO()
    progress = BarProgress(n_files, Console(file=stream, width=80), shares_terminal=False)
    progress.start()
    progress.failed("b", "no such file")
    progress.done("a", 61.0)
    progress.close()
    shown = stream.getvalue()
    assert "murmur: b: no such file\n" in shown and f"2/{n_files}" in shown and "61 s" in shown


def test_text_goes_above_the_bar_of_its_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """As it is, whole, though it looks like markup and is longer than a line."""
    terminal = io.StringIO()
    console = Console(file=terminal, width=40, force_terminal=True)
    progress = BarProgress(1, console, shares_terminal=True)
    text = "[bold]" + "long " * 20 + ":smile:\n"
    progress.start()
    StandardOutput(["a"], "txt", progress.text()).finished("a", transcript())
    progress.text().write(text)
    progress.close()
    assert text in terminal.getvalue() and capsys.readouterr().out == ""
    assert terminal.getvalue().rindex("0/1") > terminal.getvalue().index(text)


def test_text_goes_elsewhere_if_that_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = BarProgress(1, Console(file=io.StringIO()), shares_terminal=False)
    progress.text().write("text\n")
    assert capsys.readouterr().out == "text\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    JsonProgress(stream).failed("nö.wav", "日本")
    StandardOutput(["a"], "json", stream).finished("a", transcript(" привет"))
    stream.flush()
    event, answer = [json.loads(line) for line in written.getvalue().decode(encoding).splitlines()]
    assert (event["file"], event["reason"], answer["text"]) == ("nö.wav", "日本", "привет")
