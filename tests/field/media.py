"""Makes files like those that recorders, phones and broken transfers leave."""

import struct
import subprocess
from collections.abc import Sequence
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
    """Write samples of shape (n,) or (n, n_channels) in the format of the path's suffix."""
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def encode(path: Path, speech: Speech | np.ndarray, *arguments: str) -> Path:
    """Encode with ffmpeg in the format of the path's suffix; `arguments` are output options."""
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
    """Concatenate files, as `cat` does."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def damaged(path: Path, n_bytes: int = 400) -> Path:
    """Replace bytes in the middle of a file, in place. In a transport stream, this is just after
    the tables that the middle of this one holds, because tables are repeated."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2 + (4 * 188 if path.suffix == ".ts" else 0)
    data[at : at + n_bytes] = np.random.default_rng(7).bytes(n_bytes)
    path.write_bytes(data)
    return path


def cut(path: Path, share: float = 0.6, odd_bytes: int = 77) -> Path:
    """Keep only the first bytes of a file, in place. The cut is `odd_bytes` behind a multiple of
    188 bytes, so that it does not fall between two packets of a transport stream."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share) // 188 * 188 + odd_bytes])
    return path


def patched(path: Path, mark: bytes, offset: int, number: int, pack: str) -> Path:
    """Overwrite a number at an offset from a mark, in place."""
    data = bytearray(path.read_bytes())
    at = data.index(mark) + offset
    struct.pack_into(pack, data, at, number)
    path.write_bytes(data)
    return path
