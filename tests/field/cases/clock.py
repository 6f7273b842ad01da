"""Times follow the file's clock: sound that begins late, gaps, clocks that jump or wrap."""

from pathlib import Path

from tests.field.audio import Speech, say
from tests.field.case import Case, FileCase
from tests.field.checks import Heard
from tests.field.media import encode, ffmpeg, joined, with_picture, write

_LATE_S = 5.0
_GAP_AT_S = 20.0
_CLIP, _NEXT = say("C"), say("D")
_H264 = ("-c:v", "libx264", "-preset", "ultrafast")
_AAC = ("-c:a", "aac", "-b:a", "64k")
_STEREO_44 = ("-ar", "44100")
_VIDEOS = {
    "mp4": (*_H264, *_AAC),
    "mov": (*_H264, *_AAC),
    "mkv": (*_H264, *_AAC),
    "ts": (*_H264, *_AAC),
    "flv": (*_H264, *_AAC, *_STEREO_44),
    "3gp": (*_H264, *_AAC),
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libopus"),
    "wmv": ("-c:v", "wmv2", "-c:a", "wmav2", *_STEREO_44),
    "mpg": ("-c:v", "mpeg1video", "-c:a", "mp2", *_STEREO_44),
}
_GAPS = {
    "m4a": ("-c:a", "copy"),
    "mov": ("-c:a", "copy"),
    "flv": ("-c:a", "copy"),
    "ts": ("-c:a", "copy"),
    "ogg": ("-c:a", "copy"),
}
_WRAP_S = 2**33 / 90_000
"""A transport stream's clock has 33 bits at 90 kHz."""


def _late(kind: str, arguments: tuple[str, ...], late_s: float = _LATE_S) -> Case:
    return FileCase(
        f"sound-late/{kind} {late_s:g} s",
        lambda folder: with_picture(folder / f"a.{kind}", _CLIP, late_s, *arguments),
        Heard(_CLIP.moved(late_s), late_s + _CLIP.duration_s, duration_tolerance_s=0.25),
    )


def _part(path: Path, speech: Speech, at_s: float, *arguments: str) -> Path:
    return encode(path, speech, *_AAC, *arguments, "-muxdelay", "0", "-output_ts_offset", str(at_s))


def _gap_in_stream(folder: Path) -> Path:
    parts = [_part(folder / "q1.ts", _CLIP, 0), _part(folder / "q2.ts", _NEXT, _GAP_AT_S)]
    return joined(folder / "a.ts", parts)


def _gap(kind: str, arguments: tuple[str, ...]) -> Case:
    """Audio whose packet times skip a stretch that was not recorded."""
    codec = ("-c:a", "libopus") if kind == "ogg" else _AAC
    rate = ("-ar", "48000") if kind == "ogg" else _STEREO_44
    skip = f"asetpts=PTS+gte(T\\,{_CLIP.duration_s})*{_GAP_AT_S - _CLIP.duration_s}/TB"

    def make(folder: Path) -> Path:
        both = write(folder / "both.wav", say("C", "D").samples)
        whole = folder / "whole.mka"
        # Frames of 1136 samples: at 48 kHz one ends exactly at the clip's end, before the gap.
        frames = ("-af", f"aresample={rate[1]},asetnsamples=n=1136:p=0,{skip}")
        ffmpeg("-i", both, *frames, *rate, *codec, whole)
        ffmpeg("-i", whole, *arguments, folder / f"a.{kind}")
        return folder / f"a.{kind}"

    return FileCase(f"gap/audio alone in {kind}", make, _behind_gap())


def _behind_gap() -> Heard:
    said = (*_CLIP.said, *_NEXT.moved(_GAP_AT_S))
    return Heard(said, _GAP_AT_S + _NEXT.duration_s, duration_tolerance_s=0.25)


def _jump_back(folder: Path) -> Path:
    parts = [_part(folder / f"q{i}.ts", s, 0) for i, s in enumerate((_CLIP, _NEXT))]
    return joined(folder / "a.ts", parts)


def _audio_from(kind: str, at_s: float, *arguments: str) -> Case:
    return FileCase(
        f"start-offset/audio alone in {kind} from {at_s:g} s",
        lambda folder: encode(
            folder / f"a.{kind}", _CLIP, *arguments, "-output_ts_offset", str(at_s)
        ),
        Heard(_CLIP.said, _CLIP.duration_s, duration_tolerance_s=0.25),
    )


_WRAPPED = say("C", 1.0, "D")

CASES: list[Case] = [
    *(_late(kind, arguments) for kind, arguments in _VIDEOS.items()),
    _late("mp4", _VIDEOS["mp4"], 4.94),
    _late("webm", _VIDEOS["webm"], 4.94),
    FileCase("gap/two transport streams joined", _gap_in_stream, _behind_gap()),
    *(_gap(kind, arguments) for kind, arguments in _GAPS.items()),
    FileCase(
        "clock/jumps back between two joined streams",
        _jump_back,
        Heard(say("C", "D").said, say("C", "D").duration_s, duration_tolerance_s=0.25),
    ),
    FileCase(
        "clock/wraps at 2^33",
        lambda folder: _part(folder / "a.ts", _WRAPPED, round(_WRAP_S - 3.5, 3)),
        Heard(_WRAPPED.said, _WRAPPED.duration_s, duration_tolerance_s=0.25),
    ),
    _audio_from("ts", 20.0, *_AAC),
    _audio_from("mka", 20.0, *_AAC),
    _audio_from("webm", 3.0, "-c:a", "libopus"),
]
