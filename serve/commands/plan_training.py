"""`murmur plan --train`: what fine-tuning a model needs, by kind, and which GPU has it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from deployments.planning.accelerators import RUNTIME_BYTES
from deployments.planning.gpu_catalogue import Gpu, gpu_catalogue
from deployments.planning.planner import gpus
from engine.config import ModelDimensions
from engine.precision import Arithmetic
from serve.commands.arguments import PlanArguments
from serve.commands.exit_codes import EXIT_OK
from serve.commands.tables import markdown, say, show
from training.memory import TrainingLoad, TrainingMemory, measuring_bytes, training_memory

_GPU = Arithmetic.of_gpu("a GPU", (9, 0))
_DEFAULT_BATCH = 4
_LORA_RANK = 32
_WAYS: Mapping[str, dict[str, Any]] = {
    "all weights, float32": {},
    "without accumulation": {"accumulates": False},
    "checkpointed": {"checkpoints_activations": True},
    "all weights, 16 bits": {"compute_bytes": 2},
    "16 bits, checkpointed": {"compute_bytes": 2, "checkpoints_activations": True},
    "decoder alone, 16 bits, checkpointed": {
        "compute_bytes": 2, "checkpoints_activations": True, "encoder_learns": False,
    },
    "LoRA, float32": {"lora_rank": _LORA_RANK},
    "LoRA, 16 bits": {"lora_rank": _LORA_RANK, "compute_bytes": 2},
    "LoRA, 16 bits, checkpointed": {
        "lora_rank": _LORA_RANK, "compute_bytes": 2, "checkpoints_activations": True,
    },
}  # fmt: skip
_NOTE = (
    "GB: 10^9 bytes, with {batch} windows of {tokens} tokens at once; their number adds up over "
    "batches (accumulate) without more memory, once there are two. measuring: while words are "
    "counted with an engine of our own. A GPU has {runtime:.2f} GB less than its size, for CUDA. "
    "LoRA has rank {rank}, on all linear layers. checkpointed: checkpoint_activations."
)


def print_training_plan(args: PlanArguments, dims: ModelDimensions) -> int:
    """Print a row for each way to train; returns the exit code."""
    batch = args.batch_size or _DEFAULT_BATCH
    if not 1 <= args.tokens <= dims.n_text_ctx:
        raise ValueError(f"--tokens must be 1 to {dims.n_text_ctx}, got {args.tokens}")
    load = TrainingLoad(batch=batch, positions=round(args.tokens))
    chosen = [gpu_catalogue().gpu(name) for name in args.gpu] if args.gpu else list(gpus())
    plans = {name: _planned(dims, replace(load, **way)) for name, way in _WAYS.items()}
    if args.as_json:
        print(json.dumps({"plans": [_as_json(n, *p, chosen) for n, p in plans.items()]}, indent=2))
        return EXIT_OK
    kinds = [kind for kind, _ in next(iter(plans.values()))[0].kinds()]
    fits = "fits" if args.gpu else "smallest GPU"
    head = ("way", *kinds, "GB", "measuring", fits)
    show(markdown(head, [_row(name, *p, chosen, bool(args.gpu)) for name, p in plans.items()]))
    words = {"batch": batch, "tokens": round(args.tokens), "rank": _LORA_RANK}
    say(_NOTE.format(runtime=RUNTIME_BYTES / 1e9, **words))
    return EXIT_OK


def _planned(dims: ModelDimensions, load: TrainingLoad) -> tuple[TrainingMemory, int]:
    """A step's memory, and that of measuring."""
    return training_memory(dims, load), measuring_bytes(dims, load, _GPU)


def _fitting(use: TrainingMemory, measuring: int, chosen: Sequence[Gpu]) -> list[str]:
    needed = max(use.total, measuring) + RUNTIME_BYTES
    return [gpu.name for gpu in chosen if gpu.memory_bytes >= needed]


def _row(
    name: str, use: TrainingMemory, measuring: int, chosen: Sequence[Gpu], all_of_them: bool
) -> tuple[str, ...]:
    amounts = [*(n_bytes for _, n_bytes in use.kinds()), use.total, measuring]
    fitting = _fitting(use, measuring, chosen)
    which = ", ".join(fitting if all_of_them else fitting[:1]) or "none"
    return (name, *(f"{n_bytes / 1e9:.2f}" for n_bytes in amounts), which)


def _as_json(
    name: str, use: TrainingMemory, measuring: int, chosen: Sequence[Gpu]
) -> dict[str, Any]:
    return {
        "way": name,
        "memory_bytes": dict(use.kinds()) | {"total": use.total, "measuring": measuring},
        "fits": _fitting(use, measuring, chosen),
    }
