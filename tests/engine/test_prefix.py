"""A text goes on behind a prefix as it went on by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    RequestError,
    Result,
    default_precision,
)
from tests.conftest import MODELS
from tests.support.running import run, run_alone

PLAIN = DecodingOptions(timestamps=False, language="en", words=True)


def decode(engine: Engine, pcm: np.ndarray, options: DecodingOptions) -> Result:
    return run_alone(engine, Request("a", pcm, options))


@pytest.fixture(scope="module")
def pcm(clips: dict[str, np.ndarray]) -> np.ndarray:
    return clips["librivox-0870.wav"]


@pytest.fixture(scope="module", params=[MODELS[0], pytest.param(MODELS[1], marks=pytest.mark.more)])
def engine(request: pytest.FixtureRequest, engines: dict[str, Engine]) -> Engine:
    name: str = request.param
    return engines[name]


def test_the_text_goes_on(engine: Engine, pcm: np.ndarray) -> None:
    whole = decode(engine, pcm, PLAIN)
    for n in (5, len(whole.tokens)):
        options = replace(PLAIN, prefix=whole.tokens[:n])
        result = decode(engine, pcm, options)
        assert (result.tokens, result.text) == (whole.tokens, whole.text)
        logprobs, expected = result.segments[0].logprobs, whole.segments[0].logprobs
        assert logprobs[:n] == (0.0,) * n
        assert logprobs[n:] == pytest.approx(expected[n:], abs=1e-3)
        words = [(word.start_s, word.end_s, word.text) for word in result.segments[0].words]
        assert words == [(word.start_s, word.end_s, word.text) for word in whole.segments[0].words]


def test_words_that_were_not_said_are_kept(engine: Engine, pcm: np.ndarray) -> None:
    prefix = tuple(engine.tokenizer.encode(" As for Mr"))
    result = decode(engine, pcm, replace(PLAIN, prefix=prefix))
    assert result.text.startswith("As for Mr. John Dashwood")
    assert result.tokens[: len(prefix)] == prefix
    assert "".join(word.text for word in result.segments[0].words) == f" {result.text}"


def test_a_search_goes_on_as_well(engine: Engine, pcm: np.ndarray) -> None:
    options = replace(PLAIN, beam_size=3)
    whole = decode(engine, pcm, options)
    result = decode(engine, pcm, replace(options, prefix=whole.tokens[:6]))
    assert result.tokens == whole.tokens


def test_company_changes_no_bit(engine: Engine, pcm: np.ndarray) -> None:
    whole = decode(engine, pcm, PLAIN).tokens
    requests = [
        Request(str(n), pcm[: 16_000 * (3 + n % 4)], replace(PLAIN, prefix=whole[:n]))
        for n in (0, 2, 7)
    ]
    together = run(engine, requests)
    for request in requests:
        alone = run_alone(engine, request)
        other = together[request.request_id]
        assert (alone.tokens, alone.segments) == (other.tokens, other.segments)
        assert alone.avg_logprob == other.avg_logprob


def test_a_long_prefix_takes_the_prompts_room(engine: Engine, pcm: np.ndarray) -> None:
    word = engine.tokenizer.encode(" power")
    half = engine.dims.n_text_ctx // 2
    options = replace(PLAIN, prefix=tuple(word * half), prompt="a name " * 300, words=False)
    result = decode(engine, pcm, options)
    assert result.tokens[:half] == options.prefix
    with pytest.raises(RequestError, match="a prefix has 224 tokens at most"):
        engine.add_request(Request("b", pcm, replace(options, prefix=(*options.prefix, *word))))


def test_what_is_no_prefix_is_refused(engine: Engine, pcm: np.ndarray) -> None:
    with pytest.raises(ValueError, match="without timestamps"):
        DecodingOptions(prefix=(1,))
    for token in (-1, engine.tokenizer.eot, engine.tokenizer.timestamp_begin):
        with pytest.raises(RequestError, match="text tokens of this model"):
            engine.add_request(Request("b", pcm, replace(PLAIN, prefix=(token,))))


def test_int8_goes_on_too(checkpoints: dict[str, Checkpoint], pcm: np.ndarray) -> None:
    precision = default_precision(torch.device("cpu"))
    engine = Engine(checkpoints[MODELS[0]], EngineConfig(precision=precision, max_slots=4))
    whole = decode(engine, pcm, PLAIN)
    assert decode(engine, pcm, replace(PLAIN, prefix=whole.tokens[:9])).text == whole.text
