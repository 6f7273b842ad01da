"""Frames of everything that is not plain PCM, through an ffmpeg subprocess.

ffmpeg gets the file as an open descriptor on its standard input (`fd:`, which can seek, unlike
`pipe:`) and may use no other protocol. So no path can be mistaken for an option or a URL, none
shows up in a message, and no playlist, however it is named, leads to another file or host; the
demuxers that follow references are refused on top of that.

Its output is an AU stream of float32 at the file's own rate and channels, so that mixing down and
resampling are the same code for every format. Times count from the stream's first sample: a late
start or a pause in a video's sound is not filled up.
"""

import os
import selectors
import signal
import struct
import subprocess
import time
from typing import IO

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from deployments.audio.ffmpeg_log import FfmpegLog
from deployments.errors import (
    AudioDecodeTimeoutError,
    DeploymentError,
    NotAudioError,
    TruncatedAudioError,
)

# Self-contained media only: not hls, dash, concat, sdp, imf, image sequences or raw formats.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,gsm,ircam,loas,matroska,mov,"
    "mp3,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,qcp,tak,tta,voc,w64,wav,wv"
)
_MAX_ALLOCATION_BYTES = 256 * 1024 * 1024  # of a single block inside ffmpeg
_PIPE_READ_BYTES = 65_536
_SAMPLE_BYTES = 4
_AU_HEADER = struct.Struct(">4s5I")  # magic, offset of the samples, size, encoding, rate, channels
_AU_FLOAT_32 = 6
# A decoder that crashes does so on this file everywhere, so it is the file that is refused.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class FfmpegReader:
    """Reads float32 frames, shape (n_frames, n_channels), of a file's first audio stream.

    The total time counts only while the caller waits in here, since a slow consumer of a long
    file is no fault of the file's.

    Args:
        file: a real file, not read by anyone else meanwhile: ffmpeg shares its position.
        stall_timeout_s: longest wait for the next samples.
        total_timeout_s: longest wait in all.

    Raises:
        NotAudioError: ffmpeg finds no audio that it may read.
        AudioDecodeTimeoutError: one of the two waits is over.
        DeploymentError: ffmpeg is missing or unfit, or was killed from outside.
    """

    def __init__(self, file: IO[bytes], stall_timeout_s: float, total_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._left_s = total_timeout_s
        self._total_timeout_s = total_timeout_s
        self._samples = bytearray()
        self._log = FfmpegLog()
        self._process = _start(file)
        self._pipes = selectors.DefaultSelector()
        assert self._process.stdout is not None and self._process.stderr is not None
        self._pipes.register(self._process.stdout, selectors.EVENT_READ, self._samples.extend)
        self._pipes.register(self._process.stderr, selectors.EVENT_READ, self._log.feed)
        try:
            self.sample_rate, self.n_channels = self._read_header()
        except BaseException:
            self.close()
            raise
        self.expected_s = self._log.exact_duration_s

    def read(self, n_frames: int) -> npt.NDArray[np.float32]:
        """Up to `n_frames` frames; none at the end, whatever ended it: see `truncation`."""
        frame_bytes = _SAMPLE_BYTES * self.n_channels
        wanted = n_frames * frame_bytes
        self._fill(wanted)
        n_bytes = min(wanted, len(self._samples)) // frame_bytes * frame_bytes
        frames = np.frombuffer(bytes(self._samples[:n_bytes]), ">f4").astype(np.float32)
        del self._samples[:n_bytes]
        return frames.reshape(-1, self.n_channels)

    def truncation(self, decoded_s: float) -> TruncatedAudioError | None:
        """What is wrong after the last frame: ffmpeg gave up, or the file promises more.

        Args:
            decoded_s: all that `read` gave.

        Raises:
            DeploymentError: ffmpeg was killed from outside.
        """
        declared_s = self._log.exact_duration_s
        if self._wait() != 0 or self._log.broke_off:
            reason = f"decoding broke off at {decoded_s:.2f} s: {self._log.reason}"
            return TruncatedAudioError(reason, declared_s, decoded_s)
        missing_s = self._log.missing_s(decoded_s)
        if missing_s == 0:
            return None
        declared_s = decoded_s + missing_s
        promise = f"its header promises {declared_s:.2f} s"
        reason = f"truncated: the audio stops at {decoded_s:.2f} s, {promise}"
        return TruncatedAudioError(reason, declared_s, decoded_s)

    def close(self) -> None:
        """Stop ffmpeg. May be called at any time, and again."""
        self._process.kill()  # does nothing to one that has been waited for
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._pipes.close()

    def _read_header(self) -> tuple[int, int]:
        """Sample rate and channels of the AU header, which is removed from the buffer."""
        self._fill(_AU_HEADER.size)
        if len(self._samples) < _AU_HEADER.size:
            raise self._refusal()
        magic, offset, _, encoding, rate, n_channels = _AU_HEADER.unpack_from(self._samples)
        assert magic == b".snd" and encoding == _AU_FLOAT_32, "ffmpeg was asked for float32 AU"
        self._fill(offset)
        del self._samples[:offset]
        return rate, n_channels

    def _refusal(self) -> DeploymentError:
        if self._wait() == 0:
            return NotAudioError("not audio: it has no samples")
        if self._log.mentions("Protocol not found"):
            return DeploymentError("ffmpeg 6 or newer is needed: this one reads no descriptors")
        return NotAudioError(f"not audio: {self._log.reason}")

    def _fill(self, n_bytes: int) -> None:
        """Read pipes until `n_bytes` of samples are here, or ffmpeg has closed both."""
        idle_since = time.monotonic()
        while len(self._samples) < n_bytes and self._pipes.get_map():
            began, had = time.monotonic(), len(self._samples)
            wait_s = min(self._left_s, self._stall_timeout_s - (began - idle_since))
            self._read_pipes(max(0.0, wait_s))
            now = time.monotonic()
            self._left_s -= now - began
            if len(self._samples) > had:
                idle_since = now
            self._check_time(now - idle_since)

    def _read_pipes(self, wait_s: float) -> None:
        for key, _ in self._pipes.select(wait_s):
            data = os.read(key.fd, _PIPE_READ_BYTES)
            if data:
                key.data(data)
            else:
                self._pipes.unregister(key.fileobj)

    def _check_time(self, idle_s: float) -> None:
        if self._left_s <= 0:
            raise AudioDecodeTimeoutError(f"decoding took more than {self._total_timeout_s:g} s")
        if idle_s >= self._stall_timeout_s:
            raise AudioDecodeTimeoutError(f"decoding stood still for {self._stall_timeout_s:g} s")

    def _wait(self) -> int:
        """Exit status of ffmpeg, which ends by itself as soon as it has closed both pipes."""
        try:
            status = self._process.wait(self._stall_timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AudioDecodeTimeoutError("the decoder did not end") from error
        if status < 0 and -status not in _CRASHES:
            raise DeploymentError(f"ffmpeg was killed by signal {-status}")
        return status


def _start(file: IO[bytes]) -> subprocess.Popen[bytes]:
    file.seek(0)
    try:
        return subprocess.Popen(
            _command(), stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
    except OSError as error:
        raise DeploymentError(f"ffmpeg cannot be run: {error.strerror}") from error


def _command() -> list[str]:
    try:
        exe = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise DeploymentError("ffmpeg is missing: imageio-ffmpeg brings no binary here") from error
    source = ffmpeg.input(
        "fd:",
        hide_banner=None,
        nostats=None,
        nostdin=None,
        loglevel="level+info",
        max_alloc=_MAX_ALLOCATION_BYTES,
        protocol_whitelist="fd",
        format_whitelist=_DEMUXERS,
        vn=None,
        sn=None,
        dn=None,
    )
    sink = source["a:0"].output("pipe:", format="au", acodec="pcm_f32be", map_metadata=-1)
    command: list[str] = ffmpeg.compile(sink, cmd=exe)
    return command
