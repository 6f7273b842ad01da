"""The CUDA path of the engine's steps on a device that computes nothing: no tensor on the wrong
device or of the wrong format, and nothing that makes the host wait for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("triton")

from benchmarks.gpu_roof import LAYER_LAUNCHES, OTHER_LAUNCHES
from benchmarks.random_model import random_checkpoint
from engine import CrossAttentionMode, DecodingOptions, EngineConfig, Offload, Precision, Window
from engine.decoding.sampler import Noise
from engine.kernels.triton import disabled
from engine.model.decoder import DecoderStage
from engine.model_sizes import MODEL_SIZES
from engine.runner import ModelRunner
from engine.steps import Align, Begin, Decode
from engine.weights.adapters import Adapter
from engine.weights.shapes import tensor_shapes
from tests.support.fake_cuda import Device, fake_cuda
from tests.support.params import more_but

PCM = [np.zeros(160_000, np.int16)] * 2
PROMPT = [50258, 50259, 50359]
GREEDY = DecodingOptions(language="en")
SEARCH = DecodingOptions(language="en", beam_size=2, keywords=("Samarkand", "Norland"))
SAMPLED = DecodingOptions(language="en", temperature=0.5, best_of=2, keywords=("Norland",))
FAVOURED = DecodingOptions(language="en", keywords=("Samarkand", "Norland"))
_NOISE = (Noise(0.5, 0, 1), Noise(0.5, 0, 1, 1))

LAUNCHES = {
    Precision.FLOAT32: 532,
    Precision.BFLOAT16: 308,
    Precision.FLOAT16: 308,
    Precision.INT8: 1396,
    Precision.INT8_WEIGHT_ONLY: 308,
    Precision.INT4_G64: 308,
    Precision.FP8: 1876,
}
"""Of a greedy step of two rows of large-v3, without CUDA graphs (docs/benchmarks.md). They may only
fall."""
OFTEN = (Precision.BFLOAT16, Precision.INT8, Precision.INT8_WEIGHT_ONLY)
ON_TORCH = {Precision.BFLOAT16: 614}
"""The same without our own kernels."""


class Shapes(Adapter):
    """An adapter of all linear layers of base, without values, as its device has none."""

    def __init__(self, name: str, rank: int) -> None:
        shapes = {
            key.removesuffix(".weight"): (shape[0], shape[1])
            for key, shape in tensor_shapes(MODEL_SIZES["base"]).items()
            if key.endswith(("proj.weight", "fc1.weight", "fc2.weight"))
        }
        super().__init__(name, Path(), rank, 1.0, 0, shapes, {})

    def matrices(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        n_out, n_in = self.shapes[layer]
        return torch.zeros(self.rank, n_in), torch.zeros(n_out, self.rank)


@contextmanager
def runner_of(
    model: str, adapters: tuple[Adapter, ...] = (), **config: Any
) -> Iterator[tuple[ModelRunner, Device]]:
    checkpoint = replace(random_checkpoint(model, MODEL_SIZES[model]), adapters=adapters)
    with fake_cuda() as device:
        settings = EngineConfig("cuda", max_slots=8, cuda_graphs=False, **config)
        runner = ModelRunner(checkpoint, settings)
        device.clear()
        yield runner, device


def encode_and_begin(runner: ModelRunner, n_frames: int | None = None) -> None:
    runner.encode(PCM, [0, 1], n_frames)
    runner.begin(Begin((PROMPT, PROMPT), ((0,), (1,)), (GREEDY, GREEDY), (None, None)))


@pytest.mark.parametrize("model", more_but(("large-v3",), ("large-v3", "turbo")))
@pytest.mark.parametrize("precision", more_but(OFTEN, LAUNCHES))
def test_no_step_waits(precision: Precision, model: str) -> None:
    with runner_of(model, precision=precision) as (runner, device):
        encode_and_begin(runner)
        device.launches.clear()
        found = runner.decode(Decode(0, 2, 10, (None, None)))
        assert device.waits == []
        assert found is not None and found.tokens.is_cuda and found.tokens.shape == (2,)
        if model == "large-v3":
            assert len(device.launches) <= LAUNCHES[precision]


@pytest.mark.parametrize(
    "config",
    [
        {"cross_attention": CrossAttentionMode.ABSORBED},
        {"cross_attention": CrossAttentionMode.CACHED_8BIT},
        {"int8_self_attention": True},
        {"offload": Offload.ENCODER},
        {"offload": Offload.ALL},
        {"window": Window.SHORT},
        {"window": Window.SHORT, "cross_attention": CrossAttentionMode.ABSORBED},
        {"window": Window.SHORT, "cross_attention": CrossAttentionMode.CACHED_8BIT},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8])
def test_no_way_to_save_memory_or_time_waits(precision: Precision, config: dict[str, Any]) -> None:
    with runner_of("base", precision=precision, **config) as (runner, device):
        encode_and_begin(runner, 640 if "window" in config else None)
        runner.decode(Decode(0, 2, 10, (None, None)))
        assert device.waits == []


@pytest.mark.parametrize(
    "options", [SEARCH, SAMPLED, FAVOURED], ids=["search", "sampled", "keywords"]
)
def test_no_kind_of_choice_waits(options: DecodingOptions) -> None:
    n = options.n_texts
    slots = tuple(range(n))
    noise = _NOISE if options is SAMPLED else (None,) * n
    searches = (slots,) if options is SEARCH else ()
    with runner_of("base", precision=Precision.BFLOAT16) as (runner, device):
        runner.encode(PCM[:1], [0])
        # The tables of keywords go to the device once, when their graph is first used.
        runner.begin(Begin((PROMPT,), (slots,), (options,), noise))
        device.clear()
        runner.begin(Begin((PROMPT,), (slots,), (options,), noise))
        for n_positions in (5, 6):
            runner.decode(Decode(0, n, n_positions, noise, searches))
        assert device.waits == []


@pytest.mark.parametrize("precision", [Precision.BFLOAT16, Precision.INT8_WEIGHT_ONLY])
def test_adapters_do_not_wait(precision: Precision) -> None:
    adapters = tuple(Shapes(name, rank) for name, rank in (("names", 8), ("accent", 12)))
    with runner_of("base", adapters=adapters, precision=precision) as (runner, device):
        runner.encode(PCM, [0, 1], adapter=2)
        step = Begin((PROMPT, PROMPT), ((0,), (1,)), (GREEDY, GREEDY), (None, None), (2, 0))
        runner.begin(step)
        found = runner.decode(Decode(0, 2, 10, (None, None)))
        assert found is not None and found.tokens.shape == (2,)
        assert device.waits == []


def test_neither_languages_nor_words_wait() -> None:
    with runner_of("base", precision=Precision.BFLOAT16) as (runner, device):
        runner.encode(PCM, [0, 1])
        probabilities = runner.detect_language(0)
        assert probabilities is not None and probabilities.is_cuda
        text, frames = [*PROMPT, 100, 200], np.arange(300)
        runner.align(Align((text,), (3,), (0,), (frames,)))
        assert device.waits == []


def test_short_windows_do_not_wait_on_torch_alone() -> None:
    with (
        disabled(),
        runner_of("base", precision=Precision.BFLOAT16, window=Window.SHORT) as (
            runner,
            device,
        ),
    ):
        encode_and_begin(runner, 640)
        runner.decode(Decode(0, 2, 10, (None, None)))
        assert device.waits == []


@pytest.mark.parametrize("precision", ON_TORCH)
def test_no_step_waits_on_torch_alone(precision: Precision) -> None:
    with disabled(), runner_of("large-v3", precision=precision) as (runner, device):
        encode_and_begin(runner)
        device.launches.clear()
        runner.decode(Decode(0, 2, 10, (None, None)))
        assert device.waits == []
        assert len(device.launches) <= ON_TORCH[precision]


def test_a_layer_takes_eight_launches() -> None:
    """Of eight rows; of fewer it takes nine, because several programs share a head's frames."""
    with runner_of("large-v3", precision=Precision.BFLOAT16) as (runner, device):
        encode_and_begin(runner)
        device.launches.clear()
        runner.decode(Decode(0, 8, 10, (None,) * 8))
        n_layers = MODEL_SIZES["large-v3"].n_text_layer
        of_sampling = ("triton.reduce_kernel", "triton.choose_kernel")
        ours = [name for name in device.launches if name.startswith("triton.")]
        in_layers = [name for name in ours if name not in of_sampling]
        assert len(in_layers) == LAYER_LAUNCHES * n_layers == 8 * n_layers
        assert len(device.launches) - len(in_layers) <= OTHER_LAUNCHES


