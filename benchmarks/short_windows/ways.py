"""One engine that transcribes clips with short windows and with whole ones."""

import time
from dataclasses import dataclass, replace

import torch

from benchmarks.short_windows.clips import Clip
from deployments.messages import Chunk, to_chunk_result, to_request
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.transcription import Transcription
from engine import (
    DecodingOptions,
    Engine,
    EngineConfig,
    Precision,
    Window,
    default_precision,
)


@dataclass
class Done:
    """A clip's text, the chunks that a short window was tried on, those of them that were decoded
    again, and the seconds that all took."""

    text: str
    n_short: int = 0
    n_again: int = 0
    took_s: float = 0.0


class Ways:
    """
    Args:
        precision: None: the device's default.
        margin: frames of silence behind a chunk in a short window.
    """

    def __init__(self, model: str, precision: str | None, margin: int) -> None:
        chosen = Precision(precision) if precision else default_precision(torch.device("cpu"))
        config = EngineConfig(precision=chosen, window=Window.SHORT, margin_frames=margin)
        self._model = model
        self._engine = Engine.load(model, config)

    def transcribe(self, clip: Clip, whole: bool) -> Done:
        """Transcribe a clip as a file of its own, its language known.

        Args:
            whole: with whole windows alone, bit by bit as an engine without short ones.
        """
        language = clip.language if self._engine.tokenizer.multilingual else None
        options = TranscriptionOptions(decoding=DecodingOptions(language=language))
        transcription = Transcription(clip.name, options, detect=False)
        done, began_s = Done(""), time.perf_counter()
        self._add(transcription.push(clip.pcm) + transcription.finish(), whole)
        while self._engine.has_unfinished:
            for result in map(lambda each: to_chunk_result(each, self._model), self._engine.step()):
                done.n_short += result.is_short
                self._add(transcription.accept(result).chunks, whole)
        done.took_s = time.perf_counter() - began_s
        done.text, done.n_again = transcription.transcript().text, transcription.n_whole_again
        return done

    def _add(self, chunks: list[Chunk], whole: bool) -> None:
        for chunk in chunks:
            asked = replace(chunk, window=Window.EXACT) if whole else chunk
            self._engine.add_request(to_request(asked))
