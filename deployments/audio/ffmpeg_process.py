"""The ffmpeg subprocess: how it is started, and its three pipes (samples, timestamps, messages).

ffmpeg gets the file as an open descriptor on its standard input (`fd:`, which can seek, unlike
`pipe:`) and may use no other protocol. So no path can be mistaken for an option or a URL, no path
shows up in a message, and no playlist, whatever its name, leads to another file or host. In
addition, demuxers that follow references are not allowed.

The output is an AU stream of float32 at the file's own rate and channel count, so that one code
path mixes down and resamples every format. Beside it, ffmpeg writes one line per frame with its
timestamp and its number of samples. The lines describe the frames that enter the output's encoder,
before any muxer could reject or repair a clock that jumps.
"""

import contextlib
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import IO

import ffmpeg
import imageio_ffmpeg

from deployments.audio.ffmpeg_log import FfmpegLog
from deployments.errors import AudioDecodeTimeoutError, DeploymentError

# Self-contained media only: not hls, dash, concat, sdp, imf, image sequences or raw formats.
_DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,eac3,flac,flv,gsm,ircam,loas,matroska,mov,"
    "mp3,mpc,mpc8,mpeg,mpegts,nistsphere,ogg,qcp,tak,tta,voc,w64,wav,wv"
)
MAX_ALLOCATION_BYTES = 256 * 1024 * 1024  # for a single block inside ffmpeg
_PIPE_READ_BYTES = 65_536
_PIPE_BYTES = 1 << 18
_MAX_STAMP_BYTES = 64
# With these signals the decoder itself crashed. It would crash on this file anywhere, so the file
# is refused.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


class FfmpegProcess:
    """Decodes one audio stream of a file, as fast as its pipes are emptied.

    The total timeout counts only the time that the caller waits in here: a slow consumer of a long
    file is not the file's fault.

    Args:
        file: a real file that nobody else reads meanwhile, because ffmpeg shares its position.
        track: number of the audio stream, from 0.
        n_threads: threads of the decoder. ffmpeg has five more, which mostly wait for each other.
        stall_timeout_s: longest wait for the next samples.
        total_timeout_s: longest wait in all.
        keeps_padding: whether to also output frames that the file marks as not part of the sound.

    Attributes:
        samples: bytes of the AU stream that have been read and not yet taken.
        stamps: (timestamp in samples, number of samples) of frames that have not been taken yet.
            They are read ahead of the samples. The timestamp is None where ffmpeg has none.
        log: what ffmpeg wrote to stderr.
    """

    def __init__(
        self,
        file: IO[bytes],
        track: int,
        n_threads: int,
        stall_timeout_s: float,
        total_timeout_s: float,
        keeps_padding: bool = False,
    ) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._left_s = total_timeout_s
        self._total_timeout_s = total_timeout_s
        self._stamp_line = b""
        self.samples = bytearray()
        self.stamps: deque[tuple[int | None, int]] = deque()
        self.log = FfmpegLog(track)
        self._process, stamp_pipe = _start(file, track, n_threads, keeps_padding)
        self._stamp_pipe = os.fdopen(stamp_pipe, "rb", buffering=0)
        self._pipes = selectors.DefaultSelector()
        assert self._process.stdout is not None and self._process.stderr is not None
        self._pipes.register(self._process.stdout, selectors.EVENT_READ, self.samples.extend)
        self._pipes.register(self._process.stderr, selectors.EVENT_READ, self.log.feed)
        # Nothing waits for this pipe: a stamp is written before its samples, so when those are
        # there, so is the stamp. Waking up for each stamp took as long as all other reading.
        os.set_blocking(stamp_pipe, False)
        _widen(self._process.stdout)

    def fill(self, is_enough: Callable[[], bool]) -> bool:
        """Read the pipes until `is_enough` returns true; returns whether more may come.

        Raises:
            AudioDecodeTimeoutError: one of the two timeouts has passed.
        """
        idle_since = time.monotonic()
        while not is_enough() and self._pipes.get_map():
            began, had = time.monotonic(), len(self.samples)
            wait_s = min(self._left_s, self._stall_timeout_s - (began - idle_since))
            self._read_pipes(max(0.0, wait_s))
            now = time.monotonic()
            self._left_s -= now - began
            if len(self.samples) > had:
                idle_since = now
            self._check_time(now - idle_since)
        return bool(self._pipes.get_map())

    def wait(self) -> int:
        """The exit status of ffmpeg, which exits by itself as soon as it has closed its pipes.

        Raises:
            AudioDecodeTimeoutError: it does not exit.
            DeploymentError: it was killed from outside.
        """
        try:
            status = self._process.wait(self._stall_timeout_s)
        except subprocess.TimeoutExpired as error:
            raise AudioDecodeTimeoutError("the decoder did not end") from error
        if status < 0 and -status not in _CRASHES:
            raise DeploymentError(f"ffmpeg was killed by signal {-status}")
        return status

    def close(self) -> None:
        """Stop ffmpeg. May be called at any time, and more than once."""
        self._process.kill()  # does nothing if the process has been waited for
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr, self._stamp_pipe):
            assert pipe is not None
            pipe.close()
        self._pipes.close()

    def _read_pipes(self, wait_s: float) -> None:
        for key, _ in self._pipes.select(wait_s):
            data = os.read(key.fd, _PIPE_READ_BYTES)
            if data:
                key.data(data)
            else:
                self._pipes.unregister(key.fileobj)
        self._read_stamps()

    def _read_stamps(self) -> None:
        """Read the stamps that are there. They are always fewer bytes than the samples."""
        while data := self._stamp_pipe.read(_PIPE_READ_BYTES):
            self._take_stamps(data)
            if len(data) < _PIPE_READ_BYTES:
                return

    def _take_stamps(self, data: bytes) -> None:
        *lines, rest = (self._stamp_line + data).split(b"\n")
        self._stamp_line = rest[:_MAX_STAMP_BYTES]
        for line in lines:
            stamp, _, n_samples = line.partition(b" ")
            known = stamp.lstrip(b"-").isdigit()
            self.stamps.append((int(stamp) if known else None, int(n_samples)))

    def _check_time(self, idle_s: float) -> None:
        if self._left_s <= 0:
            raise AudioDecodeTimeoutError(f"decoding took more than {self._total_timeout_s:g} s")
        if idle_s >= self._stall_timeout_s:
            raise AudioDecodeTimeoutError(f"decoding stood still for {self._stall_timeout_s:g} s")


