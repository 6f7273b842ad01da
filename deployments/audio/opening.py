"""Chooses the reader for a file, and which of its tracks is read.

`pcm_reader` reads plain PCM, with `joined_reader` where the size in its header is wrong. ffmpeg
reads everything else. For it, tracks are chosen here and refusals are put in our own words.
"""

import contextlib
from collections.abc import Callable
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt

from deployments.audio.caf_packets import PacketTableReader, find_packet_table
from deployments.audio.fragments import find_patches, patched
from deployments.audio.header import DataChunk
from deployments.audio.joined_reader import is_as_promised, open_parts, warn_unread
from deployments.audio.pcm_reader import open_pcm, pcm_format
from deployments.audio.refusals import ENCRYPTED, HEAD_BYTES, what_it_is
from deployments.audio.report import AudioReport
from deployments.audio.sample_parts import Part, find_parts
from deployments.audio.span_file import splice_wav
from deployments.audio.tracks import Track, TrackWish, candidates, list_tracks, may_have_several
from deployments.audio.truncation import Truncation
from deployments.errors import NotAudioError, TruncatedAudioError
from deployments.messages import AudioInfo

_SOUND = 1e-3  # peak; a track that never exceeds -60 dB of full scale is empty
_PEEK_FRAMES = 1 << 16
_WAVS = (b"RIFF", b"RF64", b"BW64")


class Reader(Protocol):
    """A decoder of one file. `expected_s` is None if only decoding can tell the length."""

    sample_rate: int
    n_channels: int
    expected_s: float | None

    def read(self, n_frames: int) -> npt.NDArray[np.float32]: ...
    def truncation(self, decoded_s: float) -> Truncation | None: ...
    def close(self) -> None: ...


class Decode(Protocol):
    """Opens a real file with ffmpeg. `track` counts from 0; see `FfmpegProcess`."""

    def __call__(self, file: IO[bytes], track: int = 0, keeps_padding: bool = False) -> Reader: ...


class Opener:
    """Opens files.

    Args:
        decode: see `Decode`.
        to_real: turns a file that may be in memory into a real file.
        stack: closes temporary files.
        wish: which track the caller asks for.
        report: receives which track is read, and warnings.
        list_timeout_s: timeout for listing the tracks.
    """

    def __init__(
        self,
        decode: Decode,
        to_real: Callable[[IO[bytes]], IO[bytes]],
        stack: contextlib.ExitStack,
        wish: TrackWish,
        report: AudioReport,
        list_timeout_s: float,
    ) -> None:
        self._decode = decode
        self._to_real = to_real
        self._stack = stack
        self._wish = wish
        self._report = report
        self._list_timeout_s = list_timeout_s

    def open(self, file: IO[bytes], chunk: DataChunk | None) -> Reader:
        """A reader for the file, which the caller closes.

        Args:
            chunk: where the samples lie, if the file has a sample chunk.

        Raises:
            NotAudioError: the file cannot be read; the message says what it is instead, or what is
                wrong with it.
            OptionError: the file has no such track.
        """
        if chunk is not None:
            parts = find_parts(file, chunk)
            reader = self._open_plain(file, chunk, parts)
            if reader is not None:
                self._choose([Track(1)])
                return reader
            file = self._mended(file, chunk, parts)
        real = self._to_real(file)
        try:
            return self._open_coded(real)
        except NotAudioError as error:
            real.seek(0)
            words = what_it_is(real.read(HEAD_BYTES))
            if words is None:
                raise
            raise NotAudioError(f"not audio: {words}") from error

    def _open_plain(self, file: IO[bytes], chunk: DataChunk, parts: list[Part]) -> Reader | None:
        if is_as_promised(parts, chunk):
            reader = open_pcm(file)
            # libsndfile takes some tags after the samples for more samples.
            if reader is not None and reader.holds(parts[0].n_bytes):
                return reader
            if reader is not None:
                reader.close()
        layout = pcm_format(file, parts[0])
        return None if layout is None else open_parts(file, parts, layout, self._report)

    def _mended(self, file: IO[bytes], chunk: DataChunk, parts: list[Part]) -> IO[bytes]:
        """A WAV of coded samples with its true size, because ffmpeg believes the header."""
        spans = parts[0].spans
        if is_as_promised(parts, chunk) or chunk.magic not in _WAVS or not spans:
            return file
        if len(parts) > 1:
            warn_unread([span for part in parts[1:] for span in part.spans], self._report)
        if spans == [(chunk.offset, chunk.offset + chunk.held_bytes)]:
            return file
        return self._stack.enter_context(splice_wav(file, parts[0]))

    def _open_coded(self, file: IO[bytes]) -> Reader:
        if (table := find_packet_table(file)) is not None:
            self._choose([Track(1)])
            return PacketTableReader(self._decode(file, keeps_padding=True), table)
        file = self._without_faults(file)
        tracks = list_tracks(file, self._list_timeout_s) if may_have_several(file) else []
        choices = self._choose(tracks or [Track(1)])
        if len(choices) > 1:
            choices = self._with_sound(file, choices)
        best = choices[0]
        if best.is_encrypted:
            raise NotAudioError(f"not audio: {ENCRYPTED}")
        self._report.info = AudioInfo(best.number, max(1, len(tracks)))
        return self._decode(file, best.number - 1)

    def _without_faults(self, file: IO[bytes]) -> IO[bytes]:
        """A fragmented MP4 without its broken fragments, which ffmpeg would stop at."""
        patches = find_patches(file)
        if not patches:
            return file
        n_bytes = sum(patch.n_broken for patch in patches)
        places = "a place" if len(patches) == 1 else f"{len(patches)} places"
        self._report.warn("damaged", f"its structure is broken in {places}, in {n_bytes} bytes")
        return self._stack.enter_context(patched(file, patches))

    def _choose(self, tracks: list[Track]) -> list[Track]:
        choices = candidates(tracks, self._wish)
        self._report.info = AudioInfo(choices[0].number, len(tracks))
        return choices

    def _with_sound(self, file: IO[bytes], choices: list[Track]) -> list[Track]:
        """The choices from the first one that has sound; all of them if none has."""
        for index, track in enumerate(choices[:-1]):
            if not track.is_encrypted and self._has_sound(file, track):
                return choices[index:]
        # The last choice is only decoded when all others were silent.
        last = choices[-1]
        return [last] if not last.is_encrypted and self._has_sound(file, last) else choices

    def _has_sound(self, file: IO[bytes], track: Track) -> bool:
        """Whether a track has sound. Decoding stops at the first sound; decoding silence takes a
        thousandth of its duration."""
        try:
            reader = self._decode(file, track.number - 1)
        except (NotAudioError, TruncatedAudioError):  # it is empty, or its codec is unknown
            return False
        with contextlib.closing(reader):
            while len(frames := reader.read(_PEEK_FRAMES)):
                if float(np.abs(frames).max()) > _SOUND:
                    return True
        return False
