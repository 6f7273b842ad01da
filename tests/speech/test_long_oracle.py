"""The numerics rule on minutes of English, Spanish and Italian."""

import pytest

from deployments.transcript.chunking import Chunker
from engine import DecodingOptions, Engine, Request
from tests.speech.conftest import load
from tests.support.oracle import Comparison, Oracle
from tests.support.running import run

pytestmark = pytest.mark.speech

CASES = [
    ("demo:tiny.en", "en", {"timestamps": {}, "plain": {"timestamps": False}}),
    *(
        (
            "demo:base",
            language,
            {
                "timestamps": {"language": language},
                "plain": {"language": language, "timestamps": False},
                "detected": {},
                "prompt": {"language": language, "prompt": "Digium, Asterisk."},
                "translate": {"language": language, "task": "translate"},
            },
        )
        for language in ("en", "es", "it")
    ),
]


@pytest.mark.parametrize(("model", "language", "options"), CASES, ids=lambda v: str(v)[:12])
def test_tokens_equal_the_oracles(
    model: str,
    language: str,
    options: dict[str, dict],
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
) -> None:
    chunker = Chunker()
    pieces = [*chunker.push(load("short", language).pcm), *chunker.finish()]
    requests = [
        Request(f"{label} {index}", piece.pcm, DecodingOptions(**values))
        for label, values in options.items()
        for index, piece in enumerate(pieces)
    ]
    results = run(engines[model], requests)
    comparison = Comparison()
    for request in requests:
        expected = oracles[model].decode(request.pcm, request.options)
        assert results[request.request_id].language == expected.language
        comparison.add(request.request_id, results[request.request_id].tokens, expected)
    print(
        f"\n{model} {language}: {len(requests)} chunks, {comparison.n_tokens} tokens, "
        f"{len(comparison.excused)} excused, smallest margin {comparison.smallest_margin:.1e}"
    )
    comparison.check()
