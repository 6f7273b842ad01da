"""Windows to tensors: sound is put together and changed, texts become labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine import N_SAMPLES, SAMPLE_RATE
from engine.audio.features import LogMel
from engine.decoding.tokenizer import Tokenizer
from training.augmentation import at_speed, changed, masked
from training.labels import IGNORED, Labelled, labelled
from training.manifest import Span
from training.recordings import Clip, Recordings
from training.settings import AugmentSettings
from training.windows import Placed, Window

_FULL_SCALE = np.float32(32_768)


@dataclass(frozen=True, slots=True, eq=False)
class Sounds:
    """Windows as they are before they reach the device.

    Attributes:
        pcm: int16, (N_SAMPLES,) or shorter, for each window.
        seeds: of the masks.
    """

    pcm: tuple[npt.NDArray[np.int16], ...]
    texts: tuple[Labelled, ...]
    seeds: tuple[tuple[int, int, int], ...]

    @property
    def n_labels(self) -> int:
        """Tokens that are learnt."""
        return sum(label != IGNORED for text in self.texts for label in text.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Attributes:
    mel: (batch, n_mels, 3000) float32.
    inputs: (batch, n_positions) token ids; what pads them is of no effect, for attention is causal.
    labels: (batch, n_positions) token ids, or `IGNORED`.
    """

    mel: torch.Tensor
    inputs: torch.Tensor
    labels: torch.Tensor


class Batches:
    """Makes batches of windows.

    Args:
        augment: None: sound stays as it is.
    """

    def __init__(
        self,
        recordings: Recordings,
        tokenizer: Tokenizer,
        log_mel: LogMel,
        augment: AugmentSettings | None,
    ) -> None:
        self._recordings = recordings
        self._tokenizer = tokenizer
        self._log_mel = log_mel
        self._augment = augment

    def sounds(self, windows: Sequence[Window]) -> Sounds:
        """The part of the work that needs no device, for a thread that works ahead."""
        return Sounds(
            pcm=tuple(self._pcm(window) for window in windows),
            texts=tuple(self._text(window) for window in windows),
            seeds=tuple(window.seed for window in windows),
        )

    def batch(self, sounds: Sounds) -> Batch:
        """The tensors, on the device."""
        device = self._log_mel.device
        mel = self._log_mel(sounds.pcm)
        if self._augment is not None:
            for row, seed in zip(mel, sounds.seeds, strict=True):
                masked(row, self._augment, np.random.default_rng([*seed, 1]))
        n_positions = max(len(text.inputs) for text in sounds.texts)
        inputs = torch.full((len(mel), n_positions), self._tokenizer.eot)
        labels = torch.full((len(mel), n_positions), IGNORED)
        for row, text in enumerate(sounds.texts):
            inputs[row, : len(text.inputs)] = torch.tensor(text.inputs)
            labels[row, : len(text.labels)] = torch.tensor(text.labels)
        return Batch(mel, inputs.to(device), labels.to(device))

    def _pcm(self, window: Window) -> npt.NDArray[np.int16]:
        samples = np.zeros(N_SAMPLES, np.float32)
        end = 0
        for placed in window.clips:
            clip = self._recordings.clips[placed.clip]
            sound = self._recordings.pcm(clip).astype(np.float32) / _FULL_SCALE
            sound = at_speed(sound, placed.speed)[: N_SAMPLES - placed.first]
            samples[placed.first : placed.first + len(sound)] = sound
            end = max(end, placed.first + len(sound))
        samples = samples[:end]
        if self._augment is not None:
            samples = changed(samples, self._augment, np.random.default_rng(window.seed))
        return np.asarray(np.clip(samples * _FULL_SCALE, -32_768, 32_767), np.int16)

    def _text(self, window: Window) -> Labelled:
        clips = self._recordings.clips
        first = clips[window.clips[0].clip]
        spans = [span for placed in window.clips for span in _spans(clips[placed.clip], placed)]
        previous = None
        if window.tells_previous:
            other = None if window.previous is None else clips[window.previous].text
            previous = first.previous or other
        return labelled(self._tokenizer, first.language, spans, window.timestamps, previous)


def _spans(clip: Clip, placed: Placed) -> list[Span]:
    """What a clip says, in seconds of its window."""
    begins_s = placed.first / SAMPLE_RATE
    ends_s = begins_s + placed.n_samples(clip) / SAMPLE_RATE
    if not clip.segments:
        return [Span(begins_s, ends_s, clip.text)]
    return [
        Span(
            begins_s + span.start_s / placed.speed,
            min(begins_s + span.end_s / placed.speed, ends_s),
            span.text,
        )
        for span in clip.segments
    ]
