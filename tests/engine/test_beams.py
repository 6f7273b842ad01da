"""Beam search equals openai/whisper's, alone and in company; of sampled texts the best is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    RequestError,
)
from engine.decoding.hypotheses import BeamSearch, BestOf, Hypothesis, Row
from engine.decoding.sampler import Noise, Sampled
from engine.model.cross_cache import CrossCache, DenseCrossCache, Int8CrossCache, WindowStates
from engine.model.slots import COPIED_ROWS
from engine.model_sizes import MODEL_SIZES
from engine.parallel.place import Place
from engine.precision import NumberFormats
from engine.slot_bank import SlotBank
from engine.steps import Decode
from tests.support.beam_oracle import beam_search
from tests.support.formats import FORMATS
from tests.support.oracle import Oracle
from tests.support.params import more_but
from tests.support.running import run, run_alone

TINY = "demo:tiny.en"
SEARCHES = {
    "2": {"beam_size": 2},
    "5": {"beam_size": 5},
    "5, patience 2": {"beam_size": 5, "patience": 2.0},
    "5, penalty 1": {"beam_size": 5, "length_penalty": 1.0},
    "2, patience 2, penalty 0.6": {"beam_size": 2, "patience": 2.0, "length_penalty": 0.6},
    "3, no timestamps": {"beam_size": 3, "timestamps": False},
    "3, cut off": {"beam_size": 3, "max_new_tokens": 6},
}
QUICK = ("2", "5", "3, cut off")
CPU = torch.device("cpu")
EOT = 9
NO_END = float("-inf")


@pytest.mark.parametrize(
    ("model", "search", "n_clips"),
    [
        *((TINY, search, 1) for search in ("2", "3, cut off")),
        *(pytest.param(TINY, search, 3, marks=pytest.mark.more) for search in SEARCHES),
        *(pytest.param("demo:base", search, 2, marks=pytest.mark.more) for search in QUICK),
    ],
)
def test_tokens_equal_the_plain_search(
    model: str,
    search: str,
    n_clips: int,
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    options = DecodingOptions(language="en", **SEARCHES[search])
    for name, pcm in list(clips.items())[:n_clips]:
        result = run_alone(engines[model], Request(name, pcm, options))
        expected = beam_search(oracles[model], pcm, options)
        assert list(result.tokens) == expected.tokens, (name, expected.margin)
        # The end token counts where there is one; a text that was cut off has none.
        n = len(expected.tokens) + 1
        assert result.avg_logprob == pytest.approx(expected.sum_logprob / n, abs=1e-3)


@pytest.mark.more
def test_of_several_sentences_each_row_keeps_its_own_rules(
    monkeypatch: pytest.MonkeyPatch,
    checkpoints: dict[str, Checkpoint],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    """Rows end sentences at different times, and some not yet, while they change places."""
    engine = Engine(checkpoints[TINY], EngineConfig(max_slots=4))
    runner, begin = engine.executor.runner, engine.tokenizer.timestamp_begin
    latest, decode = runner.banks[0].rule_state.min_timestamp, runner.decode
    changes = []

    def watched(step: Decode) -> Sampled:
        before = latest.clone()
        sampled = decode(step)
        inherited = before[sampled.parents]
        expected = torch.where(sampled.tokens >= begin, sampled.tokens, inherited)
        assert latest.tolist() == expected.tolist()
        changes.append(bool((before != inherited).any()))
        return sampled

    monkeypatch.setattr(runner, "decode", watched)
    pause = np.zeros(24_000, np.int16)
    names = ("librivox-0880.wav", "librivox-0890.wav")
    pcm = np.concatenate([part for name in names for part in (clips[name], pause)])
    options = DecodingOptions(language="en", beam_size=4)
    result = run_alone(engine, Request("several", pcm, options))
    assert any(changes), "rows with different times change places"
    assert list(result.tokens) == beam_search(oracles[TINY], pcm, options).tokens
    assert len(result.segments) == 2


def test_texts_that_are_sampled_side_by_side_differ() -> None:
    draws = {tuple(Noise(1.0, 7, 0, text).draw(4, CPU).tolist()) for text in range(16)}
    assert len(draws) == 16


def test_a_slot_that_is_used_again_attends_to_its_own_window() -> None:
    dims = MODEL_SIZES["tiny"]
    formats = NumberFormats(torch.float32, torch.float32)
    bank = SlotBank(4, dims, Place.alone(dims), 16, CPU, formats)
    bank.follow([1, 2], 0)
    assert bank.windows.tolist() == [0, 0, 0, 3]
    bank.release(1)  # another slot still follows
    assert bank.windows_of(4).tolist() == [0, 1, 0, 3]
    bank.release(2)
    assert bank.windows_of(4) == slice(0, 4)


class _Largest(TorchDispatchMode):
    """Remembers the most bytes of a tensor that an operation made."""

    n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.n_bytes = max(self.n_bytes, made.nbytes)
        return made


@pytest.mark.parametrize("kind", ["dense", "8-bit", "states"])
def test_of_the_windows_of_texts_few_are_copied_at_once(kind: str) -> None:
    n_slots, heads, length, width = 24, 6, 1500, 64
    shape, meta = (n_slots, heads, length, width), torch.device("meta")
    cache: CrossCache
    if kind == "states":
        cache = WindowStates((n_slots, length, heads * width), meta, torch.float16)
    else:
        make = DenseCrossCache if kind == "dense" else Int8CrossCache
        cache = make(shape, meta, torch.float16)
    queries = torch.zeros(n_slots, 1, heads * width, device=meta, dtype=torch.float16)
    windows = torch.zeros(n_slots, device=meta, dtype=torch.int64)
    with _Largest() as largest:
        assert cache.attend(queries, windows).shape == queries.shape
    assert largest.n_bytes == COPIED_ROWS * heads * length * width * torch.float16.itemsize


@pytest.mark.parametrize("name", more_but(("int8", "8-bit cross and tokens"), FORMATS))
def test_company_changes_nothing_in_any_format(
    name: str, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    engine = Engine(checkpoints[TINY], replace(FORMATS[name], max_slots=12))
    pcm = clips["librivox-0890.wav"]
    searched = DecodingOptions(language="en", beam_size=3)
    requests = [
        Request("search", pcm, searched),
        Request("greedy", clips["librivox-0870.wav"], DecodingOptions(language="en")),
        Request("other search", clips["librivox-0880.wav"], replace(searched, beam_size=6)),
    ]
    assert sum(request.options.n_texts for request in requests) > COPIED_ROWS
    alone = {request.request_id: run_alone(engine, request) for request in requests}
    together = run(engine, requests)
    for key, result in alone.items():
        assert together[key].tokens == result.tokens
        assert together[key].avg_logprob == result.avg_logprob
    assert "cold-hearted" in alone["search"].text


def test_more_texts_than_slots_are_refused(checkpoints: dict[str, Checkpoint]) -> None:
    engine = Engine(checkpoints[TINY], EngineConfig(max_slots=4))
    with pytest.raises(RequestError, match="5 texts of a chunk need as many slots; there are 4"):
        pcm = np.zeros(16_000, np.int16)
        engine.add_request(Request("a", pcm, DecodingOptions(beam_size=5)))


def test_the_best_of_sampled_texts_is_at_least_as_likely_as_the_first(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    one = DecodingOptions(language="en", temperature=1.0, seed=3)
    pcm = clips["librivox-0870.wav"]
    first = run_alone(engines[TINY], Request("one", pcm, one))
    best = run_alone(engines[TINY], Request("best", pcm, replace(one, best_of=4)))
    assert best.avg_logprob >= first.avg_logprob
    again = run_alone(engines[TINY], Request("again", pcm, replace(one, best_of=4)))
    assert again.tokens == best.tokens


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam_size": 0},
        {"beam_size": 17},
        {"best_of": 0},
        {"patience": 0.0},
        {"length_penalty": -0.1},
        {"length_penalty": 1.1},
    ],
)
def test_what_cannot_be_searched_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DecodingOptions(**wrong)


def test_a_detection_takes_one_slot() -> None:
    assert DecodingOptions(task="detect_language", beam_size=5).n_texts == 1


class TestHypotheses:
    def test_a_search_ends_when_enough_texts_have(self) -> None:
        search = BeamSearch(2, 1.0, None)
        assert not search.append([Row(1, -0.1), Row(2, -0.2)])
        assert not search.append([Row(3, -0.1, 1, NO_END), Row(4, -0.3, 0, -2.0)])
        assert search.append([Row(5, -0.1, 0, -1.0), Row(6, -0.1, 1, -0.5)])
        assert search.best() == Hypothesis((1, 4), (-0.1, -0.3), pytest.approx(-0.9), True)

    def test_of_those_that_end_at_once_no_more_count_than_are_enough(self) -> None:
        search = BeamSearch(2, 0.5, None)
        search.append([Row(1, -0.1), Row(2, -0.2)])
        assert search.append([Row(3, -0.1, 0, -2.0), Row(4, -0.3, 1, -0.5)])
        # One of the two that end is enough; there is room for one that goes on.
        assert search.best() == Hypothesis((1, 3), (-0.1, -0.1), pytest.approx(-0.2))

    def test_patience_waits_for_more_of_them(self) -> None:
        search = BeamSearch(2, 2.0, None)
        search.append([Row(1, -0.1), Row(2, -0.2)])
        assert not search.append([Row(3, -0.1, 0, -1.0), Row(4, -0.3, 0, -2.0)])

    def test_texts_that_go_on_fill_up_what_is_missing(self) -> None:
        search = BeamSearch(2, 1.0, None)
        search.append([Row(1, -0.1), Row(2, -5.0)])
        search.append([Row(3, -0.1, 0, -9.0), Row(4, -0.3, 1, NO_END)])
        assert search.best() == Hypothesis((1, 3), (-0.1, -0.1), pytest.approx(-0.2))

    def test_keywords_count_where_texts_are_compared(self) -> None:
        search = BeamSearch(2, 1.0, None, gain=lambda tokens: 5.0 * tokens.count(4))
        search.append([Row(1, -0.1), Row(2, -0.2)])
        assert not search.append([Row(3, -0.1, 0, NO_END), Row(4, -2.0, 1, NO_END)])
        assert search.append([Row(5, -0.1, 0, -0.1), Row(6, -0.1, 1, -0.1)])
        assert search.best() == Hypothesis((2, 4), (-0.2, -2.0), pytest.approx(-2.3), True)

    @pytest.mark.parametrize(("penalty", "tokens"), [(None, (1, 2, 3)), (0.0, (4,)), (1.0, (4,))])
    def test_the_penalty_decides_between_lengths(
        self, penalty: float | None, tokens: tuple[int, ...]
    ) -> None:
        best = BestOf(2, penalty, EOT)
        best.append([Row(1, -0.5), Row(4, -0.6)])
        best.append([Row(2, -0.5), Row(EOT, -0.3)])
        best.append([Row(3, -0.4), Row(7, -9.0)])
        assert best.append([Row(EOT, -0.1), Row(8, -9.0)])
        assert best.best().tokens == tokens
