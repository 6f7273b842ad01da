"""Layers that stay in the host's memory: the same numbers, two of them on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine import Checkpoint, Engine, EngineConfig, EngineError, Offload, Precision, Request
from engine.executor import LocalExecutor
from engine.fit import rank_memory
from engine.model.layer_stack import StreamedLayers, stack_layers
from engine.model_sizes import LARGE_V3
from engine.parallel.cost import Workload, stage_cost
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from tests.support.gangs import check_equal, mixed
from tests.support.running import run
from tests.support.sizes import GPU_BFLOAT16, H200

CPU = torch.device("cpu")
TINY = "demo:tiny.en"


class Counted(nn.Module):
    """A layer that knows its number by its weight."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), float(number)), requires_grad=False)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 7])
def test_each_layer_is_there_when_it_is_its_turn(n_layers: int) -> None:
    layers = StreamedLayers((Counted(number) for number in range(n_layers)), CPU)
    assert len(layers) == n_layers and layers.host_bytes == n_layers * 12
    ranges = [range(n_layers)] * 2 + [range(i, n_layers) for i in range(n_layers)]
    for todo in ranges:
        assert [int(layer.weight[0]) for layer in layers.run(todo)] == list(todo)


def test_layers_are_made_one_after_another() -> None:
    """Only two are kept as they were made: the others' memory is free again."""
    alive: list[int] = []

    class Mortal(Counted):
        def __del__(self) -> None:
            alive.remove(int(self.weight[0]))

    def made() -> list[Counted]:
        for number in range(6):
            alive.append(number)
            assert len(alive) <= 4
            yield Mortal(number)

    layers = stack_layers(made(), CPU, streamed=True)
    assert alive == [0, 1]
    del layers


@pytest.mark.parametrize(
    ("precision", "offload"),
    [
        pytest.param(Precision.FLOAT32, Offload.ENCODER, marks=pytest.mark.more),
        (Precision.INT8, Offload.ALL),
        pytest.param(Precision.INT4_G32, Offload.ALL, marks=pytest.mark.more),
    ],
)
def test_the_same_tokens_from_less_memory(
    precision: Precision,
    offload: Offload,
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
) -> None:
    checkpoint = checkpoints[TINY]
    config = EngineConfig(precision=precision, max_slots=3)
    low = replace(config, offload=offload)
    requests = mixed(clips, 1, multilingual=False) + [Request("b", clips["librivox-0880.wav"])]
    resident = Engine(checkpoint, config)
    # Of a CPU it is refused where memory is checked: its memory is the host's.
    streamed = Engine(checkpoint, low, LocalExecutor(checkpoint, low))
    check_equal(run(streamed, requests), run(resident, requests))
    saved = resident.executor.runner.n_bytes - streamed.executor.runner.n_bytes
    whole = (Stage.whole(checkpoint.dims),)
    uses = [rank_memory(checkpoint.dims, c, Arithmetic.of(CPU), whole, 0) for c in (config, low)]
    assert saved == uses[0].weights - uses[1].weights > 0


def test_a_cpu_has_nowhere_to_offload_to(checkpoints: dict[str, Checkpoint]) -> None:
    with pytest.raises(EngineError, match="offload=all is for GPUs: a CPU's memory is the host's"):
        Engine(checkpoints[TINY], EngineConfig(offload=Offload.ALL))


def test_the_link_costs_what_it_carries() -> None:
    """Of large-v3 in 16 bits an encoder layer has 39 MB: 3.3 ms at 12 GB/s."""
    whole = Stage.whole(LARGE_V3)
    rest = (LARGE_V3, whole, 1, GPU_BFLOAT16)

    def cost(batch: int, offload: Offload):
        return stage_cost(*rest, H200, Workload(8), 448, batch, offload)

    link_s = 32 * 39.3e6 / 12e9
    assert cost(1, Offload.ENCODER).encode_s == pytest.approx(link_s, rel=0.2)
    slow = replace(H200, flops_per_s=50e12)
    many = [
        stage_cost(*rest, slow, Workload(8), 448, 8, offload).encode_s
        for offload in (Offload.NONE, Offload.ENCODER)
    ]
    assert many[0] == many[1], "a slow GPU computes for longer than the weights take"
    assert cost(8, Offload.ENCODER).decode_s == cost(8, Offload.NONE).decode_s
    assert cost(8, Offload.ALL).decode_s > 10 * cost(8, Offload.NONE).decode_s
