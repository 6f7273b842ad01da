"""The same tokens and words on a CUDA device. Run with `pytest -m gpu` where there is one."""

import numpy as np
import pytest

from engine import Checkpoint, DecodingOptions, Engine, EngineConfig, Precision, Request
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
