"""Beam search equals openai/whisper's on thirty clips of English, Spanish and Italian, all searches
of all clips in one continuous batch."""

import pytest

from deployments.options import ChunkingOptions
from deployments.transcript.chunking import Chunker
from engine import DecodingOptions, Engine, Request
from tests.speech.conftest import load
from tests.support.beam_oracle import beam_search
from tests.support.oracle import EXCUSED_MARGIN, Oracle
from tests.support.running import run

pytestmark = pytest.mark.speech

N_CLIPS = 10
SEARCHES = [
    {"beam_size": n_beams, "patience": patience, "length_penalty": penalty}
    for n_beams in (1, 2, 5)
    for patience in (1.0, 2.0)
    for penalty in (None, 1.0)
    if n_beams > 1 or (patience == 1.0 and penalty is None)
]


@pytest.mark.parametrize("language", ["en", "es", "it"])
def test_searches_equal_the_plain_one(
    language: str, engines: dict[str, Engine], oracles: dict[str, Oracle]
) -> None:
    chunker = Chunker(ChunkingOptions(max_chunk_s=8.0))
    pieces = [*chunker.push(load("short", language).pcm), *chunker.finish()][:N_CLIPS]
    assert len(pieces) == N_CLIPS
    requests = [
        Request(f"{clip} {values}", piece.pcm, DecodingOptions(language=language, **values))
        for values in SEARCHES
        for clip, piece in enumerate(pieces)
    ]
    results = run(engines["demo:base"], requests)
    n_equal, excused = 0, []
    for request in sorted(requests, key=lambda each: each.request_id):  # a clip is encoded once
        tokens = list(results[request.request_id].tokens)
        if request.options.beam_size == 1:
            assert tokens == oracles["demo:base"].decode(request.pcm, request.options).tokens
            continue
        expected = beam_search(oracles["demo:base"], request.pcm, request.options)
        if tokens == expected.tokens:
            n_equal += 1
        else:
            assert expected.margin < EXCUSED_MARGIN, request.request_id
            excused.append((request.request_id, expected.margin))
    print(f"\n{language}: {n_equal} searches equal, excused: {excused}")
    assert len(excused) <= 0.05 * len(requests)
