"""Damaged and cut files: what can be read is transcribed, and a warning says what is missing."""

from collections.abc import Callable
from pathlib import Path

from tests.field.answers import Answer
from tests.field.audio import five
from tests.field.case import HTTP, MODEL, Case, FileCase, World, asked
from tests.field.checks import Heard, That, Warns, every
from tests.field.media import cut, damaged, encode

_SPEECH = five()
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ogg-opus": ("ogg", ("-c:a", "libopus", "-b:a", "32k", "-vbr", "off")),
    "ogg-vorbis": ("ogg", ("-c:a", "libvorbis", "-q:a", "3")),
    "webm": ("webm", ("-c:a", "libopus", "-b:a", "32k", "-vbr", "off")),
    "mp3": ("mp3", ("-b:a", "64k")),
    "aac": ("aac", ("-b:a", "64k")),
    "flac": ("flac", ()),
    "m4a": ("m4a", ("-b:a", "64k", "-movflags", "+faststart")),
    "ts": ("ts", ("-c:a", "aac", "-b:a", "64k")),
    "mp4-fragmented": (
        "mp4",
        (
            "-c:a",
            "aac",
            "-b:a",
            "64k",
            "-movflags",
            "+frag_keyframe+empty_moov",
            "-frag_duration",
            "1000000",
        ),
    ),
    "wav": ("wav", ()),
}
_DAMAGED = ("ogg-opus", "ogg-vorbis", "webm", "mp3", "aac", "flac", "m4a", "ts")
_CUT = ("m4a", "mp3", "ts", "mp4-fragmented", "wav", "flac", "ogg-opus", "ogg-vorbis")
_MIDDLE_S = _SPEECH.duration_s / 2
_AROUND_S = 2.6
"""Audio on each side that 400 damaged bytes may cost: at most half of a container's 5 s cluster."""
_CUT_SHARE = 0.6
_CUT_S = _SPEECH.duration_s * _CUT_SHARE
_VARIES_S = 2.0
"""How far a share of the bytes may be from the same share of the time, as the bit rate varies."""


def _maker(kind: str, spoil: Callable[[Path], Path]) -> Callable[[Path], Path]:
    suffix, arguments = _KINDS[kind]
    return lambda folder: spoil(encode(folder / f"a.{suffix}", _SPEECH, *arguments))


def _of_damage(kind: str) -> Case:
    span = (_MIDDLE_S - _AROUND_S, _MIDDLE_S + _AROUND_S)
    check = every(
        Heard(_SPEECH.unsure(*span), _SPEECH.duration_s, duration_tolerance_s=0.5), Warns(*span)
    )
    return FileCase(f"damaged/{kind}", _maker(kind, damaged), check)


def _cut_kind(kind: str) -> Callable[[Path], Path]:
    return _maker(kind, lambda path: cut(path, _CUT_SHARE))


def _of_cut(kind: str) -> Case:
    check = every(Heard(_SPEECH.until(_CUT_S, _VARIES_S)), Warns(_CUT_S - 1.0, _SPEECH.duration_s))
    return FileCase(f"cut/{kind}", _cut_kind(kind), check, is_alone=True)


def _header(kind: str, answer_format: str) -> Case:
    def ask(world: World) -> Answer:
        path = _cut_kind(kind)(world.folder)
        return world.served().transcribe(path, {"model": MODEL, "response_format": answer_format})

    told = That(
        "200, text, and a header x-murmur-warnings",
        lambda a: a.status == 200 and len(a.raw) > 40 and bool(a.headers.get("x-murmur-warnings")),
    )
    return asked(f"cut/{kind} as {answer_format}", told, ask, HTTP)


CASES: list[Case] = [
    *map(_of_damage, _DAMAGED),
    *map(_of_cut, _CUT),
    _header("wav", "text"),
    _header("m4a", "srt"),
    _header("flac", "vtt"),
]
