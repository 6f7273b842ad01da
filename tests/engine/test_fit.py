"""What does not fit is refused before anything is allocated, with settings that would fit."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import (
    Checkpoint,
    CrossAttentionMode,
    Engine,
    EngineConfig,
    EngineError,
    Offload,
    Precision,
    devices,
)
from engine.devices import free_bytes, usable_bytes
from engine.fit import check_rank, fitted, rank_memory
from engine.model_sizes import LARGE_V3, MODEL_SIZES, known_sizes
from engine.parallel.stages import Stage, cut_stages
from engine.precision import Arithmetic
from engine.weights.shapes import n_values

A100 = Arithmetic.of_gpu("NVIDIA A100", (8, 0))
GPU = EngineConfig(device="cuda", precision=Precision.BFLOAT16, max_slots=64)
WHOLE = (Stage.whole(LARGE_V3),)


def needed(config: EngineConfig) -> int:
    return rank_memory(LARGE_V3, config, A100, WHOLE, 0).total


def changed(config: EngineConfig, advice: str) -> EngineConfig:
    """The config with the settings that a message names."""
    kinds = {
        "batch_size": int,
        "encode_batch": int,
        "max_length": int,
        "precision": Precision,
        "offload": Offload,
        "cross_attention": CrossAttentionMode,
        "int8_self_attention": lambda text: text == "True",
    }
    pairs = re.findall(r"(\w+)=([\w-]+)", advice)
    fields = {"batch_size": "max_slots"}
    return replace(config, **{fields.get(n, n): kinds[n](value) for n, value in pairs})


def test_what_fits_is_left_as_it_is() -> None:
    assert fitted(LARGE_V3, GPU, A100, needed(GPU)) is GPU


def test_fewer_windows_are_encoded_at_once_where_memory_is_short() -> None:
    one = replace(GPU, encode_batch=1)
    available = (needed(GPU) + needed(one)) / 2
    tried = fitted(LARGE_V3, GPU, A100, available)
    assert 1 <= tried.encode_limit < GPU.encode_limit
    assert tried.prompt_limit == tried.encode_limit
    assert needed(tried) <= available < needed(replace(tried, encode_batch=2 * tried.encode_limit))
    with pytest.raises(EngineError, match="needs"):
        fitted(LARGE_V3, replace(GPU, encode_batch=8), A100, available)


@pytest.mark.parametrize("gigabytes", [21, 15, 8, 4, 3, 2.3])
def test_every_setting_that_is_named_makes_it_fit(gigabytes: float) -> None:
    config = replace(GPU, encode_batch=1)
    with pytest.raises(EngineError) as caught:
        fitted(LARGE_V3, config, A100, gigabytes * 1e9)
    message = str(caught.value)
    assert f"of {gigabytes:.3g} GB that may be used" in message and "weights 3.0" in message
    named = message.partition("it fits with ")[2].split(" or with ")
    assert named
    for advice in named:
        assert needed(changed(config, advice)) <= gigabytes * 1e9, advice
    if "batch_size" in named[0]:
        more = changed(config, named[0])
        assert needed(replace(more, max_slots=more.max_slots + 1)) > gigabytes * 1e9


def test_where_nothing_helps_it_says_so() -> None:
    with pytest.raises(EngineError, match="no setting makes it fit: split it over several"):
        fitted(LARGE_V3, GPU, A100, 0.2e9)


def test_an_engine_refuses_before_it_allocates(
    checkpoints: dict[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights are read")

    checkpoint = checkpoints["demo:tiny.en"]
    monkeypatch.setattr(checkpoint.source, "read", read)
    with pytest.raises(EngineError, match="1 GB that may be used; it fits with batch_size="):
        Engine(checkpoint, EngineConfig(max_slots=200, memory_bytes=1e9))


def test_a_rank_refuses_its_part() -> None:
    config = EngineConfig(precision=Precision.BFLOAT16, memory_bytes=1.2e9, encode_batch=1)
    stages = cut_stages(LARGE_V3, [32, 32])
    with pytest.raises(EngineError, match=r"stage 1 \(decoder 0-31\) needs .* of 1.2 GB that may"):
        check_rank(LARGE_V3, config, stages, 1, tensor_parallel=1)
    check_rank(LARGE_V3, config, stages, 1, tensor_parallel=8)


def test_free_memory_is_what_the_system_and_the_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert 0 < free_bytes(cpu) < float("inf")
    assert usable_bytes(cpu, 1e6) == 1e6
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:  500 kB\n")
    monkeypatch.setattr(devices, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    assert free_bytes(cpu) == 500 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300000\n")
    assert free_bytes(cpu) == 500 * 1024
    (tmp_path / "memory.max").write_text("400000\n")
    (tmp_path / "memory.stat").write_text("anon 200000\ninactive_file 50000\nactive_file 9\n")
    assert free_bytes(cpu) == 150_009


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 39), ("base", 74), ("small", 244), ("medium", 769), ("large-v2", 1550)]
    + [("large-v3", 1550), ("turbo", 809), ("distil-small.en", 166), ("distil-medium.en", 394)]
    + [("distil-large-v2", 756), ("distil-large-v3", 756)],
)
def test_sizes_are_those_of_openais_table(name: str, millions: int) -> None:
    """https://github.com/openai/whisper, README, "Available models and languages", and
    https://github.com/huggingface/distil-whisper, README; they round, and OpenAI's counts no fixed
    positions of the encoder."""
    dims = MODEL_SIZES[name]
    assert n_values(dims) == pytest.approx(millions * 1e6, rel=0.035)


def test_sizes_are_known_by_every_name(checkpoints: dict[str, Checkpoint]) -> None:
    for name, checkpoint in checkpoints.items():
        assert known_sizes(name) == checkpoint.dims
    assert known_sizes("openai/whisper-large-v3") == known_sizes("large-v3") == LARGE_V3
    assert known_sizes("openai/whisper-large-v3-turbo") == MODEL_SIZES["turbo"]
    assert known_sizes("distil-whisper/distil-large-v3.5").n_text_layer == 2
    assert known_sizes("somebody/whisper-of-her-own") is None
