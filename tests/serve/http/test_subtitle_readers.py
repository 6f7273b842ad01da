"""Subtitles as others read them: pysubs2, and webvtt-py, which shares no code with it."""

import html
import io
from collections.abc import Callable

import pysubs2
import pytest
import webvtt

from serve.http.cue_limits import CueLimits
from serve.http.lines import LineFormat, LineWriter
from tests.serve.http.test_cues import SENTENCES, shown, spoken

TEXTS = {
    "sentences": SENTENCES,
    "numbers": " 7\n8 00:01 12 men, 1,000 euros",
    "wide": " 今日 は 東京 タワー に 行きました。 とても 楽しかった です。",
    "right to left": " שלום עולם, מה שלומך היום? אני בסדר.",
}
MARKUP = " Tom & Jerry, <i>not</i> a tag; 1 < 2 and R&amp;D -> done --> over"
BRACES = r" She wrote {\b1} in C:\new\names and {left}"
Read = Callable[[str], list[tuple[int, int, list[str]]]]


def by_pysubs2(kind: str) -> Read:
    def read(text: str) -> list[tuple[int, int, list[str]]]:
        cues = pysubs2.SSAFile.from_string(text, format_=kind)
        return [(cue.start, cue.end, cue.plaintext.split("\n")) for cue in cues]

    return read


def by_webvtt(text: str) -> list[tuple[int, int, list[str]]]:
    is_vtt = text.startswith("WEBVTT")
    cues = webvtt.from_buffer(io.StringIO(text), format="vtt" if is_vtt else "srt")
    return [(_ms(cue.start), _ms(cue.end), cue.text.split("\n")) for cue in cues]


def _ms(time: str) -> int:
    hours, minutes, seconds = time.split(":")
    return round((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1000)


def written(kind: LineFormat, text: str, limits: CueLimits) -> str:
    writer = LineWriter(kind, limits)
    return writer.header + writer.render(spoken(text)) + writer.render(spoken(text, start_s=3_700))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(
    ("kind", "read"),
    [
        ("srt", by_pysubs2("srt")),
        ("srt", by_webvtt),
        ("vtt", by_pysubs2("vtt")),
        ("vtt", by_webvtt),
        ("ass", by_pysubs2("ass")),
    ],
    ids=["srt pysubs2", "srt webvtt-py", "vtt pysubs2", "vtt webvtt-py", "ass pysubs2"],
)
def test_they_read_what_was_said_when(kind: LineFormat, read: Read, text: str) -> None:
    cues = read(written(kind, text, CueLimits()))
    expected = shown(spoken(text)) + shown(spoken(text, start_s=3_700))
    assert [lines for _, _, lines in cues] == expected
    words = [word for start_s in (1.0, 3_700.0) for word in spoken(text, start_s=start_s).words]
    tolerance = 10 if kind == "ass" else 1
    assert abs(cues[0][0] - round(1000 * words[0].start_s)) <= tolerance
    assert abs(cues[-1][1] - round(1000 * words[-1].end_s)) <= tolerance
    assert all(start < end for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in zip(cues, cues[1:], strict=False))


@pytest.mark.parametrize("text", [MARKUP, BRACES])
def test_webvtt_keeps_all_characters(text: str) -> None:
    """Readers are to resolve the references to them (WebVTT, 6.4), which webvtt-py leaves to its
    callers."""
    cues = by_webvtt(written("vtt", text, CueLimits()))
    read = [[html.unescape(line) for line in lines] for _, _, lines in cues]
    assert read == 2 * shown(spoken(text))


def test_subrip_keeps_braces_and_ass_has_no_way_to() -> None:
    assert [lines for *_, lines in by_webvtt(written("srt", BRACES, CueLimits()))] == 2 * shown(
        spoken(BRACES)
    )
    cues = by_pysubs2("ass")(written("ass", BRACES, CueLimits()))
    assert cues[0][2] == ["She wrote (/b1) in C:/new/names and (left)"]
