"""Renders transcripts as plain text, subtitles and tables, segment by segment as they become final.

Pure: no HTTP, no files, no models.
"""

import re
from collections.abc import Iterator
from typing import Literal

from deployments.messages import Transcript, TranscriptSegment
from engine import Word
from serve.http.cue_limits import CueLimits
from serve.http.cues import Cue, lay_out, text_of

LineFormat = Literal["txt", "srt", "vtt", "tsv", "ass", "ctm"]
"""Formats that can be written segment by segment."""
LINE_FORMATS: tuple[LineFormat, ...] = ("txt", "srt", "vtt", "tsv", "ass", "ctm")
TIMED_BY_WORDS: tuple[LineFormat, ...] = ("srt", "vtt", "ass", "ctm")
"""Formats for which words need times."""
_HEADERS = {
    "vtt": "WEBVTT\n\n",
    "tsv": "start\tend\ttext\n",
    "ass": (
        "[Script Info]\nScriptType: v4.00+\nWrapStyle: 2\nScaledBorderAndShadow: yes\n"
        "PlayResX: 384\nPlayResY: 288\n\n"
        "[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, "
        "OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, "
        "Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\n"
        "Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1"
        "\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, "
        "Text\n"
    ),
}


def to_lines(
    transcript: Transcript,
    line_format: LineFormat,
    limits: CueLimits | None = None,
    name: str = "audio",
) -> str:
    """The whole transcript in a format, rendered by a `LineWriter`."""
    writer = LineWriter(line_format, limits, name)
    return writer.header + "".join(writer.render(segment) for segment in transcript.segments)


class LineWriter:
    """Renders transcript segments one after another, as they become final.

    Write `header` first, then the result of each `render`, with nothing in between.

    - txt: a line per segment, as openai/whisper writes its .txt files.
    - srt, vtt, ass: cues as `serve.http.cues` lays them out. No line is empty, because that would
      end the cue. Cues without text are left out and get no number. A cue ends at least 1 ms after
      its start, because players ignore shorter ones and WebVTT forbids them.
    - tsv: start and end in milliseconds and the text, as openai/whisper writes them.
    - ctm: a line per word, as NIST's scoring tools read it: file, channel, start and length in
      seconds, word, probability.

    Args:
        limits: of cues; by default `CueLimits()`.
        name: the file in ctm.
    """

    def __init__(
        self, line_format: LineFormat, limits: CueLimits | None = None, name: str = "audio"
    ) -> None:
        if line_format not in LINE_FORMATS:
            raise ValueError(f"line_format={line_format!r}: must be {', '.join(LINE_FORMATS)}")
        self._format = line_format
        self._limits = limits or CueLimits()
        self._name = "_".join(name.split()) or "audio"
        self._n_written = 0

    @property
    def header(self) -> str:
        """Text before the first segment; the whole file if there is no segment."""
        return _HEADERS.get(self._format, "")

    def render(self, segment: TranscriptSegment) -> str:
        """The segment's lines with their line breaks, "" if it has no text."""
        if self._format in ("srt", "vtt", "ass"):
            return "".join(self._cue(*shown) for shown in self._shown(segment))
        if self._format == "ctm":
            return "".join(self._ctm(word) for word in segment.words)
        text = " ".join(segment.text.split())
        if not text:
            return ""
        if self._format == "tsv":
            return f"{_to_ms(segment.start_s)}\t{_to_ms(segment.end_s)}\t{text}\n"
        return f"{text}\n"

    def _shown(self, segment: TranscriptSegment) -> Iterator[tuple[float, float, Cue, Word | None]]:
        """What is shown from when to when, and the word that is underlined then."""
        for cue in lay_out(segment, self._limits):
            if not self._limits.highlight_words or not segment.words:
                yield cue.start_s, cue.end_s, cue, None
                continue
            at = cue.start_s
            for word in (word for line in cue.lines for word in line):
                if at < word.start_s:
                    yield at, word.start_s, cue, None
                yield word.start_s, word.end_s, cue, word
                at = word.end_s

    def _cue(self, start_s: float, end_s: float, cue: Cue, underlined: Word | None) -> str:
        lines = [self._line(line, underlined) for line in cue.lines]
        self._n_written += 1
        if self._format == "ass":
            times = ",".join(_format_ass(_to_ms(time_s)) for time_s in (start_s, end_s))
            text = "\\N".join(lines)
            return f"Dialogue: 0,{times},Default,,0,0,0,,{text}\n"
        mark = "," if self._format == "srt" else "."
        number = f"{self._n_written}\n" if self._format == "srt" else ""
        return f"{number}{_cue_times(start_s, end_s, mark)}\n" + "\n".join(lines) + "\n\n"

    def _line(self, words: tuple[Word, ...], underlined: Word | None) -> str:
        if underlined is None or not any(word is underlined for word in words):
            return self._escaped(text_of(words))
        opening, closing = (r"{\u1}", r"{\u0}") if self._format == "ass" else ("<u>", "</u>")
        parts = []
        for word in words:
            text = self._escaped(word.text)
            if word is underlined:
                blank = text[: len(text) - len(text.lstrip())]
                text = f"{blank}{opening}{text.strip()}{closing}"
            parts.append(text)
        return " ".join("".join(parts).split())

    def _escaped(self, text: str) -> str:
        if self._format == "vtt":
            return _escape_vtt(text)
        if self._format == "ass":
            return text.translate(_ASS_MARKUP)
        # SRT has no escapes. An arrow with fewer dashes reads the same and is no separator.
        return re.sub("--+>", "->", text)

    def _ctm(self, word: Word) -> str:
        text = "".join(word.text.split())
        if not text:
            return ""
        length_s = word.end_s - word.start_s
        times = f"{word.start_s:.3f} {length_s:.3f}"
        return f"{self._name} 1 {times} {text} {word.probability:.4f}\n"


_ASS_MARKUP = str.maketrans({"{": "(", "}": ")", "\\": "/"})
"""ASS has no escapes of braces and backslashes."""


def format_timestamp(time_s: float, decimal_mark: str) -> str:
    """`HH:MM:SS,mmm`, with more digits for the hours when needed. A negative time counts as 0."""
    return _format_ms(_to_ms(time_s), decimal_mark)


def _cue_times(start_s: float, end_s: float, decimal_mark: str) -> str:
    start_ms = _to_ms(start_s)
    end_ms = max(_to_ms(end_s), start_ms + 1)
    return f"{_format_ms(start_ms, decimal_mark)} --> {_format_ms(end_ms, decimal_mark)}"


def _to_ms(time_s: float) -> int:
    return max(0, round(time_s * 1000))


def _format_ms(time_ms: int, decimal_mark: str) -> str:
    # Integer arithmetic: rounding each field on its own could give 00:00:59.1000.
    seconds, ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{decimal_mark}{ms:03d}"


def _format_ass(time_ms: int) -> str:
    """`H:MM:SS.cc`."""
    seconds, hundredths = divmod(round(time_ms / 10), 100)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}.{hundredths:02d}"


def _escape_vtt(text: str) -> str:
    """Escape WebVTT's markup. Escaping `>` also covers the arrow `-->`, which would end a cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
