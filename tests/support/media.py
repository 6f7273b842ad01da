"""Makes media files with ffmpeg, and finds a known sound in the samples that are read from them."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from deployments.audio.reading import SAMPLE_RATE, Source, read_audio
from deployments.audio.report import AudioReport
from deployments.messages import AudioWarning

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def run_ffmpeg(*args: str | Path) -> bytes:
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def read_whole(source: Source) -> tuple[npt.NDArray[np.float64], list[AudioWarning]]:
    """All samples, full scale at 1, and the warnings."""
    report = AudioReport()
    blocks = list(read_audio(source, report=report))
    return np.concatenate(blocks) / 32_768, report.warnings


def place_s(pcm: npt.NDArray[np.float64], sound: npt.NDArray[np.float64]) -> float:
    """Where `sound` begins in `pcm`, in seconds, by cross-correlation; negative if before it."""
    n = 2 ** int(np.ceil(np.log2(len(pcm) + 2 * len(sound))))
    spectrum = np.fft.rfft(pcm, n) * np.conj(np.fft.rfft(sound, n))
    found = int(np.argmax(np.abs(np.fft.irfft(spectrum, n))))
    return (found - n if found > n - len(sound) else found) / SAMPLE_RATE
