"""Gangs of real processes, and requests for them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

import numpy as np

from engine import Checkpoint, DecodingOptions, Engine, EngineConfig, Request, Result
from engine.gang.lines import GangLimits
from engine.gang.local import local_gang
from engine.parallel.distributed import Mesh
from engine.parallel.stages import cut_stages

QUICK = GangLimits(ping_s=0.2, silent_s=2.0, work_s=60.0, load_s=120.0)
"""Short limits, for tests that let ranks hang."""


def mesh_of(checkpoint: Checkpoint, tensor_parallel: int, layer_counts: list[int]) -> Mesh:
    return Mesh(cut_stages(checkpoint.dims, layer_counts), tensor_parallel)


@contextmanager
def gang_of(
    checkpoint: Checkpoint,
    tensor_parallel: int,
    layer_counts: list[int],
    config: EngineConfig | None = None,
    limits: GangLimits | None = None,
) -> Iterator[Engine]:
    config = config or EngineConfig(max_slots=5)
    mesh = mesh_of(checkpoint, tensor_parallel, layer_counts)
    with local_gang(checkpoint.name, mesh, config, limits) as engine:
        yield engine


def ranks() -> list[BaseProcess]:
    """The processes of the running gang, in order of rank."""
    return sorted(active_children(), key=lambda process: int(process.name.split("-")[-1]))


def mixed(clips: dict[str, np.ndarray], n_clips: int, multilingual: bool) -> list[Request]:
    """Requests that use every kind of decoding option."""
    options = [
        DecodingOptions(),
        DecodingOptions(timestamps=False, prompt="Jane Austen"),
        DecodingOptions(temperature=0.8, seed=11),
        DecodingOptions(max_new_tokens=5),
        DecodingOptions(beam_size=2, patience=2.0),
        DecodingOptions(temperature=0.6, best_of=2, seed=5),
    ]
    if multilingual:
        options += [
            DecodingOptions(task="detect_language", languages=("de", "en")),
            DecodingOptions(task="translate", language="en"),
        ]
    return [
        Request(f"{name} {index}", pcm, option, group=name)
        for name, pcm in list(clips.items())[:n_clips]
        for index, option in enumerate(options)
    ]


def run_mixed(engine: Engine, requests: list[Request], seed: int) -> dict[str, Result]:
    """Run requests that arrive at random times in random order."""
    chance, results = random.Random(seed), {}
    left = chance.sample(requests, len(requests))
    while left or engine.has_unfinished:
        for _ in range(chance.randrange(3)):
            if left:
                engine.add_request(left.pop())
        results |= {result.request_id: result for result in engine.step()}
    return results


def check_equal(results: dict[str, Result], expected: dict[str, Result]) -> None:
    """Assert that all tokens are equal, and log-probabilities except for rounding."""
    assert set(results) == set(expected)
    for key, result in results.items():
        alone = expected[key]
        assert (result.tokens, result.language) == (alone.tokens, alone.language), key
        assert result.finish_reason == alone.finish_reason
        for name in ("avg_logprob", "no_speech_prob", "language_prob"):
            assert abs(getattr(result, name) - getattr(alone, name)) < 1e-3, (key, name)
