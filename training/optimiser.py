"""AdamW for what learns."""

from typing import Any

import torch

from training.model import Learner
from training.settings import FinetuneSettings


def optimiser(learner: Learner, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """Matrices decay if the settings say so, biases and norms never do."""
    weights = list(learner.learnt().values())
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in weights if weight.dim() > 1],
            "weight_decay": settings.optimiser.weight_decay,
        },
        {"params": [weight for weight in weights if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.peak_learning_rate,
        betas=settings.optimiser.betas,
        fused=True,  # the others make copies of all weights on a GPU, of the largest on a CPU
    )
