"""The sharded seams: split layers, vocabulary and sampling give the tokens of one rank."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    EngineError,
    Precision,
    Request,
)
from engine.header import StepHeader
from engine.parallel.group import SingleRank
from engine.parallel.partition import partition, scaled
from tests.support.running import run
from tests.support.threaded_group import ThreadedGroup, run_ranks


def test_twenty_heads_over_eight_ranks() -> None:
    assert [len(part) for part in partition(20, 8)] == [3, 3, 3, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("total", [1, 6, 20, 51_866])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_parts_are_contiguous_and_whole(total: int, size: int) -> None:
    if size > total:
        with pytest.raises(ValueError, match="cannot split"):
            partition(total, size)
        return
    parts = partition(total, size)
    assert [item for part in parts for item in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_scaled_part() -> None:
    assert scaled(range(2, 5), 64) == slice(128, 320)


@pytest.mark.parametrize("size", [2, 4])
def test_a_gang_gives_the_tokens_of_one_rank(
    size: int,
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    """Six heads over four ranks are 2, 2, 1, 1; the vocabulary does not divide by four either."""
    model = "demo:tiny.en"
    options = {
        "greedy": DecodingOptions(),
        "plain": DecodingOptions(timestamps=False, prompt="Jane Austen"),
        "sampled": DecodingOptions(temperature=0.8, seed=11),
    }
    pcm = clips["librivox-0880.wav"]
    requests = [Request(label, pcm, option) for label, option in options.items()]
    expected = run(engines[model], requests)

    def work(group: ThreadedGroup) -> dict[str, tuple[int, ...]]:
        torch.set_num_threads(1)
        engine = Engine(checkpoints[model], EngineConfig(max_slots=4), group)
        return {key: result.tokens for key, result in run(engine, requests).items()}

    n_threads = torch.get_num_threads()
    gang = run_ranks(size, work)
    torch.set_num_threads(n_threads)
    for tokens in gang:
        assert tokens == {key: result.tokens for key, result in expected.items()}


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.BFLOAT16])
def test_a_gang_of_few_bits_hears_the_same_words(
    precision: Precision, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    """Five ranks hold 409 or 410 hidden units each, which not every kernel takes; each quantises
    its own, so the last bits differ from one rank's."""
    model, requests = "demo:base", [Request("clip", clips["librivox-0880.wav"])]
    config = EngineConfig(max_slots=4, precision=precision)

    def work(group: ThreadedGroup) -> tuple[tuple[int, ...], float]:
        torch.set_num_threads(1)
        result = run(Engine(checkpoints[model], config, group), requests)["clip"]
        return result.tokens, result.avg_logprob

    n_threads = torch.get_num_threads()
    alone = run(Engine(checkpoints[model], config), requests)["clip"]
    gang = run_ranks(5, work)
    torch.set_num_threads(n_threads)
    assert all(answer == gang[0] for answer in gang)
    tokens, avg_logprob = gang[0]
    assert tokens == alone.tokens
    assert avg_logprob == pytest.approx(alone.avg_logprob, abs=0.05)


def test_every_rank_goes_by_the_leaders_clock() -> None:
    def work(group: ThreadedGroup) -> StepHeader:
        return StepHeader(7, 1_000 + group.rank, 2, 1).broadcast(group)

    assert run_ranks(3, work) == [StepHeader(7, 1_000, 2, 1)] * 3


@pytest.mark.parametrize("field", ["step", "n_arrived", "n_aborted"])
def test_ranks_that_disagree_stop(field: str) -> None:
    def work(group: ThreadedGroup) -> StepHeader:
        return replace(StepHeader(7, 0, 2, 1), **{field: group.rank}).broadcast(group)

    with pytest.raises(EngineError, match="lost each other"):
        run_ranks(2, work)


def test_one_rank_sends_nothing() -> None:
    header, tensor = StepHeader(3, 1, 0, 64), torch.ones(2)
    assert header.broadcast(SingleRank()) is header
    assert SingleRank().all_reduce_sum(tensor) is tensor
