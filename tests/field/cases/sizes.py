"""Headers with wrong sizes: all audio in the file is heard nevertheless."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.field.audio import RATE, say
from tests.field.case import COMMAND_LINE, Case, FileCase
from tests.field.checks import Check, Either, Heard, Warns, every
from tests.field.media import joined, patched, write

_PAIR = say("C", 1.0, "D")
_EARLY = 2 * RATE * 2
"""Bytes of the first 2 s: a recorder wrote the header then, and never updated it."""
_ALL = Heard(_PAIR.said, _PAIR.duration_s)
_WIDE_RATE, _WIDE_CHANNELS = 48_000, 6
_BEYOND_4_GIB_S = 2**32 / (_WIDE_RATE * _WIDE_CHANNELS * 2)


def _wav(folder: Path) -> Path:
    return write(folder / "a.wav", _PAIR.samples)


def _wav_of_size(data: int, riff: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return patched(patched(_wav(folder), b"RIFF", 4, riff, "<I"), b"data", 4, data, "<I")

    return make


def _au(n_bytes: int) -> Callable[[Path], Path]:
    return lambda folder: patched(write(folder / "a.au", _PAIR.samples), b".snd", 8, n_bytes, ">I")


def _aiff(folder: Path) -> Path:
    path = write(folder / "a.aiff", _PAIR.samples)
    patched(path, b"FORM", 4, _EARLY + 46, ">I")
    patched(path, b"COMM", 10, _EARLY // 2, ">I")
    return patched(path, b"SSND", 4, _EARLY + 8, ">I")


def _two_wavs(folder: Path) -> Path:
    first = write(folder / "1.wav", say("C").samples)
    second = write(folder / "2.wav", say("D").samples)
    return joined(folder / "a.wav", [first, second])


def _both_or_a_warning() -> Check:
    first = say("C")
    both = Heard(say("C", "D").said)
    return Either((both, every(Heard(first.said), Warns(first.duration_s, both.said[1].end_s))))


def _wrapped(folder: Path) -> Path:
    """Silence, as a hole in the file, until the 32-bit size wraps; then speech."""
    speech = _resampled(_PAIR.samples)
    frames = np.repeat((speech * 32767).astype("<i2")[:, None], _WIDE_CHANNELS, axis=1)
    before = round(_BEYOND_4_GIB_S) * _WIDE_RATE * _WIDE_CHANNELS * 2
    n_bytes = before + frames.nbytes
    path = folder / "a.wav"
    block = _WIDE_CHANNELS * 2
    layout = (1, _WIDE_CHANNELS, _WIDE_RATE, _WIDE_RATE * block, block, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", (n_bytes + 36) % 2**32) + b"WAVEfmt ")
        file.write(struct.pack("<IHHIIHH", 16, *layout))
        file.write(b"data" + struct.pack("<I", n_bytes % 2**32))
        file.seek(before, 1)
        file.write(frames.tobytes())
    return path


def _resampled(samples: np.ndarray) -> np.ndarray:
    n = len(samples) * _WIDE_RATE // RATE
    return np.interp(np.arange(n) * RATE / _WIDE_RATE, np.arange(len(samples)), samples)


_BEHIND_S = float(round(_BEYOND_4_GIB_S))

CASES: list[Case] = [
    FileCase("sizes/wav written early", _wav_of_size(_EARLY, _EARLY + 36), _ALL),
    FileCase("sizes/wav of size 0", _wav_of_size(0, 36), _ALL),
    FileCase("sizes/wav of size 2^32 - 1", _wav_of_size(2**32 - 1, 2**32 - 1), _ALL),
    FileCase(
        "sizes/wav wrapped at 4 GiB",
        _wrapped,
        Heard(_PAIR.moved(_BEHIND_S), _BEHIND_S + _PAIR.duration_s),
        ways=(COMMAND_LINE,),
        is_alone=True,
    ),
    FileCase("sizes/au written early", _au(_EARLY), _ALL),
    FileCase("sizes/au of size 2^32 - 1", _au(2**32 - 1), _ALL),
    FileCase("sizes/aiff written early", _aiff, _ALL),
    FileCase("sizes/two wavs joined", _two_wavs, _both_or_a_warning()),
]
