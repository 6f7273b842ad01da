"""Reads ffmpeg's stderr, line by line in bounded memory: durations, streams and complaints.

Expects `-loglevel level+info`, which puts each line's level in brackets. The file's own tags pass
through here too, indented further than the lines that are matched. A tag that forged such a line
could only get its own file refused, or hide that this file is truncated.
"""

import re
from collections import deque

from deployments.audio.priming import StreamFacts
from deployments.audio.refusals import in_our_words

_MAX_LINE_BYTES = 4_096
_MAX_STREAMS = 1_000

# ffmpeg rounds `Duration` to 10 ms. Sample rates, frame sizes and a clock drift of a few hundred
# ppm also change the length of an intact file, but by less than 0.25 s + 0.5 %. A cut loses more.
_TOLERANCE_S = 0.25
_TOLERANCE_SHARE = 0.005
# With fewer bits per second over the whole file, the stated length comes from a wild timestamp.
_MIN_BIT_RATE = 1_000
_HAS_NO_TIMESTAMPS = frozenset(["flac", "mp3", "wav", "w64", "aiff", "au", "caf", "wv", "tta"])
_COUNTS_FROM_0 = frozenset(["matroska", "ogg", "asf"])

_INPUT = re.compile(r"^\[info\] Input #0, (\S+), from ")
_DURATION = re.compile(
    r"^\[info\]   Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)(?:, start: (-?\d+\.\d+))?"
)
_STREAM = re.compile(r"^\[info\]   Stream #0:(\d+)\S* (Audio|Video): (\w+)(.*)$")
_STREAM_START = re.compile(r", start (-?\d+\.\d+)")
_READING = re.compile(r"^\[info\] Stream mapping:")
_COMPLAINT = re.compile(r"^(?:\[[^\]]+\] )*?\[(?:error|fatal|panic)\] (.+)$")
# Errors of the demuxer, and packets that a decoder could not use. Other messages of decoders are
# often harmless.
_DAMAGE = re.compile(
    r"^\[in#0/[^\]]+\] \[error\]|\] Error submitting packet to decoder|\] Decoding error"
    r"|\] corrupt decoded frame"
)
# ffmpeg also writes this about tags between joined MP3s. `frame_clock` finds lost MP3 frames.
_NO_FRAME = re.compile(r"^\[mp3\w* @ .*\] Header missing")
_EARLY_DAMAGE = re.compile(r"^\[in#0[^\]]*\] \[error\]")
# Packets of a transport stream are lost or broken, of whichever of its streams.
_LOST_PACKETS = re.compile(
    r"^\[in#0/mpegts [^\]]*\] \[warning\] (?:changing packet size|PES packet size|Packet corrupt)"
)
_ESTIMATE = re.compile(r"\[warning\] Estimating duration from bitrate")
_ENDS_EARLY = re.compile(r"File ended prematurely|partial file")
_BROKE_OFF = "Error during demuxing"


