"""Chooses one of a file's audio tracks: films have several, in several languages and for several
kinds of listeners.

ffmpeg lists the tracks. The rules of choice are here, and know nothing of decoding.
"""

import re
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO

from deployments.audio.ffmpeg_process import MAX_ALLOCATION_BYTES, ffmpeg_exe
from deployments.errors import AudioDecodeTimeoutError, DeploymentError, OptionError
from engine import language_code

_STREAM = re.compile(
    r"^\[info\]   Stream #0:(?P<index>\d+)(?:\[\w+\])?(?:\((?P<language>[^)]*)\))?"
    r": Audio: (?P<rest>.*)$"
)
_MARKS = re.compile(r"\(([a-z ]+)\)")
# Tracks that accompany the main track, or replace the picture.
_ASIDES = frozenset(["comment", "visual impaired", "hearing impaired", "karaoke", "descriptions"])
_NO_LANGUAGE = frozenset(["und", "mul", "mis", "zxx"])  # ISO 639-2: unknown, several, other, none
_ENCRYPTED = re.compile(r"\((?:enca|drms|encv) / 0x")
_DEMUXERS = "asf,avi,matroska,mov,mpeg,mpegts,ogg"
_SEVERAL = (b"\x1a\x45\xdf\xa3", b"OggS", b"\x30\x26\xb2\x75", b"\0\0\1\xba")
_MAX_LINE_BYTES = 4_096
_MAX_STREAMS = 1_000


@dataclass(frozen=True, slots=True)
class TrackWish:
    """Which track the caller asks for.

    Args:
        track: its number from 1, or a language; None: the best one.
        languages: ISO codes of the languages that the speech may be in, if they are known.
    """

    track: str | None = None
    languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Track:
    """One audio track.

    Attributes:
        number: from 1, in file order.
        language: as the file names it; empty if the file does not name one.
        is_default: whether the file marks it as the default.
        is_aside: whether it is a commentary, or made for people who do not see or hear well.
        is_encrypted: whether its samples are encrypted and cannot be read.
    """

    number: int
    language: str = ""
    is_default: bool = False
    is_aside: bool = False
    is_encrypted: bool = False

    def is_in(self, language: str) -> bool:
        return _code(self.language) is not None and _code(self.language) == _code(language)


def may_have_several(file: IO[bytes]) -> bool:
    """Whether the container is of a kind that can hold more than one audio track."""
    file.seek(0)
    head = file.read(400)
    is_transport_stream = any(
        len(head) > start + 188 and head[start] == head[start + 188] == 0x47 for start in (0, 4)
    )
    is_avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    is_mov = head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
    return is_mov or is_avi or is_transport_stream or head.startswith(_SEVERAL)


def list_tracks(file: IO[bytes], timeout_s: float) -> list[Track]:
    """The audio tracks of a real file; none if ffmpeg cannot open it.

    Raises:
        AudioDecodeTimeoutError: ffmpeg does not finish in time.
        DeploymentError: ffmpeg cannot be run.
    """
    file.seek(0)
    command = [
        *(ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", "level+info"),
        # The same guards as for decoding: one descriptor, no playlists, little memory.
        *("-protocol_whitelist", "fd", "-format_whitelist", _DEMUXERS),
        *("-max_alloc", str(MAX_ALLOCATION_BYTES), "-i", "fd:"),
    ]
    try:
        process = subprocess.Popen(command, stdin=file, stderr=subprocess.PIPE)
    except OSError as error:
        raise DeploymentError(f"ffmpeg cannot be run: {error.strerror}") from error
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout_s, give_up)
    timer.start()
    try:
        assert process.stderr is not None
        lines = _stream_lines(process.stderr)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
    if late.is_set():
        raise AudioDecodeTimeoutError("the list of tracks cannot be read in time")
    return parse_tracks(lines)


def _stream_lines(log: IO[bytes]) -> list[str]:
    """Those lines of ffmpeg's log that list streams: the others may be hundreds of megabytes of a
    file's tags."""
    lines: list[str] = []
    while (line := log.readline(_MAX_LINE_BYTES)) and len(lines) < _MAX_STREAMS:
        if b"  Stream #0:" in line:
            lines.append(line.decode("utf-8", "replace"))
    return lines


def parse_tracks(lines: Iterable[str]) -> list[Track]:
    """The audio tracks that lines of ffmpeg's log list."""
    matches = (_STREAM.match(line.rstrip()) for line in lines)
    streams = {int(match["index"]): match for match in matches if match}
    tracks = []
    for number, index in enumerate(sorted(streams), start=1):
        match = streams[index]
        marks = set(_MARKS.findall(match["rest"]))
        language = match["language"] or ""
        tracks.append(
            Track(
                number,
                "" if _code(language) is None else language,
                "default" in marks,
                bool(marks & _ASIDES),
                _ENCRYPTED.search(match["rest"]) is not None,
            )
        )
    return tracks


def candidates(tracks: Sequence[Track], wish: TrackWish) -> list[Track]:
    """Tracks to try, the best one first; those alone that the caller asks for.

    Raises:
        OptionError: no track has that number or language.
    """
    if wish.track is None:
        return sorted(tracks, key=lambda track: _rank(track, wish.languages))
    if wish.track.isdecimal():
        found = [track for track in tracks if track.number == int(wish.track)]
    else:
        found = sorted(
            (track for track in tracks if track.is_in(wish.track)),
            key=lambda track: _rank(track, ()),
        )
    if not found:
        raise OptionError(
            f"there is no audio track {wish.track!r}; the file has {_listed(tracks)}", "track"
        )
    return found


def _rank(track: Track, languages: Sequence[str]) -> tuple[bool, int, bool, bool, int]:
    """Sort key: lower is better. A commentary in the wanted language is worse than a track without
    a language, but better than a track in another language."""
    if not languages or any(track.is_in(language) for language in languages):
        distance = 0
    else:
        distance = 3 if track.language else 1
    return (
        track.is_encrypted,
        distance + 2 * (track.is_aside and distance < 3),
        track.is_aside,
        not track.is_default,
        track.number,
    )


def _listed(tracks: Sequence[Track]) -> str:
    names = [
        f"{track.number} ({', '.join(what)})" if (what := _what(track)) else str(track.number)
        for track in tracks
    ]
    return "track " + ", ".join(names) if len(names) == 1 else "tracks " + ", ".join(names)


def _what(track: Track) -> list[str]:
    marks = (("default", track.is_default), ("commentary or for impaired", track.is_aside))
    return [word for word in (track.language, *(name for name, is_set in marks if is_set)) if word]


def _code(language: str) -> str | None:
    """A language's shortest code, however it is written; None if it names no language."""
    code = language_code(language)
    return None if code in _NO_LANGUAGE else code