def _widen(pipe: IO[bytes]) -> None:
    """Enlarge a pipe so that ffmpeg can write further ahead: each time it has to wait costs both
    sides a context switch. If the system has no such pipes, or no room for one, the pipe stays as
    it is."""
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _start(
    file: IO[bytes], track: int, n_threads: int, keeps_padding: bool
) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and the read end of the pipe for its stamps."""
    file.seek(0)
    stamp_pipe, stamp_sink = os.pipe()
    try:
        process = subprocess.Popen(
            _command(track, n_threads, stamp_sink, keeps_padding),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=[stamp_sink],
        )
    except BaseException as error:
        os.close(stamp_pipe)
        if isinstance(error, OSError):
            raise DeploymentError(f"ffmpeg cannot be run: {error.strerror}") from error
        raise
    finally:
        os.close(stamp_sink)
    return process, stamp_pipe


def ffmpeg_exe() -> str:
    """The path of ffmpeg.

    Raises:
        DeploymentError: there is none.
    """
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise DeploymentError("ffmpeg is missing: imageio-ffmpeg brings no binary here") from error


def _command(track: int, n_threads: int, stamp_sink: int, keeps_padding: bool) -> list[str]:
    source = ffmpeg.input(
        "fd:",
        hide_banner=None,
        nostats=None,
        nostdin=None,
        loglevel="level+info",
        max_alloc=MAX_ALLOCATION_BYTES,
        protocol_whitelist="fd",
        format_whitelist=_DEMUXERS,
        copyts=None,
        threads=n_threads,
        filter_threads=1,
        vn=None,
        sn=None,
        dn=None,
        **({"flags2": "+skip_manual"} if keeps_padding else {}),
    )
    sink = source[f"a:{track}"].output(
        "pipe:",
        format="au",
        acodec="pcm_f32be",
        threads=1,
        map_metadata=-1,
        flush_packets=0,
        stats_enc_pre=f"pipe:{stamp_sink}",
        stats_enc_pre_fmt="{pts} {samp}",
        # The muxer would drop samples whose clock jumps back.
        **{"bsf:a": "setts=ts=N"},
    )
    command: list[str] = ffmpeg.compile(sink, cmd=ffmpeg_exe())
    return command
