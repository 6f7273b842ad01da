"""Frames of every format that is not plain PCM, on the file's own clock, through ffmpeg.

`ffmpeg_process` gives decoded samples and their timestamps, `priming` says where the sound begins,
and `timeline` says which silence belongs in between. Here they become one stream of frames.
"""

import os
import struct
from typing import IO

import numpy as np
import numpy.typing as npt

from deployments.audio.cut_file import ends_inside_a_unit, lacks_index
from deployments.audio.damage import DamageList
from deployments.audio.ffmpeg_process import FfmpegProcess
from deployments.audio.frame_clock import FrameClock
from deployments.audio.iso_media import trims_delay
from deployments.audio.mpeg_frames import FRAMED
from deployments.audio.ogg_flac import end_of_first_page
from deployments.audio.priming import find_beginning, is_empty
from deployments.audio.report import AudioReport
from deployments.audio.timeline import Step, Timeline
from deployments.audio.truncation import Truncation, promised
from deployments.audio.unread import find_unread
from deployments.errors import DeploymentError, NotAudioError, TruncatedAudioError

_SAMPLE_BYTES = 4
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the samples, size, encoding, rate, channels
_AU_FLOAT_32 = 6


class FfmpegReader:
    """Reads float32 frames, shape (n_frames, n_channels), of one of a file's audio streams.

    Args:
        file: a real file that nobody else reads meanwhile, because ffmpeg shares its position.
        report: receives the stretches that cannot be decoded when `truncation` is called.
        stall_timeout_s, total_timeout_s, n_threads, track, keeps_padding: see `FfmpegProcess`.

    Raises:
        NotAudioError: ffmpeg finds no audio that it may read.
        TruncatedAudioError: the file is cut off before anything that can be decoded.
        AudioDecodeTimeoutError: one of the two timeouts has passed.
        DeploymentError: ffmpeg is missing or too old, or was killed from outside.
    """

    def __init__(
        self,
        file: IO[bytes],
        report: AudioReport,
        stall_timeout_s: float,
        total_timeout_s: float,
        n_threads: int = 1,
        track: int = 0,
        keeps_padding: bool = False,
    ) -> None:
        self._file = file
        self._report = report
        self._damages = DamageList()
        self._n_damages = self._n_lost_runs = self._n_lost_packets = 0
        self._n_bytes = os.fstat(file.fileno()).st_size
        # What reads the file itself does so before ffmpeg, which shares its position.
        self._trims_delay = trims_delay(file)
        self._first_page_end = end_of_first_page(file)
        self._process = FfmpegProcess(
            file, track, n_threads, stall_timeout_s, total_timeout_s, keeps_padding
        )
        self._log = self._process.log
        self._ended = False
        self._frame_clock: FrameClock | None = None
        self._first_stamp = 0
        # Stamps from the first one on are later by the second, by which the clock only seems to
        # leap (`ogg_flac`).
        self._false_leap = (0, 0)
        self._n_stamped = 0  # samples whose stamps have come, without the dropped ones
        self._n_dropped = 0
        self._n_taken = 0
        try:
            self.sample_rate, self.n_channels = self._read_header()
            self._frame_bytes = _SAMPLE_BYTES * self.n_channels
            self._timeline = self._begin()
        except BaseException:
            self.close()
            raise
        self.expected_s = self._log.exact_duration_s(self._n_bytes)
        if self.expected_s is not None:
            self.expected_s -= self._false_leap[1] / self.sample_rate

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """Some frames, up to about `n_frames`; none at the end. `truncation` tells what ended
        it."""
        step = self._next_step(n_frames)
        if step is None:
            return np.zeros((0, self.n_channels), np.float32)
        if step.silence > 0:
            n_silent = min(step.silence, n_frames)
            if step.silence > n_silent:
                self._timeline.push_back(Step(step.silence - n_silent, 0, 0))
            return np.zeros((n_silent, self.n_channels), np.float32)
        if not step.is_plain:
            return _stretch(self._take(step.n_in), step.n_out)
        n_plain = min(step.n_in, n_frames)
        if step.n_in > n_plain:
            self._timeline.push_back(Step(0, step.n_in - n_plain, step.n_in - n_plain))
        return self._take(n_plain)

    def truncation(self, decoded_s: float) -> Truncation | None:
        """What is wrong after the last frame: ffmpeg gave up, the file promises more, or it ends
        inside one of its own units.

        Args:
            decoded_s: seconds of audio that `read` has returned in all.

        Raises:
            DeploymentError: ffmpeg was killed from outside.
        """
        breaks_at_end = self._damages.take_complaint_near(decoded_s)
        truncation = self._truncation(self._process.wait(), decoded_s, breaks_at_end)
        self._damages.tell(self._report)
        if (unread := find_unread(self._file, self._log.container)) is not None:
            self._report.warn("damaged", unread)
        return truncation

    def close(self) -> None:
        """Stop ffmpeg. May be called at any time, and more than once."""
        self._process.close()

    def _read_header(self) -> tuple[int, int]:
        """Sample rate and channel count from the AU header, which is removed from the buffer."""
        samples = self._process.samples
        self._process.fill(lambda: len(samples) >= _AU_HEADER.size)
        if len(samples) < _AU_HEADER.size:
            raise self._refusal()
        magic, offset, _, encoding, rate, n_channels = _AU_HEADER.unpack_from(samples)
        assert magic == b".snd" and encoding == _AU_FLOAT_32, "ffmpeg was asked for float32 AU"
        self._process.fill(lambda: len(samples) >= offset)
        del samples[:offset]
        return rate, n_channels

    def _refusal(self) -> DeploymentError:
        status, log = self._process.wait(), self._log
        if log.mentions("Protocol not found"):
            return DeploymentError("ffmpeg 6 or newer is needed: this one reads no descriptors")
        is_cut = ends_inside_a_unit(self._file, log.container or "mov")
        if lacks_index(self._file):
            if is_cut:
                return TruncatedAudioError(
                    "truncated: the index (moov) that belongs at the end of the file is cut off, "
                    "and without it nothing can be decoded"
                )
            return NotAudioError("not audio: the file has no index (moov) of what is in it")
        if log.mentions("Missing packet table"):  # of CAF
            return TruncatedAudioError(
                "truncated: the table of packets that belongs at the end of the file is cut off, "
                "and without it nothing can be decoded"
            )
        if status == 0 and is_cut:
            return TruncatedAudioError("truncated: the file is cut off before its first sound")
        if status == 0:
            return NotAudioError("not audio: it has no samples")
        return NotAudioError(f"not audio: {log.reason}")

    def _begin(self) -> Timeline:
        """Look at the first frames, and drop the encoder delay if it is there."""
        process = self._process
        process.fill(lambda: bool(process.stamps))
        if not process.stamps:
            return Timeline(self.sample_rate)
        stamp, n_samples = process.stamps[0]
        self._first_stamp = stamp or 0
        facts = self._log.facts(self._trims_delay)
        if facts.container in FRAMED and facts.codec != "mp2":  # ffmpeg counts MP2 correctly
            descriptor = self._file.fileno()
            self._frame_clock = FrameClock(descriptor, facts.container, self.sample_rate)
        if self._first_page_end is not None:
            self._find_false_leap(self._first_page_end)
        beginning = find_beginning(facts, self._first_stamp, n_samples, self.sample_rate)
        log = self._log
        is_loss = log.complained_early or log.n_damages or log.n_lost_packets
        if beginning.silence > 0 and is_loss:
            self._damages.add_gap(0.0, beginning.silence / self.sample_rate)
        if delay := beginning.delay:
            n_bytes = 3 * delay * self._frame_bytes
            process.fill(lambda: len(process.samples) >= n_bytes)
            if is_empty(self._frames(process.samples[:n_bytes]), delay):
                del process.samples[: delay * self._frame_bytes]
                self._n_dropped = delay
        return Timeline(self.sample_rate, beginning.silence)

    def _find_false_leap(self, end: int) -> None:
        stamps = self._process.stamps
        self._process.fill(lambda: any((stamp or 0) >= end for stamp, _ in stamps))
        n_before = sum(n for stamp, n in stamps if (stamp or 0) < end)
        if n_before < end:
            self._false_leap = (end, end - n_before)

    def _next_step(self, n_frames: int) -> Step | None:
        """The next step; None at the end. A plain step is shorter than `n_frames` only if another
        step follows, or at the end."""
        while (step := self._timeline.pop()) is None or (step.is_plain and step.n_in < n_frames):
            if step is not None:
                if self._timeline.has_steps or self._ended:
                    return step
                self._timeline.push_back(step)
            elif self._ended:
                return None
            self._read_stamps(n_frames)
        return step

    def _read_stamps(self, n_frames: int) -> None:
        """Hand the next stamps to the timeline; at the end, also the samples that have no stamp.

        Waits for samples of about `n_frames`, whose stamps come before them. Looking at each stamp
        as it came took this process half as long again.
        """
        process, timeline = self._process, self._timeline
        n_bytes = max(len(process.samples) + 1, n_frames * self._frame_bytes)
        goes_on = process.fill(lambda: len(process.samples) >= n_bytes and bool(process.stamps))
        while process.stamps:
            stamp, n_samples = process.stamps.popleft()
            if stamp is not None and stamp >= self._false_leap[0]:
                stamp -= self._false_leap[1]
            if self._frame_clock is not None and stamp is not None:
                stamp, is_behind_loss = self._frame_clock.place(stamp, n_samples)
                self._n_lost_runs += is_behind_loss
            if self._n_dropped > 0:
                n_dropped = min(self._n_dropped, n_samples)
                self._n_dropped -= n_dropped
                n_samples -= n_dropped
                stamp = None if stamp is None else stamp + n_dropped
            if n_samples > 0:
                self._n_stamped += n_samples
                timeline.add(stamp, n_samples)
        if not goes_on:
            n_left = len(process.samples) // self._frame_bytes + self._n_taken - self._n_stamped
            if n_left > 0:
                timeline.add(None, n_left)
            timeline.finish()
            self._ended = True
        self._note_damage()

    def _note_damage(self) -> None:
        n_damages, gaps = self._log.n_damages + self._n_lost_runs, self._timeline.gaps
        if n_damages > self._n_damages:
            self._damages.add_complaint(self._timeline.position / self.sample_rate)
        self._n_damages = n_damages
        if self._log.n_lost_packets > self._n_lost_packets:
            self._damages.add_hint(self._timeline.position / self.sample_rate)
        self._n_lost_packets = self._log.n_lost_packets
        spans_s = [(start / self.sample_rate, end / self.sample_rate) for start, end in gaps]
        is_any = self._log.complained_early
        damaged = [span for span in spans_s if is_any or self._damages.explains(span[0])]
        for start_s, end_s in damaged:
            self._damages.add_gap(start_s, end_s)
        gaps.clear()

    def _truncation(self, status: int, decoded_s: float, breaks: bool) -> Truncation | None:
        log = self._log
        if status != 0 or log.broke_off:
            reason = f"decoding broke off at {decoded_s:.2f} s: {log.reason}"
            return Truncation(reason, log.exact_duration_s(self._n_bytes))
        late_s = max(0.0, self._first_stamp / self.sample_rate - log.start_s)
        late_s += self._false_leap[1] / self.sample_rate
        missing_s = log.missing_s(late_s + self._timeline.covered / self.sample_rate)
        if missing_s > 0:
            return promised(decoded_s, decoded_s + missing_s)
        if breaks or log.ends_early or ends_inside_a_unit(self._file, log.container):
            return Truncation(
                f"truncated: the file is cut off, its audio stops at {decoded_s:.2f} s"
            )
        return None

    def _take(self, n_frames: int) -> npt.NDArray[np.float32]:
        samples, n_bytes = self._process.samples, n_frames * self._frame_bytes
        self._process.fill(lambda: len(samples) >= n_bytes)
        frames = self._frames(samples[:n_bytes])
        del samples[: len(frames) * self._frame_bytes]
        self._n_taken += len(frames)
        return frames

    def _frames(self, data: bytearray) -> npt.NDArray[np.float32]:
        n_bytes = len(data) // self._frame_bytes * self._frame_bytes
        frames = np.frombuffer(bytes(data[:n_bytes]), ">f4").astype(np.float32)
        return frames.reshape(-1, self.n_channels)


def _stretch(frames: npt.NDArray[np.float32], n_frames: int) -> npt.NDArray[np.float32]:
    """Lengthen or shorten frames by a few samples, by linear interpolation."""
    if len(frames) == 0:
        return frames
    places = np.arange(n_frames) * (len(frames) / n_frames)
    grid = np.arange(len(frames))
    columns = [np.interp(places, grid, channel) for channel in frames.T]
    return np.stack(columns, axis=1).astype(np.float32)
