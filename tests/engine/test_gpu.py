"""The same tokens and words on a CUDA device. Run with `pytest -m gpu` where there is one."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.scoring import wer
from engine import (
    Checkpoint,
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    Offload,
    Precision,
    Request,
)
from engine.kernels.triton import disabled, gpu_kernels
from engine.precision import Arithmetic
from tests.conftest import MODELS
from tests.support.oracle import Comparison, Oracle
from tests.support.running import run

pytestmark = pytest.mark.gpu


def requests(clips: dict[str, np.ndarray]) -> list[Request]:
    return [
        Request(f"{name} {timestamps}", pcm, DecodingOptions(language="en", timestamps=timestamps))
        for name, pcm in clips.items()
        for timestamps in (True, False)
    ]


@pytest.mark.parametrize("model", MODELS)
def test_float32_tokens_equal_the_oracles(
    model: str,
    checkpoints: dict[str, Checkpoint],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    engine = Engine(checkpoints[model], EngineConfig("cuda", max_slots=6))
    results = run(engine, requests(clips))
    comparison = Comparison()
    for request in requests(clips):
        expected = oracles[model].decode(request.pcm, request.options)
        comparison.add(request.request_id, results[request.request_id].tokens, expected)
    comparison.check()


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.FLOAT16])
def test_half_precisions_write_the_same_words(
    precision: Precision,
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    engine = Engine(checkpoints["demo:base"], EngineConfig("cuda", precision, max_slots=6))
    expected = run(engines["demo:base"], requests(clips))
    for name, result in run(engine, requests(clips)).items():
        assert result.text == expected[name].text


@pytest.mark.parametrize("changes", [{"cuda_graphs": False}, {"overlap_encoding": False}], ids=str)
def test_graphs_and_overlap_change_no_token(
    changes: dict[str, bool], checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    model = checkpoints["demo:base"]
    plain = Engine(model, EngineConfig("cuda", max_slots=6, **changes))
    expected = run(plain, requests(clips))
    for name, result in run(
        Engine(model, EngineConfig("cuda", max_slots=6)), requests(clips)
    ).items():
        assert result.tokens == expected[name].tokens


def test_our_kernels_can_be_trusted_here() -> None:
    """Each has been run beside its twin; test_gpu_kernels, too, runs on the device."""
    pytest.importorskip("triton")
    assert gpu_kernels(torch.device("cuda")) is not None


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.INT8_WEIGHT_ONLY])
def test_our_kernels_write_torchs_words(
    precision: Precision, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    config = EngineConfig("cuda", precision, max_slots=6)
    found = run(Engine(checkpoints["demo:base"], config), requests(clips))
    with disabled():
        expected = run(Engine(checkpoints["demo:base"], config), requests(clips))
    reference = " ".join(expected[name].text for name in expected)
    assert wer(reference, " ".join(found[name].text for name in expected), "en").rate < 0.02


LOW = [
    {"precision": Precision.INT8},
    {"precision": Precision.INT8_WEIGHT_ONLY},
    {"precision": Precision.INT4_G32},
    {"precision": Precision.FP8},
    {"cross_attention": CrossAttentionMode.ABSORBED},
    {"cross_attention": CrossAttentionMode.CACHED_8BIT, "int8_self_attention": True},
    {"offload": Offload.ENCODER},
    {"offload": Offload.ALL},
    {
        "precision": Precision.INT8_WEIGHT_ONLY,
        "cross_attention": CrossAttentionMode.ABSORBED,
        "int8_self_attention": True,
        "offload": Offload.ENCODER,
    },
]


@pytest.mark.parametrize("changes", LOW, ids=str)
def test_less_memory_writes_the_same_words(
    changes: dict[str, Any],
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    """All but a few, with graphs and streams; what the device lacks is refused."""
    config = EngineConfig("cuda", **{"precision": Precision.FLOAT16, **changes}, max_slots=6)
    if not config.precision.is_supported(Arithmetic.of(torch.device("cuda"))):
        pytest.skip(f"this device has no {config.precision}")
    expected = run(engines["demo:base"], requests(clips))
    results = run(Engine(checkpoints["demo:base"], config), requests(clips))
    reference = " ".join(expected[name].text for name in expected)
    text = " ".join(results[name].text for name in expected)
    assert wer(reference, text, "en").rate < (0.15 if "int4" in config.precision else 0.05)


def test_peak_memory_is_what_was_planned(checkpoints: dict[str, Checkpoint]) -> None:
    """Within 5 %, of what torch's allocator gave out."""
    from benchmarks import planned_memory

    arguments = ["--models", "demo:base", "--device", "cuda", "--batches", "16"]
    options = planned_memory._parse([*arguments, "--ways", "float16,int8-weight-only/absorbed"])
    for way in options.ways:
        row = planned_memory._in_a_process(options, "demo:base", way, 16)
        assert row.ratio == pytest.approx(1.0, abs=0.05), way
