"""Values that come back late, as from a gang: nothing waits that need not, nothing is lost."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.random_model import random_checkpoint
from engine import Checkpoint, DecodingOptions, Engine, EngineConfig, Request, Result
from engine.executor import LocalExecutor
from engine.model_sizes import MODEL_SIZES
from engine.steps import Begin, Decode
from engine.transfer import Pending
from tests.support.gangs import check_equal
from tests.support.running import run


class Late:
    """Ready when it has been asked for some times, or is waited for."""

    def __init__(self, values: Pending, n_asked: int) -> None:
        self._values, self._left = values, n_asked

    @property
    def ready(self) -> bool:
        self._left -= 1
        return self._left < 0

    def get(self) -> list[torch.Tensor]:
        self._left = 0
        return self._values.get()


class LateExecutor(LocalExecutor):
    """Its values are late by chance."""

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, seed: int) -> None:
        super().__init__(checkpoint, config)
        self._chance = random.Random(seed)

    def _late(self, values: Pending) -> Pending:
        return Late(values, self._chance.randrange(8))

    def detect_language(self, slot: int, adapter: int = 0) -> Pending:
        return self._late(super().detect_language(slot, adapter))

    def begin(self, step: Begin) -> Pending:
        return self._late(super().begin(step))

    def decode(self, step: Decode) -> Pending:
        return self._late(super().decode(step))


@pytest.mark.parametrize("lag_steps", [2, pytest.param(0, marks=pytest.mark.more)])
def test_aborts_at_any_time_leave_the_others_alone(
    lag_steps: int, clips: dict[str, np.ndarray]
) -> None:
    """Also while a language is being found, and when it has just been."""
    dims = replace(MODEL_SIZES["tiny"], n_audio_state=96, n_text_state=96)
    checkpoint = random_checkpoint("small", dims)
    config = EngineConfig(max_slots=5, lag_steps=lag_steps)
    engine = Engine(checkpoint, config, LateExecutor(checkpoint, config, lag_steps))
    chance = random.Random(lag_steps)
    options = [
        DecodingOptions(max_new_tokens=9),
        DecodingOptions(max_new_tokens=5, language="en", temperature=0.7, seed=3),
        DecodingOptions(task="detect_language", languages=("en", "qa")),
        DecodingOptions(max_new_tokens=14, task="translate"),
        DecodingOptions(max_new_tokens=12, language="en", beam_size=3, keywords=("ab", "cd")),
        DecodingOptions(max_new_tokens=9, language="en", keywords=("ab", "bc"), keyword_boost=9),
        DecodingOptions(max_new_tokens=8, language="en", temperature=0.7, best_of=2),
    ]
    requests = [
        Request(f"{name} {i}", pcm, option)
        for name, pcm in clips.items()
        for i, option in enumerate(options)
    ]
    expected = run(Engine(checkpoint, config), requests)
    doomed = [
        Request(f"doomed {i}", request.pcm, request.options) for i, request in enumerate(requests)
    ]
    left, results, alive = [*requests, *doomed], {}, set()
    chance.shuffle(left)
    while left or engine.has_unfinished:
        if left and chance.random() < 0.7:
            request = left.pop()
            engine.add_request(request)
            if request.request_id.startswith("doomed"):
                alive.add(request.request_id)
        finished: list[Result] = engine.step()
        for result in finished:
            assert result.request_id in alive or result.request_id in expected, "it was aborted"
            alive.discard(result.request_id)
            results[result.request_id] = result
        for request_id in sorted(alive):
            # Between its language and its prompt a sequence is for a moment only.
            is_ready = any(s.request.request_id == request_id for s in engine._ready.values())
            if chance.random() < (0.7 if is_ready else 0.08):
                assert engine.abort(request_id)
                alive.discard(request_id)
    assert engine.n_running == engine.n_waiting == 0
    check_equal({key: results[key] for key in expected}, expected)
