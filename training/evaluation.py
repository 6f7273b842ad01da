"""Word errors of a model while it learns, as a server would make them.

The weights as they are now go into an engine of our own, in the device's default precision, and
each clip takes the way of a file: voice activity, chunks, decoding, silence. Only temperatures
above 0 are left out, for they are drawn at random.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from deployments.audio.reading import Samples
from deployments.local import FileDone, FileFailed, Job, LocalTranscriber
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from engine import (
    SAMPLE_RATE,
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    default_precision,
)
from engine.weights.source import WeightSource
from training.memory import MEASURING_SLOTS
from training.recordings import Clip, Recordings
from training.word_errors import wer
from training.world import World


@dataclass(frozen=True, slots=True)
class Words:
    """Word errors on a set of clips."""

    errors: int
    words: int

    @property
    def rate(self) -> float:
        """Errors in percent of words."""
        return 100.0 * self.errors / max(1, self.words)


def measure(
    checkpoint: Checkpoint,
    source: WeightSource,
    sets: Mapping[str, Recordings],
    world: World,
) -> dict[str, Words]:
    """Word errors of the weights on each set; workers share the clips."""
    config = EngineConfig(
        device=str(world.device),
        precision=default_precision(world.device),
        max_slots=MEASURING_SLOTS,
    )
    transcriber = LocalTranscriber(Engine(replace(checkpoint, source=source), config))
    found = {}
    with torch.inference_mode():
        for name, recordings in sets.items():
            mine = recordings.clips[world.rank :: world.size]
            said = _transcribe(transcriber, recordings, mine)
            rates = [
                wer(clip.text, text, clip.language) for clip, text in zip(mine, said, strict=True)
            ]
            errors, words = world.sums(
                [float(sum(r.errors for r in rates)), float(sum(r.length for r in rates))]
            )
            found[name] = Words(int(errors), int(words))
    return found


def _transcribe(
    transcriber: LocalTranscriber, recordings: Recordings, clips: Sequence[Clip]
) -> list[str]:
    jobs = [
        Job(str(index), Samples(recordings.pcm(clip), SAMPLE_RATE), _options(clip))
        for index, clip in enumerate(clips)
    ]
    texts = [""] * len(clips)
    for event in transcriber.run(jobs):
        if isinstance(event, FileDone):
            segments = event.transcript.segments
            texts[int(event.name)] = " ".join(segment.text for segment in segments)
        elif isinstance(event, FileFailed):
            raise event.error
    return texts


def _options(clip: Clip) -> TranscriptionOptions:
    return TranscriptionOptions(
        DecodingOptions(language=clip.language), FallbackOptions(temperatures=(0.0,))
    )
