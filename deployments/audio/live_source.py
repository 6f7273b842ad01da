"""Audio that a program hears as it comes: a file at its own pace, or a device through ffmpeg."""

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from deployments.audio.ffmpeg_process import ffmpeg_exe
from deployments.audio.reading import Source, read_audio
from deployments.errors import DeploymentError
from engine import SAMPLE_RATE

BLOCK_S = 0.1
_BLOCK_BYTES = round(BLOCK_S * SAMPLE_RATE) * 2
DEVICE_FORMATS = {"linux": "pulse", "darwin": "avfoundation", "win32": "dshow"}
"""How ffmpeg reads microphones, by system."""

Pcm = npt.NDArray[np.int16]


def file_blocks(source: Source, speed: float | None = 1.0) -> Iterator[Pcm]:
    """A file's audio in blocks of 0.1 s, 16 kHz, each when it would have been spoken.

    Args:
        speed: as a multiple of real time; None: as fast as it is taken.

    Raises:
        AudioError: the file cannot be read.
    """
    began, given_s = time.monotonic(), 0.0
    for block in read_audio(source, block_s=BLOCK_S):
        given_s += len(block) / SAMPLE_RATE
        if speed is not None:
            time.sleep(max(0.0, began + given_s / speed - time.monotonic()))
        yield block


def device_blocks(device: str, format: str | None = None) -> Iterator[Pcm]:
    """The audio of a device, in blocks of 0.1 s, 16 kHz, until it ends.

    Args:
        device: as ffmpeg's `-i` has it, such as `default` or `:0`.
        format: ffmpeg's `-f`; None: that of microphones on this system.

    Raises:
        DeploymentError: ffmpeg cannot open it.
    """
    kind = format or DEVICE_FORMATS.get(sys.platform, "alsa")
    command = [
        *(ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin"),
        *("-f", kind, "-i", device, "-ac", "1", "-ar", str(SAMPLE_RATE)),
        *("-f", "s16le", "-flush_packets", "1", "pipe:1"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    heard = False
    try:
        while data := process.stdout.read(_BLOCK_BYTES):
            heard = True
            yield np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.int16)
        if process.wait() != 0 and not heard:
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise DeploymentError(
                f"{device}: ffmpeg cannot open it as {kind}: {said[-1] if said else 'no reason'}"
            )
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
