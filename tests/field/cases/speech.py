"""Where words are easily lost or made up (prompts, quiet speech, noise), and files' exact ends."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.field.audio import RATE, Speech, breath, five, noise, say
from tests.field.case import HTTP, Case, FileCase
from tests.field.checks import Heard, Silent
from tests.field.media import encode, write

_MINUTES = "Notes of a meeting with Claude: the budget, the plan, the schedule."
_PAIR = say("E", 1.2, "C")
_CLIP = say("C")
_FAR = say("C", 1.0, "D")
_FIVE = five()
_PACKET = 4096


def _scaled(speech: Speech, peak_db: float) -> np.ndarray:
    return speech.samples / np.abs(speech.samples).max() * 10 ** (peak_db / 20)


def _far_side_quiet() -> np.ndarray:
    near = round(_FAR.said[1].start_s * RATE) - RATE // 2
    gain = np.where(np.arange(len(_FAR.samples)) < near, 1.0, 10 ** (-30 / 20))
    return _FAR.samples * gain


def _lossless(n: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        samples = np.pad(_CLIP.samples, (0, max(0, n - len(_CLIP.samples))))[:n]
        return encode(folder / "a.caf", samples, "-c:a", "alac")

    return make


def _exact(n: int) -> Case:
    check = Heard(_CLIP.said, n / RATE, duration_tolerance_s=0.0006)
    return FileCase(f"alac-in-caf/{n} samples", _lossless(n), check)


def _first_word(kind: str, *arguments: str) -> Case:
    """A file that does not tell the encoder's delay.

    Cues have steps of 20 ms and begin where the model hears voice, so only a unit test can see
    whether the first sample is in its place. Here the duration shows whether the delay, 64 to
    69 ms, was removed.
    """
    heard = Heard(_CLIP.said, _CLIP.duration_s, duration_tolerance_s=0.035)
    return FileCase(
        f"encoder-delay/{kind}",
        lambda folder: encode(folder / f"a.{kind}", _CLIP, *arguments),
        heard,
    )


def _breath(low_hz: float, high_hz: float, every_s: float) -> Case:
    more: dict[str, str | list[str]] = {
        "chunking_strategy[type]": "server_vad",
        "chunking_strategy[threshold]": "0.05",
        "keywords[]": ["Claude", "Dashwood", "budget"],
    }
    return FileCase(
        f"noise/clicks, breath of {low_hz:g}-{high_hz:g} Hz, threshold 0.05, prompt, keywords",
        lambda folder: write(folder / "a.wav", breath(20.0, low_hz, high_hz, every_s)),
        Silent(),
        fields={"prompt": _MINUTES},
        form=more,
        ways=(HTTP,),
    )


CASES: list[Case] = [
    FileCase(
        "plain/wav",
        lambda folder: write(folder / "a.wav", _CLIP.samples),
        Heard(_CLIP.said, _CLIP.duration_s, duration_tolerance_s=0.0006),
    ),
    FileCase(
        "plain/five clips",
        lambda folder: write(folder / "a.wav", _FIVE.samples),
        Heard(_FIVE.said, _FIVE.duration_s, duration_tolerance_s=0.0006),
    ),
    FileCase(
        "prompt/two sentences behind minutes of a meeting",
        lambda folder: write(folder / "a.wav", _PAIR.samples),
        Heard(_PAIR.said, _PAIR.duration_s),
        fields={"prompt": _MINUTES},
    ),
    FileCase(
        "quiet/peak at -60 dBFS",
        lambda folder: write(folder / "a.wav", _scaled(_CLIP, -60)),
        Heard(_CLIP.said),
    ),
    FileCase(
        "quiet/far side of a call 30 dB lower",
        lambda folder: write(folder / "a.wav", _far_side_quiet()),
        Heard(_FAR.said),
    ),
    _breath(300, 3000, 1.0),
    _breath(150, 1200, 1.0),
    _breath(100, 800, 3.5),
    _breath(500, 6000, 3.5),
    FileCase(
        "noise/breath alone",
        lambda folder: write(folder / "a.wav", breath(20.0, 300, 3000, 3.5)),
        Silent(),
    ),
    FileCase(
        "noise/hiss alone",
        lambda folder: write(folder / "a.wav", 0.02 * noise(15.0)),
        Silent(),
        fields={"prompt": _MINUTES},
    ),
    _exact(len(_CLIP.samples)),
    _exact(28 * _PACKET),
    _exact(28 * _PACKET + 1),
    _first_word("mp3", "-write_xing", "0", "-id3v2_version", "0", "-b:a", "64k"),
    _first_word("aac", "-b:a", "64k"),
]
