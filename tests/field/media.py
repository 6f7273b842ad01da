"""Files as recorders, phones and transfers leave them."""

import struct
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile

from tests.field.audio import RATE, Speech

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
_EXACT = ("-fflags", "+bitexact", "-flags:a", "+bitexact")


def ffmpeg(*arguments: str | Path, cwd: Path | None = None) -> None:
    """Run ffmpeg; raises CalledProcessError with its words on the standard error."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments]
    subprocess.run(list(map(str, command)), check=True, cwd=cwd, timeout=300)


def write(path: Path, samples: np.ndarray, subtype: str = "PCM_16", rate: int = RATE) -> Path:
    """Samples of shape (n,) or (n, n_channels), in the format of the path's suffix."""
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def encode(path: Path, speech: Speech | np.ndarray, *arguments: str) -> Path:
    """Through ffmpeg into the format of the path's suffix; arguments go before the output."""
    samples = speech.samples if isinstance(speech, Speech) else speech
    plain = write(path.with_name(f"plain-{path.name}.wav"), samples)
    ffmpeg("-i", plain, *arguments, *_EXACT, path)
    plain.unlink()
    return path


def with_picture(path: Path, speech: Speech, late_s: float, *arguments: str) -> Path:
    """A video whose picture begins at 0 and whose sound begins later."""
    plain = write(path.with_name(f"plain-{path.name}.wav"), speech.samples)
    end_s = late_s + speech.duration_s
    size = "176x144"
    picture = f"testsrc=size={size}:rate=25:duration={end_s}"
    sound = ("-itsoffset", str(late_s), "-i", plain)
    ffmpeg("-f", "lavfi", "-i", picture, *sound, "-map", "0:v", "-map", "1:a", *arguments, path)
    plain.unlink()
    return path


def joined(path: Path, parts: Sequence[Path]) -> Path:
    """Files one behind another, as `cat` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def damaged(path: Path, n_bytes: int = 400) -> Path:
    """Bytes in the middle are replaced, in place; behind the tables that a transport stream has in
    the middle of this one, for those come again."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2 + (4 * 188 if path.suffix == ".ts" else 0)
    data[at : at + n_bytes] = np.random.default_rng(7).bytes(n_bytes)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float = 0.6, odd_bytes: int = 77) -> Path:
    """The first bytes alone, in place; so many more that no packet of a fixed size is whole."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 188 * 188 + odd_bytes])
    return path


def patched(path: Path, mark: bytes, offset: int, number: int, pack: str) -> Path:
    """Overwrite a number behind a mark, in place."""
    data = bytearray(path.read_bytes())
    at = data.index(mark) + offset
    struct.pack_into(pack, data, at, number)
    path.write_bytes(data)
    return path


@cache
def known_encoders() -> frozenset[str]:
    """Those of this ffmpeg."""
    done = subprocess.run([FFMPEG, "-hide_banner", "-encoders"], capture_output=True, text=True)
    return frozenset(line.split()[1] for line in done.stdout.splitlines() if len(line.split()) > 2)