class FfmpegLog:
    """Takes stderr as it arrives, and keeps only what its methods and attributes need.

    Args:
        track: number of the audio stream that is read, from 0.
    """

    def __init__(self, track: int = 0) -> None:
        self._track = track
        self._line = bytearray()
        self._complaints: deque[str] = deque(maxlen=20)
        self._container = ""
        self._start_s = 0.0
        self._end_s: float | None = None
        self._is_estimate = False
        self._audio_codecs: dict[int, str] = {}  # by index; a stream of two programs comes twice
        self._video_start_s: float | None = None
        self._has_video = False
        self._ends_early = False
        self._is_reading = self._is_no_frame = False
        self.broke_off = False
        """Whether ffmpeg could not read on. Its exit status may be 0 nevertheless."""
        self.complained_early = False
        """Whether the demuxer complained while ffmpeg looked for streams. It may not complain again
        when ffmpeg reads on from there. Often harmless, but it explains a gap."""
        self.n_lost_packets = 0
        """Number of complaints about packets that may be another stream's. They explain a gap."""
        self.n_damages = 0
        """Number of complaints about packets since the file was opened."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of stderr."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._extend_line(end)
            self._take(self._line.decode("utf-8", "replace").rstrip("\r"))
            self._line.clear()
        self._extend_line(rest)

    def exact_duration_s(self, n_bytes: int) -> float | None:
        """The length of the audio if the file states it; never ffmpeg's guess from a bit rate.

        Also None if there is video, because the length may be the video's, and if the length is
        absurd for a file of `n_bytes`, because one wild timestamp may have caused it.
        """
        duration_s = self._duration_s
        if duration_s is None or self._has_video:
            return None
        is_absurd = 8 * n_bytes < _MIN_BIT_RATE * duration_s
        return None if is_absurd and self._container not in _HAS_NO_TIMESTAMPS else duration_s

    def missing_s(self, reached_s: float) -> float:
        """Seconds by which the sound clearly falls short of the stated length; 0 if it does not.

        Video may be longer than its sound, and a Matroska file may end in a pause (silence that was
        never sent). So for both, ffmpeg must also have noticed that the file itself breaks off.

        Args:
            reached_s: where the sound ends, in seconds since the file's clock began.
        """
        duration_s = self._duration_s
        if duration_s is None:
            return 0.0
        needs_notice = self._has_video or self._container == "matroska"
        if needs_notice and not self._ends_early:
            return 0.0
        short_s = duration_s - reached_s
        tolerance_s = _TOLERANCE_S + _TOLERANCE_SHARE * duration_s
        # Fragmented MP4 may count its length from 0, even where the recording begins later.
        is_start = self._container == "mov" and abs(short_s - self._start_s) <= tolerance_s
        return short_s if short_s > tolerance_s and not is_start else 0.0

    def facts(self, trims_delay: bool) -> StreamFacts:
        """What ffmpeg said about the file and the stream that is read; see `StreamFacts`."""
        clock_start_s = self._start_s if len(self._audio_codecs) > 1 else None
        if self._has_video:
            clock_start_s = self._video_start_s
        return StreamFacts(self._container, self._codec, clock_start_s, trims_delay)

    @property
    def container(self) -> str:
        """The first name of the file's demuxer."""
        return self._container

    @property
    def start_s(self) -> float:
        """When the file's clock begins."""
        return self._start_s

    @property
    def ends_early(self) -> bool:
        """Whether ffmpeg noticed that the file itself breaks off."""
        return self._ends_early

    @property
    def reason(self) -> str:
        """Why decoding failed, in one line. ffmpeg gets a descriptor, so it has no path to
        reveal."""
        return in_our_words(self._complaints)

    def mentions(self, text: str) -> bool:
        """Whether one of the last complaints contains `text`."""
        return any(text in line for line in self._complaints)

    @property
    def _duration_s(self) -> float | None:
        """The stated length; None for AVI, because an AVI written to a pipe states a made-up
        one."""
        if self._end_s is None or self._is_estimate or self._container == "avi":
            return None
        # These containers count the length from 0, even where the first sound comes later. For Ogg
        # Vorbis, ffmpeg has already subtracted the start.
        is_subtracted = (self._container, self._codec) == ("ogg", "vorbis")
        is_end = self._container in _COUNTS_FROM_0 and self._end_s >= self._start_s > 0
        is_end &= not is_subtracted
        return self._end_s - self._start_s if is_end else self._end_s

    @property
    def _codec(self) -> str:
        """Of the stream that is read."""
        codecs = [codec for _, codec in sorted(self._audio_codecs.items())]
        return codecs[self._track] if self._track < len(codecs) else ""

    def _extend_line(self, data: bytes) -> None:
        self._line += data[: _MAX_LINE_BYTES - len(self._line)]

    def _take(self, line: str) -> None:
        if _LOST_PACKETS.match(line):
            self.n_lost_packets += 1
        elif self._is_reading:
            self._take_damage(line)
        elif _EARLY_DAMAGE.match(line):
            self.complained_early = True
        elif match := _INPUT.match(line):
            self._container = match[1].partition(",")[0]
        elif match := _DURATION.match(line):
            hours, minutes, seconds, start_s = match.groups()
            self._end_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
            self._start_s = float(start_s or 0)
        elif match := _STREAM.match(line):
            self._take_stream(*match.groups())
        elif _READING.match(line):
            self._is_reading = True
        if match := _COMPLAINT.match(line):
            self._complaints.append(match[1])
            self._ends_early |= _ENDS_EARLY.search(match[1]) is not None
            self.broke_off |= match[1].startswith(_BROKE_OFF)
        elif _ESTIMATE.search(line):
            self._is_estimate = True

    def _take_damage(self, line: str) -> None:
        if self._container == "mp3" and _NO_FRAME.search(line):
            self._is_no_frame = True
        elif _DAMAGE.search(line):
            self.n_damages += not self._is_no_frame
            self._is_no_frame = False

    def _take_stream(self, index: str, kind: str, codec: str, details: str) -> None:
        if kind == "Audio" and len(self._audio_codecs) < _MAX_STREAMS:
            self._audio_codecs[int(index)] = codec
        if kind == "Video" and "(attached pic)" not in details and not self._has_video:
            self._has_video = True
            start = _STREAM_START.search(details)
            self._video_start_s = float(start[1]) if start else self._start_s
