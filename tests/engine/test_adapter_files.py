"""Adapters that cannot be used are refused, each with one line that names the fault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import Checkpoint, WeightsError
from engine.weights.adapters import CONFIG, METADATA, WEIGHTS, open_adapter
from tests.support.adapters import write_adapter
from tests.support.small_model import small_checkpoint

Tensors = dict[str, torch.Tensor]
KEY = "base_model.model.model.decoder.layers.0.fc1.lora_A.weight"


@pytest.fixture
def base(checkpoints: dict[str, Checkpoint]) -> Checkpoint:
    return small_checkpoint(checkpoints["demo:tiny.en"])


@pytest.fixture
def folder(base: Checkpoint, tmp_path: Path) -> Path:
    return write_adapter(base, tmp_path / "names", seed=1, rank=4)


def fault_of(base: Checkpoint, folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        open_adapter("names", folder, base.dims, base.fingerprint)
    fault = str(caught.value)
    assert fault.startswith(f"adapter names ({folder}): ") and "\n" not in fault
    return fault.split("): ", 1)[1]


def test_a_good_one(base: Checkpoint, folder: Path) -> None:
    adapter = open_adapter("names", folder, base.dims, base.fingerprint)
    assert (adapter.rank, adapter.scale) == (4, 2.0)
    assert len(adapter.layers) == 2 * 6 + 2 * 10
    down, up = adapter.matrices("decoder.layers.1.fc2")
    stored = load_file(folder / WEIGHTS)
    key = "base_model.model.model.decoder.layers.1.fc2"
    assert torch.equal(down, stored[f"{key}.lora_A.weight"])
    assert torch.equal(up, 2.0 * stored[f"{key}.lora_B.weight"])


def test_a_scale_by_the_root_of_the_rank(base: Checkpoint, tmp_path: Path) -> None:
    folder = write_adapter(base, tmp_path / "names", seed=1, rank=4, use_rslora=True)
    assert open_adapter("names", folder, base.dims, base.fingerprint).scale == 4.0


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"use_dora": True}, "use_dora is not supported"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save is not supported"),
        ({"rank_pattern": {"fc1": 8}}, "rank_pattern is not supported"),
        ({"alpha_pattern": {"fc1": 8}}, "alpha_pattern is not supported"),
        ({"bias": "all"}, "bias 'all' is not supported, only 'none'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not 'LORA'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changes the base's weights"),
        ({"r": 0}, "r must be a whole number from 1, got 0"),
        ({"lora_alpha": None}, "lora_alpha must be a number, got None"),
    ],
)
def test_kinds_that_are_not_supported(
    config: dict[str, Any], fault: str, base: Checkpoint, tmp_path: Path
) -> None:
    folder = write_adapter(base, tmp_path / "names", seed=1, rank=4, **config)
    assert fault_of(base, folder) == fault


def _without(tensors: Tensors) -> None:
    del tensors[KEY]


def _without_both(tensors: Tensors) -> None:
    del tensors[KEY], tensors[KEY.replace("_A", "_B")]


def _not_finite(tensors: Tensors) -> None:
    tensors[KEY][0, 0] = float("nan")


def _too_wide(tensors: Tensors) -> None:
    tensors[KEY] = torch.zeros(4, 48)


def _of_an_embedding(tensors: Tensors) -> None:
    tensors["base_model.model.model.decoder.embed_tokens.lora_A.weight"] = torch.zeros(4, 32)


def _magnitudes(tensors: Tensors) -> None:
    tensors[KEY.replace("lora_A.weight", "lora_magnitude_vector")] = torch.zeros(4)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_without, "the tensor lora_A of decoder.layers.0.fc1 is missing"),
        (_without_both, "the tensors of decoder.layers.0.fc1 are missing, a target module"),
        (_not_finite, f"{KEY} holds values that are no finite numbers"),
        (
            _too_wide,
            "lora_A of decoder.layers.0.fc1 is (4, 48), the model and the rank say (4, 32)",
        ),
        (_of_an_embedding, "the model has no linear layer decoder.embed_tokens to adapt"),
        (
            _magnitudes,
            "base_model.model.model.decoder.layers.0.fc1.lora_magnitude_vector is no matrix of a "
            "LoRA adapter",
        ),
    ],
)
def test_wrong_tensors(
    change: Callable[[Tensors], None], fault: str, base: Checkpoint, folder: Path
) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    assert fault_of(base, folder) == fault


def test_files_that_are_none(base: Checkpoint, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"no tensors")
    assert fault_of(base, folder).startswith(f"{WEIGHTS}: ")
    (folder / WEIGHTS).unlink()
    assert fault_of(base, folder) == f"there is no {WEIGHTS}"
    (folder / CONFIG).write_text("[]")
    assert fault_of(base, folder) == f"{CONFIG}: not a JSON object"
    (folder / CONFIG).unlink()
    assert fault_of(base, folder) == f"there is no {CONFIG}"


def test_another_models_adapter(base: Checkpoint, folder: Path) -> None:
    origin = {"trained_from": {"model": "demo:base", "fingerprint": "0"}}
    (folder / METADATA).write_text(json.dumps(origin))
    assert fault_of(base, folder) == "it was trained on another model: demo:base"


def test_values_tell_adapters_apart(base: Checkpoint, tmp_path: Path) -> None:
    """By which a gang notices that a rank has another one."""
    sums = set()
    for number, seed in enumerate((1, 1, 2)):
        folder = write_adapter(base, tmp_path / str(number), seed, rank=4)
        sums.add(open_adapter("names", folder, base.dims, base.fingerprint).checksum)
    assert len(sums) == 2
