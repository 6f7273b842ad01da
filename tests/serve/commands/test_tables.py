"""Tables for programs and for people."""

import io
import sys

import pytest
from rich.console import Console

from serve.commands import tables

HEAD = ("name", *(f"column {n}" for n in range(12)))
ROWS = [("one [bold]", *("x" * 9 for _ in range(12))), ("two", *("y" * 9 for _ in range(12)))]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns."""
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(tables, "is_terminal", lambda: True)
    monkeypatch.setattr(tables, "terminal", lambda: console)
    return written


def test_programs_get_every_row_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says of terminals and colours."""
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("COLUMNS", "40")
    tables.show(tables.markdown(HEAD, ROWS))
    tables.say("word " * 100)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[4] == ("word " * 100).strip()
    assert lines[0].startswith("| name       | column 0  |")
    assert lines[1].startswith("|------------|-----------|")
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == list(ROWS[0])


def test_numbers_stand_on_the_right() -> None:
    table = tables.columns(("a", "n"), [("x", "1"), ("yy", "10")], numbers=[1])
    assert tables.plain(table).splitlines() == ["a    n", "x    1", "yy  10"]


def test_people_get_a_wide_table_in_parts(screen: io.StringIO) -> None:
    """None is wider than the screen; each has the rows' names, and no column is lost or cut."""
    for part in tables.in_parts(HEAD, ROWS):
        tables.show(part)
    text = screen.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(f" {title} " in text for title in HEAD) and "…" not in text
    assert text.count("one [bold]") == text.count("two ") > 1
    assert text.count("x" * 9) == 12


def test_people_get_words_whole(screen: io.StringIO) -> None:
    tables.say("incomprehensibilities " * 9)
    assert {word for word in screen.getvalue().split()} == {"incomprehensibilities"}


def test_no_standard_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert not tables.is_terminal()
