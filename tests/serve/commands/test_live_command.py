"""`murmur live` with a model in this process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deployments.audio.live_source import device_blocks, file_blocks
from deployments.errors import DeploymentError
from serve.commands.cli import main
from tests.conftest import DATA, read_pcm
from tests.support.live_text import is_right

CLIP = DATA / "librivox-0870.wav"


def test_a_file_as_fast_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", str(CLIP), "--speed", "0", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["type"] for event in events if event["type"] not in ("Delta", "Lagging")]
    assert kinds == ["SpeechStarted", "Committed", "Completed"]
    text = events[-1]["text"]
    deltas = [event["text"] for event in events if event["type"] == "Delta"]
    assert len(deltas) > 1 and "".join(deltas) == text
    assert is_right(text)
    assert [word["text"].strip() for word in events[-1]["words"]] == text.split()


def test_turns_are_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, pause = read_pcm(CLIP), np.zeros(16_000, np.int16)
    soundfile.write(tmp_path / "two.wav", np.concatenate([clip, pause, clip]), 16_000)
    assert main(["live", str(tmp_path / "two.wav"), "--speed", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(map(is_right, lines))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.wav"], "nowhere.wav"),
        ([str(CLIP), "--model", "none"], "none"),
        ([str(CLIP), "--language", "fr"], "fr"),
        ([str(CLIP), "--url", "http://127.0.0.1:9"], "no server answers at"),
        (["--device", "x", "--device-format", "none"], "ffmpeg cannot open it as none"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["live", *arguments, "--speed", "0"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("murmur: ") and says in said[0]


def test_a_device_through_ffmpeg() -> None:
    """A device that ffmpeg always has: a tone of two seconds."""
    blocks = list(device_blocks("sine=frequency=440:duration=2", "lavfi"))
    pcm = np.concatenate(blocks)
    assert pcm.dtype == np.int16 and len(pcm) == 32_000 and len(blocks) == 20
    spectrum = np.abs(np.fft.rfft(pcm))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)
    with pytest.raises(DeploymentError, match="cannot open"):
        list(device_blocks("nothing", "lavfi"))


def test_a_file_has_its_own_pace() -> None:
    import time

    began = time.monotonic()
    n_samples = sum(map(len, file_blocks(CLIP, 20.0)))
    assert n_samples == 113_600 and time.monotonic() - began >= n_samples / 16_000 / 20.0


def test_help_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve.commands.cli", "live", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "--delay" in done.stdout
