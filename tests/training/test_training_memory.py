"""Planned bytes against those that autograd keeps, and how settings change them."""

from dataclasses import replace

import pytest
import torch

from engine import Checkpoint
from engine.model_sizes import LARGE_V3
from training.memory import TrainingLoad, _Sizes, training_memory
from training.model import Learner
from training.settings import FinetuneSettings

POSITIONS = 64
CPU = torch.device("cpu")


def _kept_bytes(learner: Learner) -> int:
    """What the forward pass keeps, without weights, copies of them, and logits."""
    weights = {weight.untyped_storage().data_ptr() for weight in learner.parameters()}
    matrices = {tuple(weight.shape) for weight in learner.parameters()}
    kept: dict[int, tuple[torch.Tensor, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    tokens = torch.randint(0, 50_000, (1, POSITIONS))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        learner(torch.randn(1, 80, 3000), tokens, tokens)

    def counts(tensor: torch.Tensor) -> bool:
        shape = tuple(tensor.shape)
        is_copy = tensor.dtype != torch.float32 and (shape in matrices or shape[::-1] in matrices)
        # 1500 rows are a window's, though positions of the encoder have the same shape.
        return tensor.numel() != POSITIONS * 51_864 and (not is_copy or 1500 in shape)

    return sum(n_bytes for tensor, n_bytes in kept.values() if counts(tensor))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"encoder": "frozen"}, {"checkpoint_activations": True}, {"method": "lora"}],
    ids=["all", "frozen", "checkpointed", "lora"],
)
def test_what_is_kept_is_what_is_planned(
    checkpoints: dict[str, Checkpoint], precision: str, changes: dict[str, object]
) -> None:
    settings = FinetuneSettings.model_validate(
        {
            "model": "demo:tiny.en",
            "output": "unused",
            "train": ["unused.jsonl"],
            "batch_size": 1,
            "precision": precision,
            **changes,
        }
    )
    checkpoint = checkpoints["demo:tiny.en"]
    load = TrainingLoad.of(settings, POSITIONS, on_cpu=True)
    sizes = _Sizes(checkpoint.dims, load)
    planned = sizes._encoder_kept() + sizes._decoder_kept()
    assert planned == pytest.approx(_kept_bytes(Learner(checkpoint, settings, CPU)), rel=0.06)


def test_weights_gradients_and_optimiser_are_exact(checkpoints: dict[str, Checkpoint]) -> None:
    checkpoint = checkpoints["demo:tiny.en"]
    for method in ("full", "lora"):
        settings = FinetuneSettings.model_validate(
            {"model": "x", "output": "x", "train": ["x.jsonl"], "method": method}
        )
        learner = Learner(checkpoint, settings, CPU)
        load = TrainingLoad.of(settings, POSITIONS)
        sizes = _Sizes(checkpoint.dims, load)
        learnt = sum(weight.nbytes for weight in learner.learnt().values())
        assert sizes._gradients() == learnt
        assert sizes._weights(in_pass=False) == sum(w.nbytes for w in learner.parameters())
        assert sizes.at_the_end().optimiser == 2 * learnt


def test_every_measure_saves_what_it_is_for() -> None:
    load = TrainingLoad(batch=4)
    full = training_memory(LARGE_V3, load)
    checkpointed = training_memory(LARGE_V3, replace(load, checkpoints_activations=True))
    lora = training_memory(LARGE_V3, replace(load, lora_rank=32))
    halves = training_memory(LARGE_V3, replace(load, compute_bytes=2, lora_rank=32))
    assert checkpointed.activations < full.activations / 5
    assert lora.gradients + lora.optimiser < (full.gradients + full.optimiser) / 20
    assert halves.weights < 0.6 * lora.weights
    assert full.weights == 4 * 1_543_490_560
    # 16 bytes a weight that learns: itself, its gradient, and two means.
    staying = full.weights + full.gradients + full.optimiser
    assert staying == pytest.approx(4 * full.weights, rel=0.05)
