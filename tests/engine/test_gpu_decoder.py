"""A whole decoder on our kernels for GPUs, interpreted on a CPU, beside the same on torch's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.random_model import random_checkpoint
from engine import CrossAttentionMode, DecodingOptions, EngineConfig, ModelDimensions, Precision
from engine.kernels import triton as package
from engine.kernels.triton.calls import GpuKernels
from engine.kernels.triton.launch import Launch
from engine.model import cross_cache, self_cache
from engine.runner import ModelRunner
from engine.steps import Begin
from engine.weights import source
from tests.support.interpreter import INTERPRETED

DIMS = ModelDimensions(80, 51_865, 30, 128, 2, 1, 64, 128, 2, 1)
PROMPT = [50258, 50259, 50359]
GREEDY = DecodingOptions(language="en")
WAYS: list[dict[str, Any]] = [
    {"precision": Precision.FLOAT16},
    {"precision": Precision.FLOAT16, "cross_attention": CrossAttentionMode.CACHED_8BIT},
    {"precision": Precision.FLOAT16, "int8_self_attention": True},
    {"precision": Precision.FLOAT16, "cross_attention": CrossAttentionMode.ABSORBED},
    {"precision": Precision.INT8_WEIGHT_ONLY, "half": torch.float16},
    {"precision": Precision.INT4_G32, "half": torch.float16},
]


@contextmanager
def interpreted() -> Iterator[None]:
    """The kernels are chosen for the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (package, source, self_cache, cross_cache):
            patch.setattr(module, "gpu_kernels", lambda device: GpuKernels(True))
        yield


def hidden_of(runner: ModelRunner) -> tuple[torch.Tensor, int]:
    """What two steps after the prompts give, (2, slots, width), and the launches of the second."""
    states = torch.randn(
        3, DIMS.n_audio_ctx, DIMS.n_audio_state, generator=torch.Generator().manual_seed(0)
    )
    runner.fill(states.to(runner.formats.dtype), [0, 1, 2])
    runner.begin(Begin((PROMPT,) * 3, ((0,), (1,), (2,)), (GREEDY,) * 3, (None,) * 3))
    bank, found = runner.banks[0], []
    ran: list[Launch] = []
    run = Launch.run

    def noted(launch: Launch) -> None:
        ran.append(launch)
        run(launch)

    for _ in range(2):
        bank.tokens[:] = torch.tensor([100, 200, 300])
        ran.clear()
        with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
            patch.setattr(Launch, "run", noted)
            x = runner.decoder.embed(*bank.batch(3, 3))
            hidden = runner.decoder.decode(x, bank.cache, bank.positions[:3], 32, slice(0, 3))
            bank.advance(slice(0, 3))
        found.append(hidden[:, 0].float())
    return torch.stack(found), len(ran)


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU, tests/engine/test_gpu.py runs whole engines")
@pytest.mark.parametrize(
    "way",
    [WAYS[0], *(pytest.param(way, marks=pytest.mark.more) for way in WAYS[1:])],
    ids=lambda way: "-".join(map(str, way.values())),
)
def test_steps_are_those_of_torch(way: dict[str, Any]) -> None:
    config = EngineConfig(max_slots=3, **{"cross_attention": CrossAttentionMode.CACHED, **way})
    checkpoint = random_checkpoint("small", DIMS)
    expected, none = hidden_of(ModelRunner(checkpoint, config))
    with interpreted():
        found, launches = hidden_of(ModelRunner(checkpoint, config))
    assert none == 0 and launches >= 6 * DIMS.n_text_layer
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < 0.01
