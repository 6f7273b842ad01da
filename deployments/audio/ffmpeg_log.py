"""What ffmpeg says on stderr, line by line in bounded memory: lengths, streams and complaints.

Expects `-loglevel level+info`, whose lines bear their level in brackets. The file's own tags pass
through here too, indented further than the lines matched; a tag that forged one could only bring
its own file to be refused, or its cut to be overlooked.
"""

import re
from collections import deque

_MAX_LINE_BYTES = 4_096
_MAX_REASON_CHARS = 200

# ffmpeg rounds `Duration` to 10 ms, and sample rates, frame sizes and a clock drift of a few
# hundred ppm move an honest one: less than 0.25 s + 0.5 %. Whoever cuts a file loses more.
_TOLERANCE_S = 0.25
_TOLERANCE_SHARE = 0.005

_INPUT = re.compile(r"^\[info\] Input #0, (\S+), from ")
_DURATION = re.compile(
    r"^\[info\]   Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)(?:, start: (-?\d+\.\d+))?"
)
_VIDEO = re.compile(r"^\[info\]   Stream #0:\S+ Video: (?!.*\(attached pic\))")
_COMPLAINT = re.compile(r"^(?:\[[^\]]+\] )*?\[(?:error|fatal|panic)\] (.+)$")
_ESTIMATE = re.compile(r"\[warning\] Estimating duration from bitrate")
_ENDS_EARLY = re.compile(r"File ended prematurely|partial file")
_BROKE_OFF = "Error during demuxing"
_SAYS_NOTHING = re.compile(r"^Error opening (input|output) files?|^Error while|^Conversion failed")


class FfmpegLog:
    """Takes stderr as it arrives and keeps only what the questions below need."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._complaints: deque[str] = deque(maxlen=20)
        self._container = ""
        self._duration_s: float | None = None
        self._is_estimate = False
        self._has_video = False
        self._ends_early = False
        self.broke_off = False
        """ffmpeg could not read on. Its exit status may be 0 all the same."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of stderr."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._extend_line(end)
            self._take(self._line.decode("utf-8", "replace").rstrip("\r"))
            self._line.clear()
        self._extend_line(rest)

    @property
    def exact_duration_s(self) -> float | None:
        """The length of the audio where the file states it, not ffmpeg's guess from a bit rate.

        None too where there is video, whose length it may be.
        """
        return None if self._is_estimate or self._has_video else self._duration_s

    def missing_s(self, decoded_s: float) -> float:
        """How far `decoded_s` clearly falls short of the stated length, 0 if it does not.

        Video may outlast its sound and a Matroska file may pause (silence that was never sent),
        so for both ffmpeg must also have noticed that the file itself breaks off.
        """
        if self._duration_s is None or self._is_estimate:
            return 0.0
        needs_notice = self._has_video or "matroska" in self._container
        if needs_notice and not self._ends_early:
            return 0.0
        short_s = self._duration_s - decoded_s
        return short_s if short_s > _TOLERANCE_S + _TOLERANCE_SHARE * self._duration_s else 0.0

    @property
    def reason(self) -> str:
        """Why it failed, one line. ffmpeg is given a descriptor, so it has no path to tell."""
        text = " ".join(self._complaints)
        if "matches no streams" in text:
            return "it has no audio stream"
        if "Format not on whitelist" in text:
            return "its container format is not accepted"
        useful = [line for line in self._complaints if not _SAYS_NOTHING.search(line)]
        lines = useful or list(self._complaints) or ["unknown reason"]
        return lines[0][:_MAX_REASON_CHARS]

    def mentions(self, text: str) -> bool:
        """Whether one of the last complaints contains `text`."""
        return any(text in line for line in self._complaints)

    def _extend_line(self, data: bytes) -> None:
        self._line += data[: _MAX_LINE_BYTES - len(self._line)]

    def _take(self, line: str) -> None:
        if match := _INPUT.match(line):
            self._container = match[1]
        elif match := _DURATION.match(line):
            hours, minutes, seconds, start_s = match.groups()
            end_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            # Matroska counts the length from 0, also where the first sound comes later. The length
            # of an AVI that was written to a pipe is made up.
            if self._container != "avi":
                self._duration_s = end_s - max(0.0, float(start_s or 0))
        elif _VIDEO.match(line):
            self._has_video = True
        elif match := _COMPLAINT.match(line):
            self._complaints.append(match[1])
            self._ends_early |= _ENDS_EARLY.search(match[1]) is not None
            self.broke_off |= match[1].startswith(_BROKE_OFF)
        elif _ESTIMATE.search(line):
            self._is_estimate = True
