"""Systems that say when words were said: greedy, with the language given, on the CPU."""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import soundfile
import torch
from faster_whisper import BatchedInferencePipeline, WhisperModel  # type: ignore[import-untyped]

from benchmarks.scoring import TimedText
from benchmarks.systems import BATCH_SIZE, CONTEXT_CHUNKS, CPU_THREADS, murmur_config
from deployments.local import FileDone, Job, LocalTranscriber
from deployments.transcript.fallback import FallbackOptions
from deployments.transcript.options import TranscriptionOptions
from engine import DecodingOptions, Engine, open_checkpoint, resolve_model
from engine.weights.alignment_heads import Heads, published_heads


class System(Protocol):
    def __call__(self, path: Path, language: str, words: bool) -> list[TimedText]:
        """The words of a file, in order; without `words`, its segments."""


class Murmur:
    """Murmur in this process, as `murmur transcribe` runs it, but without higher temperatures."""

    def __init__(self, model: str, precision: str) -> None:
        torch.set_num_threads(CPU_THREADS)
        self._transcriber = LocalTranscriber(Engine.load(model, murmur_config(precision)))

    def __call__(self, path: Path, language: str, words: bool) -> list[TimedText]:
        options = TranscriptionOptions(
            DecodingOptions(language=language, words=words),
            FallbackOptions(temperatures=(0.0,)),
            context_chunks=CONTEXT_CHUNKS,
        )
        for event in self._transcriber.run([Job(str(path), str(path), options)]):
            if isinstance(event, FileDone):
                segments = event.transcript.segments
                found = [w for s in segments for w in s.words] if words else segments
                return [TimedText(each.start_s, each.end_s, each.text) for each in found]
        raise RuntimeError(f"{path} could not be transcribed")


class FasterWhisper:
    """faster-whisper's sequential mode, or its batched one, both with voice detection."""

    def __init__(self, model: str, precision: str, batched: bool) -> None:
        whisper = WhisperModel(
            str(resolve_model(model)), device="cpu", compute_type=precision, cpu_threads=CPU_THREADS
        )
        self._more: dict[str, Any] = {"batch_size": BATCH_SIZE} if batched else {"vad_filter": True}
        self._whisper = BatchedInferencePipeline(whisper) if batched else whisper

    def __call__(self, path: Path, language: str, words: bool) -> list[TimedText]:
        segments, _ = self._whisper.transcribe(
            str(path),
            language=language,
            beam_size=1,
            temperature=0.0,
            word_timestamps=words,
            **self._more,
        )
        found = [w for s in segments for w in s.words] if words else list(segments)
        return [
            TimedText(each.start, each.end, each.word if words else each.text) for each in found
        ]


class OpenAIWhisper:
    """openai-whisper with the same weights, in float32."""

    def __init__(self, model: str, precision: str) -> None:
        torch.set_num_threads(CPU_THREADS)
        self._whisper = _openai_model(model)

    def __call__(self, path: Path, language: str, words: bool) -> list[TimedText]:
        samples, rate = soundfile.read(path, dtype="float32")
        assert rate == 16_000
        result = self._whisper.transcribe(
            samples, language=language, temperature=0.0, word_timestamps=words, fp16=False
        )
        found = [w for s in result["segments"] for w in s["words"]] if words else result["segments"]
        return [TimedText(e["start"], e["end"], e["word" if words else "text"]) for e in found]


FACTORIES: dict[str, Callable[[str, str], System]] = {
    "murmur": Murmur,
    "faster-whisper": lambda model, precision: FasterWhisper(model, precision, False),
    "faster-whisper-batched": lambda model, precision: FasterWhisper(model, precision, True),
    "openai-whisper": OpenAIWhisper,
}
_RENAMED = {
    "layers": "blocks",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "self_attn_layer_norm": "attn_ln",
    "final_layer_norm": "mlp_ln",
    "encoder_attn": "cross_attn",
    "self_attn": "attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "embed_tokens": "token_embedding",
    "embed_positions.weight": "positional_embedding",
}


def _openai_model(name: str) -> Any:
    whisper = import_module("whisper")
    checkpoint = open_checkpoint(name)
    dims = checkpoint.dims
    fields = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer", "n_vocab")
    more = ("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")
    sizes = {field: getattr(dims, field) for field in (*fields, *more)}
    model = whisper.Whisper(whisper.model.ModelDimensions(**sizes))
    theirs = model.state_dict()
    state = {key: checkpoint.source.read(_name(key, theirs)).float() for key in theirs}
    model.load_state_dict(state)
    model.register_buffer(
        "alignment_heads", _mask(published_heads(dims), dims.n_text_layer, dims.n_text_head), False
    )
    return model.eval()


def _name(theirs: str, known: dict[str, torch.Tensor]) -> str:
    """transformers' name of one of openai-whisper's variables."""
    if theirs in ("encoder.positional_embedding", "decoder.positional_embedding"):
        return theirs.replace("positional_embedding", "embed_positions.weight")
    if theirs.startswith(("encoder.ln_post", "decoder.ln.")):
        return theirs.replace("ln_post", "layer_norm").replace("decoder.ln.", "decoder.layer_norm.")
    parts = {new: old for old, new in _RENAMED.items()}
    name = theirs
    for new in sorted(parts, key=len, reverse=True):
        name = name.replace(f".{new}.", f".{parts[new]}.")
    return name


def _mask(heads: Heads, n_layers: int, n_heads: int) -> torch.Tensor:
    mask = torch.zeros(n_layers, n_heads, dtype=torch.bool)
    for layer, head in heads:
        mask[layer, head] = True
    return mask.to_sparse()


def missing(name: str) -> bool:
    """Whether a system's package is not installed."""
    if name != "openai-whisper":
        return False
    if find_spec("whisper") is None:
        print("openai-whisper is not installed: left out", file=sys.stderr)
        return True
    return False
