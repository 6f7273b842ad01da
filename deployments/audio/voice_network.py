"""Silero's voice activity network: probabilities of speech, frame by frame.

Runs the sequence model of the `silero-vad` package: one call of the network per block of frames,
with the state carried from block to block, so that audio of any length takes bounded memory. It
belongs to the audio wing because it first tells which of a file's channels to listen to, and only
then where their mix has speech.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

FRAME_SAMPLES = 512
"""Samples per probability: 32 ms at 16 kHz."""
_CONTEXT_SAMPLES = 64
_MAX_FRAMES = 512
_STATE_SHAPE = (1, 1, 128)


@cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One thread: the network is tiny, and the other cores belong to the engine.
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(_model_file()), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _model_file() -> Path:
    """The network in the `silero-vad` package, found without importing it: the import would set
    torch to one thread in the whole process."""
    package = find_spec("silero_vad")
    assert package is not None and package.origin is not None, "a dependency of this project"
    return Path(package.origin).parent / "data" / "silero_vad_16k_sequence.onnx"


def frames_of(pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """int16 samples of whole frames at 16 kHz -> float32 (n_frames, 512), full scale ±1."""
    return (pcm.astype(np.float32) / 32_768.0).reshape(-1, FRAME_SAMPLES)


class VoiceNetwork:
    """The network and its state over one stream."""

    def __init__(self) -> None:
        self._hidden = np.zeros(_STATE_SHAPE, np.float32)
        self._cell = np.zeros(_STATE_SHAPE, np.float32)
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def run(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Speech probabilities, shape (n_frames,), of the stream's next frames (n_frames, 512)."""
        blocks = [
            self._run_block(frames[start : start + _MAX_FRAMES])
            for start in range(0, len(frames), _MAX_FRAMES)
        ]
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def _run_block(self, frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        contexts = np.vstack((self._context[None], frames[:-1, -_CONTEXT_SAMPLES:]))
        self._context = frames[-1, -_CONTEXT_SAMPLES:]
        probabilities, self._hidden, self._cell = _session().run(
            ["speech_probs", "hn", "cn"],
            {
                "input": np.concatenate((contexts, frames), axis=1),
                "h": self._hidden,
                "c": self._cell,
            },
        )
        return np.asarray(probabilities, np.float32).reshape(-1)
