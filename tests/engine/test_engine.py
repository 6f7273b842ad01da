"""The engine's own behaviour: requests, aborts, limits, failures, precisions, other shapes."""

import time

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    EngineError,
    ModelDimensions,
    Precision,
    Request,
    RequestError,
)
from engine.weights.alignment_heads import alignment_heads
from engine.weights.random import RandomSource
from tests.support.running import drain, run, run_alone

CLIP = "librivox-0930.wav"


def test_an_aborted_request_gives_no_result_and_frees_its_slot(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine = engines["demo:tiny.en"]
    for name in "abc":
        engine.add_request(Request(name, clips[CLIP]))
    assert engine.abort("a"), "not taken in yet"
    engine.step()
    assert engine.abort("b"), "running"
    assert engine.has_unfinished
    assert set(drain(engine)) == {"c"}
    assert not engine.abort("c") and not engine.abort("never there")
    assert engine.n_waiting == engine.n_running == 0 and not engine.has_unfinished


def test_an_id_can_be_used_again_behind_its_abort(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine = engines["demo:tiny.en"]
    expected = run_alone(engine, Request("x", clips[CLIP])).tokens
    engine.add_request(Request("x", clips["librivox-0870.wav"]))
    engine.step()
    engine.abort("x")
    assert run_alone(engine, Request("x", clips[CLIP])).tokens == expected


def test_an_id_in_use_is_refused(engines: dict[str, Engine], clips: dict[str, np.ndarray]) -> None:
    engine = engines["demo:tiny.en"]
    engine.add_request(Request("same", clips[CLIP]))
    with pytest.raises(RequestError, match="'same' is in use"):
        engine.add_request(Request("same", clips[CLIP]))
    drain(engine)


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(language="de"),
        DecodingOptions(task="translate"),
        DecodingOptions(previous_tokens=(99_999_999,)),
        DecodingOptions(previous_tokens=(50_257,)),  # start of transcript
    ],
)
def test_what_the_model_cannot_do_is_refused(
    options: DecodingOptions, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    with pytest.raises(RequestError):
        engines["demo:tiny.en"].add_request(Request("r", clips[CLIP], options))
    assert not engines["demo:tiny.en"].has_unfinished


@pytest.mark.parametrize("pcm", [np.zeros(0, np.int16), np.zeros(480_001, np.int16)])
def test_audio_of_a_wrong_length_is_refused(pcm: np.ndarray) -> None:
    with pytest.raises(ValueError, match="1 to 480000 samples"):
        Request("r", pcm)


def test_audio_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(ValueError, match="int16 of shape"):
        Request("r", np.zeros(100, np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("max_length", [32, 64, 448])
def test_long_prompts_fit_every_length_of_slot(
    max_length: int, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    engine = Engine(checkpoints["demo:tiny.en"], EngineConfig(max_slots=2, max_length=max_length))
    options = DecodingOptions(
        keywords=("Dashwood",) * 50, prompt="and so it was said " * 100, max_new_tokens=400
    )
    result = run_alone(engine, Request("r", clips[CLIP], options))
    prompt = max_length // 2 + 1  # the prompt's half, and the start of the transcript
    assert 1 <= len(result.tokens) <= max_length - prompt + 1


def test_a_failed_step_leaves_no_engine_behind(
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(checkpoints["demo:tiny.en"], EngineConfig(max_slots=1))
    engine.add_request(Request("r", clips[CLIP]))

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(engine.executor.runner, "encode", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            engine.step()
    with pytest.raises(EngineError, match="earlier step failed"):
        engine.step()


def test_too_many_slots_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    with pytest.raises(
        EngineError, match="with 100000000 slots on a CPU needs .* it fits with batch_size="
    ):
        Engine(checkpoints["demo:tiny.en"], EngineConfig(max_slots=100_000_000))


@pytest.mark.more
@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.FLOAT16])
def test_half_precisions_write_the_same_words(
    precision: Precision,
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    engine = Engine(checkpoints["demo:base"], EngineConfig(precision=precision, max_slots=4))
    few = list(clips.items())[:2]  # a CPU may have to do with float16 what it can
    requests = [Request(name, pcm, DecodingOptions(language="en")) for name, pcm in few]
    expected = run(engines["demo:base"], requests)
    for name, result in run(engine, requests).items():
        assert result.text == expected[name].text


def test_the_engines_time_is_shared_out(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    """What chunks used adds up to the time of the steps, however many shared each."""
    engine = engines["demo:tiny.en"]
    for number, pcm in enumerate([*clips.values()] * 2):
        n_texts = 3 if number == 4 else 1
        options = DecodingOptions(max_new_tokens=5 + 7 * number, beam_size=n_texts)
        engine.add_request(Request(str(number), pcm, options))
    busy_s, shares_s = 0.0, []
    while engine.has_unfinished:
        began = time.perf_counter()
        results = engine.step()
        busy_s += time.perf_counter() - began
        shares_s += [result.device_s for result in results]
    assert len(shares_s) == 2 * len(clips)
    assert sum(shares_s) == pytest.approx(busy_s, rel=0.05)
    assert max(shares_s) > 1.2 * min(shares_s), "who stays longer pays more"


def test_detection_decodes_no_text(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    options = DecodingOptions(task="detect_language")
    result = run_alone(engines["demo:base"], Request("r", clips[CLIP], options))
    assert (result.finish_reason, result.language, result.tokens) == ("detected", "en", ())
    assert 0.9 < result.language_prob <= 1.0


@pytest.mark.parametrize(
    "dims",
    [
        pytest.param(ModelDimensions(128, 51_866, 1500, 128, 2, 2, 448, 128, 2, 1), id="turbo"),
        pytest.param(ModelDimensions(80, 51_864, 1500, 64, 1, 1, 448, 64, 1, 3), id="deep decoder"),
    ],
)
def test_other_shapes_run(
    dims: ModelDimensions, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """128 mel bins, 51,866 tokens, unequal depths: random weights, so only the shape is true."""
    like = checkpoints["demo:base" if dims.is_multilingual else "demo:tiny.en"]
    checkpoint = Checkpoint(
        "random", dims, RandomSource(dims), like.tokenizer, (), (), alignment_heads(None, dims)
    )
    requests = [
        Request(str(seed), clips[CLIP], DecodingOptions(max_new_tokens=9, seed=seed))
        for seed in range(3)
    ]
    results = run(Engine(checkpoint, EngineConfig(max_slots=2)), requests)
    assert len({result.tokens for result in results.values()}) == 1
    assert 1 <= len(results["0"].tokens) <= 9
