"""Beam search equals openai/whisper's, alone and in company; of sampled texts the best is kept."""

import numpy as np
import pytest

from engine import DecodingOptions, Engine, Request
from engine.decoding.hypotheses import BeamSearch, BestOf, Row
from tests.support.beam_oracle import beam_search
from tests.support.oracle import EXCUSED_MARGIN, Oracle
from tests.support.running import run, run_alone

SEARCHES = {
    "2": {"beam_size": 2},
    "5": {"beam_size": 5},
    "5, patience 2": {"beam_size": 5, "patience": 2.0},
    "5, penalty 1": {"beam_size": 5, "length_penalty": 1.0},
    "2, patience 2, penalty 0.6": {"beam_size": 2, "patience": 2.0, "length_penalty": 0.6},
    "3, no timestamps": {"beam_size": 3, "timestamps": False},
    "3, cut off": {"beam_size": 3, "max_new_tokens": 6},
}


@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_equal_the_plain_search(
    search: str,
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    options = DecodingOptions(language="en", **SEARCHES[search])
    for name, pcm in list(clips.items())[:2]:
        result = run_alone(engines["demo:tiny.en"], Request(name, pcm, options))
        expected = beam_search(oracles["demo:tiny.en"], pcm, options)
        assert list(result.tokens) == expected.tokens or expected.margin < EXCUSED_MARGIN / 10, (
            name,
            expected.margin,
        )
        if list(result.tokens) == expected.tokens:
            n = len(expected.tokens) + 1
            assert result.avg_logprob == pytest.approx(expected.sum_logprob / n, abs=1e-3)
