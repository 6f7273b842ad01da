"""Opens a model folder: sizes, weights, tokenizer and the tokens that it suppresses.

Reads transformers' layout (config.json, generation_config.json, safetensors) and CTranslate2's
(config.json, model.bin), for every Whisper size and for distilled ones.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.config import ModelDimensions
from engine.decoding.tokenizer import N_TIMESTAMPS, Tokenizer
from engine.errors import WeightsError
from engine.weights import safetensors
from engine.weights.adapters import Adapter, open_adapter
from engine.weights.alignment_heads import Heads, alignment_heads
from engine.weights.ctranslate2 import CTranslate2Source
from engine.weights.hub import resolve_model
from engine.weights.json_file import read_json
from engine.weights.safetensors import SafetensorsSource
from engine.weights.shapes import tensor_shapes
from engine.weights.source import WeightSource


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a model's folder says about it.

    `suppress_tokens` are never sampled; `begin_suppress_tokens` not as the first token.
    `alignment_heads` tell when words were said (`engine.weights.alignment_heads`). `adapters` are
    loaded beside the weights, for the requests that name them.
    """

    name: str
    dims: ModelDimensions
    source: WeightSource
    tokenizer: Tokenizer
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    alignment_heads: Heads
    adapters: tuple[Adapter, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identifies weights and vocabulary, by sizes and a few tensors of encoder and decoder."""
        text = f"{self.dims} {self.suppress_tokens} {len(self.tokenizer.vocabulary)}"
        sum_so_far = zlib.crc32(text.encode())
        for name in ("encoder.layer_norm.weight", "encoder.conv1.bias", "decoder.layer_norm.bias"):
            values = self.source.read(name).contiguous().view(torch.uint8)
            sum_so_far = zlib.crc32(values.numpy().tobytes(), sum_so_far)
        for adapter in self.adapters:
            sum_so_far = zlib.crc32(f"{adapter.name} {adapter.checksum}".encode(), sum_so_far)
        return f"{sum_so_far:08x}"


def open_checkpoint(name: str, adapters: Mapping[str, str] | None = None) -> Checkpoint:
    """Open a model by name (see `engine.weights.hub`). Of its weights none are read yet, of its
    adapters all.

    Args:
        adapters: folders of adapters (`engine.weights.adapters`), by the names that requests use.

    Raises:
        ModelNotFoundError: there is no model of that name.
        WeightsError: the folder holds no usable Whisper model, or an adapter does not fit it.
    """
    checkpoint = _open_model(name)
    fingerprint = checkpoint.fingerprint if adapters else ""
    opened = tuple(
        open_adapter(key, Path(folder).expanduser(), checkpoint.dims, fingerprint)
        for key, folder in (adapters or {}).items()
    )
    return replace(checkpoint, adapters=opened)


def _open_model(name: str) -> Checkpoint:
    folder = resolve_model(name)
    if (folder / "model.bin").is_file() and _is_ctranslate2(folder / "model.bin"):
        return _open_ctranslate2(name, folder)
    if (folder / safetensors.SINGLE).exists() or (folder / safetensors.INDEX).exists():
        return _open_transformers(name, folder)
    raise WeightsError(
        f"{folder}: no Whisper model: neither model.safetensors nor a CTranslate2 model.bin"
    )


def _is_ctranslate2(path: Path) -> bool:
    with path.open("rb") as file:
        return int.from_bytes(file.read(4), "little") <= 16


def _open_transformers(name: str, folder: Path) -> Checkpoint:
    config = read_json(folder / "config.json")
    if config.get("model_type") != "whisper":
        raise WeightsError(f"{folder}: model_type is {config.get('model_type')!r}, not 'whisper'")
    generation = _read_if_there(folder / "generation_config.json")
    dims = _dims_of_config(folder, config)
    source = SafetensorsSource(folder)
    _check_tensors(folder, source, dims)
    tokenizer = _load_tokenizer(folder, dims)
    settings = config | generation
    return Checkpoint(
        name=name,
        dims=dims,
        source=source,
        tokenizer=tokenizer,
        suppress_tokens=_suppressed(settings.get("suppress_tokens"), tokenizer),
        begin_suppress_tokens=_begin_suppressed(settings.get("begin_suppress_tokens"), tokenizer),
        alignment_heads=alignment_heads(settings.get("alignment_heads"), dims),
    )


def _open_ctranslate2(name: str, folder: Path) -> Checkpoint:
    source = CTranslate2Source(folder / "model.bin")
    config = _read_if_there(folder / "config.json")
    dims = _dims_of_variables(source)
    _check_tensors(folder, source, dims)
    tokenizer = _load_tokenizer(folder, dims)
    return Checkpoint(
        name=name,
        dims=dims,
        source=source,
        tokenizer=tokenizer,
        suppress_tokens=_suppressed(config.get("suppress_ids"), tokenizer),
        begin_suppress_tokens=_begin_suppressed(config.get("suppress_ids_begin"), tokenizer),
        alignment_heads=alignment_heads(config.get("alignment_heads"), dims),
    )


def _dims_of_config(folder: Path, config: dict[str, Any]) -> ModelDimensions:
    try:
        return ModelDimensions(
            n_mels=config["num_mel_bins"],
            n_vocab=config["vocab_size"],
            n_audio_ctx=config["max_source_positions"],
            n_audio_state=config["d_model"],
            n_audio_head=config["encoder_attention_heads"],
            n_audio_layer=config["encoder_layers"],
            n_text_ctx=config["max_target_positions"],
            n_text_state=config["d_model"],
            n_text_head=config["decoder_attention_heads"],
            n_text_layer=config["decoder_layers"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder}: config.json is no Whisper configuration: {error}") from error


def _check_tensors(folder: Path, source: WeightSource, dims: ModelDimensions) -> None:
    """Check sizes: a configuration that does not fit its weights would load and write nonsense."""
    for name, shape in tensor_shapes(dims).items():
        if name not in source:
            raise WeightsError(f"{folder}: the weight files lack the tensor {name}")
        if source.shape(name) != shape:
            found = source.shape(name)
            raise WeightsError(
                f"{folder}: tensor {name} is {found}, the configuration says {shape}"
            )
    for side, layers in (("encoder", dims.n_audio_layer), ("decoder", dims.n_text_layer)):
        if f"{side}.layers.{layers}.fc1.weight" in source:
            raise WeightsError(f"{folder}: the weights hold more {side} layers than {layers}")


def _load_tokenizer(folder: Path, dims: ModelDimensions) -> Tokenizer:
    tokenizer = Tokenizer.load(folder, dims.is_multilingual)
    n_tokens = tokenizer.timestamp_begin + N_TIMESTAMPS
    if n_tokens != dims.n_vocab:
        raise WeightsError(
            f"{folder}: the tokenizer has {n_tokens} tokens, the model {dims.n_vocab}: "
            "it belongs to another model"
        )
    return tokenizer


def _dims_of_variables(source: CTranslate2Source) -> ModelDimensions:
    n_audio_state, n_mels, _ = source.shape("encoder.conv1.weight")
    n_vocab, n_text_state = source.shape("decoder.embed_tokens.weight")
    return ModelDimensions(
        n_mels=n_mels,
        n_vocab=n_vocab,
        n_audio_ctx=source.shape("encoder.embed_positions.weight")[0],
        n_audio_state=n_audio_state,
        n_audio_head=source.scalar("encoder/num_heads"),
        n_audio_layer=source.n_layers("encoder"),
        n_text_ctx=source.shape("decoder.embed_positions.weight")[0],
        n_text_state=n_text_state,
        n_text_head=source.scalar("decoder/num_heads"),
        n_text_layer=source.n_layers("decoder"),
    )


def _suppressed(listed: object, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The checkpoint's list, plus the control tokens that no text may ever contain."""
    control = {
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.no_speech,
        tokenizer.no_timestamps,
    }
    return tuple(sorted(control | set(_token_list(listed))))


def _begin_suppressed(listed: object, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The checkpoint's list, or openai/whisper's `SuppressBlank`: a space and the end token."""
    return _token_list(listed) or (*tokenizer.encode(" "), tokenizer.eot)


def _token_list(listed: object) -> tuple[int, ...]:
    """Token ids; -1 in openai/whisper's lists stands for a default and is left out."""
    if listed is None:
        return ()
    if not isinstance(listed, list) or not all(isinstance(token, int) for token in listed):
        raise WeightsError(f"a list of suppressed tokens holds what are no token ids: {listed!r}")
    return tuple(token for token in listed if token >= 0)


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
