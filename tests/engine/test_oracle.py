"""Murmur's tokens against transformers' forward with its own logits processors, float32, greedy.

The rule: tokens are equal; a first difference is excused only where the oracle's own margin is
below 1e-3, and at most once in 1,000 tokens. Longer, multilingual speech is in tests/speech.
"""

import numpy as np
import pytest

from engine import DecodingOptions, Engine, Request
from tests.conftest import MODELS
from tests.support.oracle import Comparison, Oracle, logit_error
from tests.support.params import more_but
from tests.support.running import run

OPTIONS = {
    "timestamps": DecodingOptions(language="en"),
    "no timestamps": DecodingOptions(language="en", timestamps=False),
    "prompt": DecodingOptions(language="en", prompt="Sense and Sensibility, by Jane Austen."),
    "prompt, no timestamps": DecodingOptions(
        language="en", prompt="a lower case text without any punctuation", timestamps=False
    ),
    "any first timestamp": DecodingOptions(language="en", max_initial_timestamp_s=None),
    "previous tokens": DecodingOptions(language="en", previous_tokens=(1107, 262, 938, 2187, 13)),
    "token limit": DecodingOptions(language="en", max_new_tokens=7),
}
MULTILINGUAL = {
    "detected": DecodingOptions(),
    "detected, no timestamps": DecodingOptions(timestamps=False),
    "translate": DecodingOptions(language="de", task="translate"),
    "other language": DecodingOptions(language="fr"),
}


def cases(model: str) -> dict[str, DecodingOptions]:
    """All that does not depend on languages is compared on the smaller model."""
    if model.endswith(".en"):
        return OPTIONS
    return {name: OPTIONS[name] for name in ("timestamps", "prompt")} | MULTILINGUAL


@pytest.mark.parametrize(
    ("model", "n_clips"),
    [
        ("demo:tiny.en", 2),
        pytest.param("demo:base", 1, marks=pytest.mark.more),
        pytest.param("demo:tiny.en", None, marks=pytest.mark.more),
        pytest.param("demo:base", 3, marks=pytest.mark.more),
    ],
)
def test_tokens_equal_the_oracles(
    model: str,
    n_clips: int | None,
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    chosen = list(clips.items())[:n_clips]
    requests = {
        f"{name} / {label}": Request(f"{name} / {label}", pcm, options, group=name)
        for name, pcm in chosen
        for label, options in cases(model).items()
    }
    results = run(engines[model], requests.values())
    comparison = Comparison()
    for key, request in requests.items():
        expected = oracles[model].decode(request.pcm, request.options)
        result = results[key]
        comparison.add(key, result.tokens, expected)
        assert result.language == expected.language, key
        if list(result.tokens) == expected.tokens:
            assert result.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3), key
        assert result.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-4), key
    print(f"{model}: {comparison.n_tokens} tokens, margin {comparison.smallest_margin:.1e}")
    comparison.check()


@pytest.mark.parametrize("n_clips", [1, pytest.param(None, marks=pytest.mark.more)])
@pytest.mark.parametrize("model", more_but(MODELS[:1], MODELS))
def test_teacher_forced_logits_are_within_a_thousandth(
    model: str,
    n_clips: int | None,
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    for pcm in list(clips.values())[:n_clips]:
        assert logit_error(engines[model], oracles[model], pcm) < 1e-3


@pytest.mark.parametrize("model", more_but(MODELS[:1], MODELS))
def test_the_words_are_right(
    model: str,
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
    transcripts: dict[str, str],
) -> None:
    """Not only equal to the oracle: the text is what was said, but for a word or so a clip."""
    from benchmarks.scoring import wer

    results = run(engines[model], [Request(name, pcm) for name, pcm in clips.items()])
    reference = " ".join(transcripts[name] for name in clips)
    text = " ".join(results[name].text for name in clips)
    assert wer(reference, text, "en").rate < 0.06
