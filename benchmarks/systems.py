"""Speech-recognition systems behind one interface, so that `accuracy` treats them alike.

A system is one product with one model at one precision. To add one, write a class with the
attributes of `System` and put a factory into `FACTORIES`; nothing else changes.
All run at temperature 0 with the language given, on the CPU; greedily, but for those whose names
end in `-beam5`, and in `-auto`, which search with 5 beams where the greedy text is unsure.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import soundfile
import torch
from faster_whisper import BatchedInferencePipeline, WhisperModel  # type: ignore[import-untyped]

from benchmarks.scoring import TimedText
from benchmarks.transformers_model import transformers_pipeline
from deployments.local import FileDone, Job, LocalTranscriber
from deployments.options import BEST_BEAM_SIZE
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from deployments.transcript.unsure import UnsureOptions
from engine import DecodingOptions, Engine, EngineConfig, Precision, open_checkpoint, resolve_model

CPU_THREADS = 2
BATCH_SIZE = 8
MURMUR_SLOTS = {1: 24, 5: 40}  # the command line's defaults, by beams
CONTEXT_CHUNKS = 32  # the command line's default
_AUTO = "-auto"


class System(Protocol):
    """A system to compare. It loads when created, so that `transcribe` can be timed alone."""

    name: str
    model: str
    precision: str

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        """Segments of the audio file, in order; times in seconds on the file's clock."""
        ...


# (model name, precision) -> a loaded system
Factory = Callable[[str, str], System]


class FasterWhisper:
    """faster-whisper's sequential mode: each 30 s window starts where the last one's text ended."""

    def __init__(self, model: str, precision: str, *, vad: bool, beam_size: int = 1) -> None:
        self.name = ("faster-whisper" if vad else "faster-whisper-no-vad") + _beams(beam_size)
        self.model = model
        self.precision = precision
        self._vad = vad
        self._beam_size = beam_size
        self._whisper = _load(model, precision)

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        segments, _ = self._whisper.transcribe(
            str(path),
            language=language,
            beam_size=self._beam_size,
            temperature=0.0,
            vad_filter=self._vad,
        )
        return [TimedText(s.start, s.end, s.text) for s in segments]


class FasterWhisperBatched:
    """faster-whisper's batched mode: speech regions packed into chunks that are decoded together.

    Without timestamps, its default, a chunk is one segment, whose start says little.
    """

    def __init__(self, model: str, precision: str, *, timestamps: bool, beam_size: int = 1) -> None:
        times = "" if timestamps else "-no-timestamps"
        self.name = "faster-whisper-batched" + times + _beams(beam_size)
        self._timestamps = timestamps
        self._beam_size = beam_size
        self.model = model
        self.precision = precision
        self._pipeline = BatchedInferencePipeline(_load(model, precision))

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        segments, _ = self._pipeline.transcribe(
            str(path),
            language=language,
            batch_size=BATCH_SIZE,
            beam_size=self._beam_size,
            temperature=0.0,
            without_timestamps=not self._timestamps,
        )
        return [TimedText(s.start, s.end, s.text) for s in segments]


def _beams(beam_size: int) -> str:
    return f"-beam{beam_size}" if beam_size > 1 else ""


def _load(model: str, precision: str) -> WhisperModel:
    return WhisperModel(
        str(resolve_model(model)), device="cpu", compute_type=precision, cpu_threads=CPU_THREADS
    )


class Transformers:
    """transformers' pipeline in its chunked, batched mode, in float32."""

    name = "transformers"

    def __init__(self, model: str, precision: str) -> None:
        torch.set_num_threads(CPU_THREADS)
        self.model = model
        self.precision = precision
        self._multilingual = not model.endswith(".en")
        self._pipeline = transformers_pipeline(open_checkpoint(model))

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        samples, rate = soundfile.read(path, dtype="float32")
        kwargs = {"language": language, "task": "transcribe"} if self._multilingual else {}
        result = self._pipeline(
            {"raw": samples, "sampling_rate": rate},
            chunk_length_s=30,
            batch_size=BATCH_SIZE,
            return_timestamps=True,
            generate_kwargs=kwargs,
        )
        return [
            TimedText(start, start if end is None else end, chunk["text"])
            for chunk in result["chunks"]
            for start, end in [chunk["timestamp"]]
            if start is not None
        ]


