"""The result of a run: a model's folder that the engine, `murmur up` and transformers read."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file

from engine import Checkpoint, resolve_model
from engine.weights.adapters import METADATA, WEIGHTS
from engine.weights.shapes import tensor_shapes
from engine.weights.source import WeightSource
from training.transformers_model import transformers_config


@dataclass(frozen=True, slots=True)
class Origin:
    """What a model is made of and how good it is; all of it is kept with the model.

    Attributes:
        trained_from: name and fingerprint of the model that the run began with.
        steps: of the weights that were kept.
        words_before, words_after: word error rates in percent, by validation set.
        settings: of the run.
    """

    trained_from: str
    fingerprint: str
    steps: int
    hours: float
    words_before: Mapping[str, float]
    words_after: Mapping[str, float]
    licence: str
    settings: Mapping[str, Any]


def export(base: Checkpoint, source: WeightSource, origin: Origin, folder: Path) -> None:
    """Write the model; an old one in its place is replaced in one step.

    Matrices have the number format of the base's own files.
    """
    partial = _begin(folder)
    tensors = {
        f"model.{name}": source.read(name).to(_dtype(base, name)).contiguous().clone()
        for name in tensor_shapes(base.dims)
    }
    header = {"format": "pt", "trained_from": origin.trained_from, "licence": origin.licence}
    save_file(tensors, partial / "model.safetensors", header)
    _write(partial / "config.json", _config(base))
    _write(partial / "generation_config.json", _generation_config(base))
    _write(partial / METADATA, _described(origin))
    _copy_tokenizer(base, partial)
    _replace(folder, partial)


def export_adapter(
    additions: Mapping[str, torch.Tensor], config: LoraConfig, origin: Origin, folder: Path
) -> None:
    """Write what was learnt alone, in PEFT's format, for who serves it beside the base's weights.

    Args:
        additions: as `Learner.additions`.
    """
    partial = _begin(folder)
    save_file(dict(additions), partial / WEIGHTS, {"format": "pt", "licence": origin.licence})
    config.base_model_name_or_path = origin.trained_from
    config.save_pretrained(str(partial))
    _write(partial / METADATA, _described(origin))
    _replace(folder, partial)


def _begin(folder: Path) -> Path:
    """An empty folder beside the one that it is to replace."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _replace(folder: Path, partial: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def read_origin(folder: Path) -> dict[str, Any]:
    """What `export` wrote about a model."""
    content: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    return content


def _dtype(base: Checkpoint, name: str) -> torch.dtype:
    return base.source.read(name, slice(0, 1)).dtype


def _config(base: Checkpoint) -> dict[str, Any]:
    tokenizer = base.tokenizer
    config: dict[str, Any] = transformers_config(base.dims).to_dict()
    ends = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), tokenizer.eot)
    return (
        config
        | ends
        | {
            "architectures": ["WhisperForConditionalGeneration"],
            "decoder_start_token_id": tokenizer.sot,
        }
    )


def _generation_config(base: Checkpoint) -> dict[str, Any]:
    tokenizer = base.tokenizer
    content: dict[str, Any] = {
        "alignment_heads": [list(pair) for pair in base.alignment_heads],
        "begin_suppress_tokens": list(base.begin_suppress_tokens),
        "bos_token_id": tokenizer.eot,
        "decoder_start_token_id": tokenizer.sot,
        "eos_token_id": tokenizer.eot,
        "is_multilingual": tokenizer.multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": base.dims.n_text_ctx,
        "no_timestamps_token_id": tokenizer.no_timestamps,
        "pad_token_id": tokenizer.eot,
        "prev_sot_token_id": tokenizer.sot_prev,
        "return_timestamps": False,
        "suppress_tokens": list(base.suppress_tokens),
    }
    if tokenizer.multilingual:
        content["lang_to_id"] = {f"<|{code}|>": id for code, id in tokenizer.languages.items()}
        content["task_to_id"] = {
            "transcribe": tokenizer.transcribe,
            "translate": tokenizer.translate,
        }
    return content


def _described(origin: Origin) -> dict[str, Any]:
    return {
        "trained_from": {"model": origin.trained_from, "fingerprint": origin.fingerprint},
        "steps": origin.steps,
        "hours_of_speech": round(origin.hours, 3),
        "word_error_rate_percent": {
            name: {"before": round(rate, 3), "after": round(origin.words_after[name], 3)}
            for name, rate in origin.words_before.items()
        },
        "licence": origin.licence,
        "settings": origin.settings,
    }


def _copy_tokenizer(base: Checkpoint, target: Path) -> None:
    folder = resolve_model(base.name)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "preprocessor_config.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