def test_log_mel_takes_two_launches() -> None:
    with runner_of("tiny", precision=Precision.BFLOAT16) as (runner, device):
        assert runner.features(PCM, 320_000).shape == (2, 80, 2000)
        assert device.launches == ["triton.log_mel_kernel", "triton.clamp_kernel"]
        assert device.waits == []
    with disabled(), runner_of("tiny", precision=Precision.BFLOAT16) as (runner, device):
        runner.features(PCM)
        assert len(device.launches) > 2 and device.waits == []


def _item(stage: DecoderStage, x: torch.Tensor) -> None:
    x.sum().item()


def _on_the_host(stage: DecoderStage, x: torch.Tensor) -> None:
    x + torch.zeros(x.shape[-1])


def _truth(stage: DecoderStage, x: torch.Tensor) -> None:
    if (x > 0).any():
        return


def _some_rows(stage: DecoderStage, x: torch.Tensor) -> None:
    x[x[:, 0, 0] > 0]


def _pageable(stage: DecoderStage, x: torch.Tensor) -> None:
    torch.tensor([1, 2]).to(x.device, non_blocking=True)


def _other_format(stage: DecoderStage, x: torch.Tensor) -> None:
    x @ torch.zeros(x.shape[-1], 4, dtype=torch.float32, device=x.device)


@pytest.mark.parametrize(
    "fault", [_item, _on_the_host, _truth, _some_rows, _pageable, _other_format]
)
def test_planted_faults_are_seen(
    fault: Callable[[DecoderStage, torch.Tensor], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = DecoderStage.decode

    def faulty(stage: DecoderStage, x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        fault(stage, x)
        return decode(stage, x, *arguments)

    monkeypatch.setattr(DecoderStage, "decode", faulty)
    with runner_of("tiny", precision=Precision.BFLOAT16) as (runner, device):
        encode_and_begin(runner)
        assert device.waits == []
        try:
            runner.decode(Decode(0, 2, 10, (None, None)))
        except RuntimeError:  # torch's fake tensors refuse some faults by themselves
            return
        assert device.waits


def test_shapes_stay_the_same_between_steps() -> None:
    """What is captured as a graph is launched again as it is."""
    with runner_of("tiny", precision=Precision.BFLOAT16) as (runner, device):
        encode_and_begin(runner)
        seen = []
        for n_positions in (5, 6, 7):
            device.launches.clear()
            runner.decode(Decode(0, 2, n_positions, (None, None)))
            seen.append(list(device.launches))
        assert seen[0] == seen[1] == seen[2]
