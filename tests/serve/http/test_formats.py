"""Rendering: exact expected files, and properties of timestamps and cues."""

import json
import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.messages import Transcript, TranscriptSegment
from serve.http.formats import (
    to_json,
    to_text,
    to_verbose_json,
)
from serve.http.lines import LineFormat, LineWriter, format_timestamp, to_lines

LINE_FORMATS: tuple[LineFormat, ...] = get_args(LineFormat)


def segment(start_s: float, end_s: float, text: str) -> TranscriptSegment:
    return TranscriptSegment(
        start_s=start_s,
        end_s=end_s,
        text=text,
        tokens=(50364, 2425, 50414),
        temperature=0.2,
        avg_logprob=-0.25,
        compression_ratio=1.5,
        no_speech_prob=0.01,
        model="tiny",
        language="en",
    )


def transcript(*segments: TranscriptSegment) -> Transcript:
    return Transcript(
        text="Hello there. Tom & Jerry.",
        language="en",
        duration_s=3.2000000000000006,
        task="transcribe",
        segments=segments,
    )


HELLO = transcript(segment(0.0, 1.5, " Hello there."), segment(1.5, 3.2, " Tom & Jerry."))


class TestWholeFiles:
    def test_text_is_one_line(self) -> None:
        assert to_text(HELLO) == "Hello there. Tom & Jerry.\n"

    def test_txt_has_a_line_per_segment(self) -> None:
        assert to_lines(HELLO, "txt") == "Hello there.\nTom & Jerry.\n"

    def test_srt(self) -> None:
        assert to_lines(HELLO, "srt") == (
            "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
            "2\n00:00:01,500 --> 00:00:03,200\nTom & Jerry.\n\n"
        )

    def test_vtt(self) -> None:
        assert to_lines(HELLO, "vtt") == (
            "WEBVTT\n\n"
            "00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
            "00:00:01.500 --> 00:00:03.200\nTom &amp; Jerry.\n\n"
        )

    def test_json(self) -> None:
        assert to_json(HELLO) == {
            "text": "Hello there. Tom & Jerry.",
            "duration": 3.2,
            "languages": [{"code": "en"}],
        }

    def test_verbose_json(self) -> None:
        rendered = to_verbose_json(HELLO, "English")
        assert json.loads(json.dumps(rendered)) == {
            "task": "transcribe",
            "language": "english",
            "duration": 3.2,
            "text": "Hello there. Tom & Jerry.",
            "segments": [
                {
                    "id": 0,
                    "seek": 0,
                    "start": 0.0,
                    "end": 1.5,
                    "text": " Hello there.",
                    "tokens": [50364, 2425, 50414],
                    "temperature": 0.2,
                    "avg_logprob": -0.25,
                    "compression_ratio": 1.5,
                    "no_speech_prob": 0.01,
                    "language": "en",
                },
                {
                    "id": 1,
                    "seek": 150,
                    "start": 1.5,
                    "end": 3.2,
                    "text": " Tom & Jerry.",
                    "tokens": [50364, 2425, 50414],
                    "temperature": 0.2,
                    "avg_logprob": -0.25,
                    "compression_ratio": 1.5,
                    "no_speech_prob": 0.01,
                    "language": "en",
                },
            ],
        }

    def test_verbose_json_never_ends_before_the_start(self) -> None:
        rendered = to_verbose_json(transcript(segment(2.0, 1.0, "x")), "english")
        assert (rendered["segments"][0]["start"], rendered["segments"][0]["end"]) == (2.0, 2.0)

    @pytest.mark.parametrize(
        "line_format, expected", [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n\n")]
    )
    def test_no_segments(self, line_format: LineFormat, expected: str) -> None:
        assert to_lines(transcript(), line_format) == expected


class TestCues:
    def test_text_is_one_line(self) -> None:
        cue = LineWriter("srt").render(segment(0, 1, "\n one\r\n\r\ntwo\u2028three\t four \n\n"))
        assert cue == "1\n00:00:00,000 --> 00:00:01,000\none two three four\n\n"

    @pytest.mark.parametrize("line_format", LINE_FORMATS)
    def test_segments_without_text_are_dropped(self, line_format: LineFormat) -> None:
        said = (segment(0, 1, "a"), segment(2, 3, "b"))
        with_gaps = (segment(0, 0, ""), said[0], segment(1, 2, " \n\u00a0 "), said[1])
        assert to_lines(transcript(*with_gaps), line_format) == to_lines(
            transcript(*said), line_format
        )

    def test_an_arrow_in_the_text(self) -> None:
        arrow = segment(0, 1, "a --> b ---> c")
        assert LineWriter("srt").render(arrow).splitlines()[2] == "a -> b -> c"
        assert LineWriter("vtt").render(arrow).splitlines()[1] == "a --&gt; b ---&gt; c"

    def test_vtt_markup_is_escaped_and_nothing_else(self) -> None:
        cue = LineWriter("vtt").render(segment(0, 1, "<v Tom> R&D &amp; \"q\" 'q'"))
        assert cue.splitlines()[1] == "&lt;v Tom&gt; R&amp;D &amp;amp; \"q\" 'q'"

    @pytest.mark.parametrize("end_s", [5.0, 4.0, 0.0, 5.0004])
    def test_a_cue_ends_after_its_start(self, end_s: float) -> None:
        cue = LineWriter("vtt").render(segment(5.0, end_s, "x"))
        assert cue == "00:00:05.000 --> 00:00:05.001\nx\n\n"

    def test_unknown_format(self) -> None:
        with pytest.raises(ValueError, match="'docx'"):
            LineWriter("docx")  # type: ignore[arg-type]

    @pytest.mark.parametrize("line_format", LINE_FORMATS)
    def test_piece_by_piece_is_the_whole_file(self, line_format: LineFormat) -> None:
        whole = transcript(*HELLO.segments, segment(4, 4, ""), segment(4, 5, "end"))
        writer = LineWriter(line_format)
        pieces = [writer.header, *(writer.render(part) for part in whole.segments)]
        assert "".join(pieces) == to_lines(whole, line_format)
        assert all(piece == "" or piece.endswith("\n") for piece in pieces)


class TestTimestamps:
    @pytest.mark.parametrize(
        "time_s, expected",
        [
            (0, "00:00:00,000"),
            (0.9994, "00:00:00,999"),
            (0.9996, "00:00:01,000"),
            (59.9996, "00:01:00,000"),
            (3599.9996, "01:00:00,000"),
            (359_999.9994, "99:59:59,999"),
            (359_999.9996, "100:00:00,000"),
            (4_000_000.5, "1111:06:40,500"),
            (-0.5, "00:00:00,000"),
        ],
    )
    def test_rounding_carries_over(self, time_s: float, expected: str) -> None:
        assert format_timestamp(time_s, ",") == expected

    @given(st.integers(0, 10**10), st.sampled_from([",", "."]))
    def test_milliseconds_survive_the_round_trip(self, time_ms: int, mark: str) -> None:
        assert parse_ms(format_timestamp(time_ms / 1000, mark), mark) == time_ms

    @given(st.floats(0, 1e7), st.floats(0, 1e7))
    def test_order_and_half_a_millisecond_are_kept(self, one_s: float, two_s: float) -> None:
        one, two = (parse_ms(format_timestamp(time_s, "."), ".") for time_s in (one_s, two_s))
        assert abs(one - one_s * 1000) <= 0.5 + 1e-5
        assert (one <= two) == (one_s <= two_s) or one == two


def parse_ms(timestamp: str, mark: str) -> int:
    match = re.fullmatch(rf"(\d{{2,}}):([0-5]\d):([0-5]\d){re.escape(mark)}(\d{{3}})", timestamp)
    assert match, timestamp
    hours, minutes, seconds, ms = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + ms


SEGMENTS = st.builds(segment, st.floats(-1, 1e6), st.floats(-1, 1e6), st.text(max_size=30))


@given(st.lists(SEGMENTS, max_size=8))
def test_any_text_gives_cues_that_parse(segments: list[TranscriptSegment]) -> None:
    """Each file splits at its empty lines into whole cues, numbered without a gap."""
    said = [part for part in segments if part.text.split()]
    cues = to_lines(transcript(*segments), "srt").split("\n\n")
    assert cues.pop() == ""
    assert [cue.split("\n")[0] for cue in cues] == [str(i + 1) for i in range(len(said))]
    assert all(cue.count("-->") == 1 for cue in cues)
    vtt_header, *vtt_cues = to_lines(transcript(*segments), "vtt").split("\n\n")
    assert vtt_header == "WEBVTT" and vtt_cues.pop() == ""
    for times, text in [cue.split("\n") for cue in vtt_cues]:
        start, end = (parse_ms(time, ".") for time in times.split(" --> "))
        assert start < end
        assert "-->" not in text and "<" not in text and text.strip()