class Murmur:
    """Murmur in this process, as `murmur transcribe` runs it, but without higher temperatures."""

    def __init__(
        self,
        model: str,
        config: EngineConfig,
        *,
        context_chunks: int,
        beam_size: int = 1,
        unsure_beam_size: int = 1,
    ) -> None:
        beams = _AUTO if unsure_beam_size > 1 else _beams(beam_size)
        self.name = ("murmur" if context_chunks > 1 else "murmur-parallel") + beams
        self._beam_size = beam_size
        self._unsure = UnsureOptions(unsure_beam_size)
        self.model = model
        self.precision = config.precision.value
        self._context_chunks = context_chunks
        torch.set_num_threads(CPU_THREADS)
        self.engine = Engine.load(model, config)

    def transcribe(self, path: Path, language: str) -> list[TimedText]:
        options = TranscriptionOptions(
            DecodingOptions(language=language, beam_size=self._beam_size),
            FallbackOptions(temperatures=(0.0,)),
            unsure=self._unsure,
            context_chunks=self._context_chunks,
        )
        job = Job(str(path), str(path), options)
        for event in LocalTranscriber(self.engine).run([job]):
            if isinstance(event, FileDone):
                return [TimedText(s.start_s, s.end_s, s.text) for s in event.transcript.segments]
        raise RuntimeError(f"{path} could not be transcribed")


def murmur_config(precision: str, beam_size: int = 1) -> EngineConfig:
    return EngineConfig(precision=Precision(precision), max_slots=MURMUR_SLOTS[beam_size])


def _factories(beam_size: int) -> dict[str, Factory]:
    beams = _beams(beam_size)
    return {
        f"faster-whisper{beams}": lambda model, precision: FasterWhisper(
            model, precision, vad=True, beam_size=beam_size
        ),
        f"faster-whisper-no-vad{beams}": lambda model, precision: FasterWhisper(
            model, precision, vad=False, beam_size=beam_size
        ),
        f"faster-whisper-batched{beams}": lambda model, precision: FasterWhisperBatched(
            model, precision, timestamps=True, beam_size=beam_size
        ),
        f"faster-whisper-batched-no-timestamps{beams}": lambda model, precision: (
            FasterWhisperBatched(model, precision, timestamps=False, beam_size=beam_size)
        ),
        f"murmur{beams}": lambda model, precision: Murmur(
            model,
            murmur_config(precision, beam_size),
            context_chunks=CONTEXT_CHUNKS,
            beam_size=beam_size,
        ),
        f"murmur-parallel{beams}": lambda model, precision: Murmur(
            model, murmur_config(precision, beam_size), context_chunks=1, beam_size=beam_size
        ),
    }


def _searching_where_unsure(context_chunks: int) -> Factory:
    return lambda model, precision: Murmur(
        model,
        murmur_config(precision, BEST_BEAM_SIZE),
        context_chunks=context_chunks,
        unsure_beam_size=BEST_BEAM_SIZE,
    )


GREEDY: dict[str, Factory] = {**_factories(1), "transformers": Transformers}
FACTORIES: dict[str, Factory] = {
    **GREEDY,
    **_factories(BEST_BEAM_SIZE),
    f"murmur{_AUTO}": _searching_where_unsure(CONTEXT_CHUNKS),
    f"murmur-parallel{_AUTO}": _searching_where_unsure(1),
}


def precisions_of(name: str) -> tuple[str, ...]:
    """The precisions of a system of that name."""
    if name == "transformers":
        return ("float32",)
    return tuple(Precision) if name.startswith("murmur") else ("float32", "int8")
