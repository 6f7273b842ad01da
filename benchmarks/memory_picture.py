"""Draws where the bytes of a model go, and what each setting saves: arithmetic only.

    python -m benchmarks.memory_picture STEM [--model large-v3] [--batch 16]

Draws STEM.png and STEM.svg and prints the same as a table, for a GPU with every number format.
Nothing is measured; `benchmarks.planned_memory` compares the arithmetic with a machine.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine import CrossAttentionMode, EngineConfig, Offload, Precision
from engine.config import ModelDimensions
from engine.fit import rank_memory
from engine.memory import MemoryUse
from engine.model_sizes import MODEL_SIZES
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from training.pictures import save_picture

_GPU = Arithmetic.of_gpu("a GPU", (9, 0))
_KINDS = {
    "encoder weights": "encoder_weights",
    "decoder weights": "decoder_weights",
    "windows (cross-attention)": "cross",
    "tokens (self-attention)": "own",
    "activations": "activations",
}
STEPS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": Precision.BFLOAT16},
    "windows in 8 bits": {"cross_attention": CrossAttentionMode.CACHED_8BIT},
    "absorbed instead": {"cross_attention": CrossAttentionMode.ABSORBED},
    "tokens in 8 bits": {"int8_self_attention": True},
    "228 positions a slot": {"max_length": 228},
    "one window encoded at once": {"encode_batch": 1},
    "int8 weights": {"precision": Precision.INT8_WEIGHT_ONLY},
    "int4 weights": {"precision": Precision.INT4_G64},
    "encoder's layers in the host": {"offload": Offload.ENCODER},
    "all layers in the host": {"offload": Offload.ALL},
}
"""Each step adds to those before it."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Where the bytes of a model go.")
    parser.add_argument("stem", type=Path)
    parser.add_argument("--model", choices=sorted(MODEL_SIZES), default="large-v3")
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(arguments)
    uses = steps_of(MODEL_SIZES[options.model], options.batch)
    print("| setting, with those above it | " + " | ".join([*_KINDS, "GB in all"]) + " |")
    print("|---" * (len(_KINDS) + 2) + "|")
    for name, use in uses.items():
        cells = [getattr(use, field) / 1e9 for field in _KINDS.values()]
        print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in [*cells, use.total / 1e9]) + " |")
    _draw(uses, options.stem, f"{options.model}, {options.batch} chunks at once")


def steps_of(dims: ModelDimensions, batch: int) -> dict[str, MemoryUse]:
    """The memory of each step, without the device's runtime."""
    config = EngineConfig(device="cuda", max_slots=batch)
    uses = {}
    for name, changes in STEPS.items():
        config = replace(config, **changes)
        uses[name] = rank_memory(dims, config, _GPU, (Stage.whole(dims),), 0)
    return uses


def _draw(uses: dict[str, MemoryUse], stem: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "murmur"  # the same file from the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.8))
    names = list(uses)
    left = [0.0] * len(names)
    for label, field in _KINDS.items():
        widths = [getattr(use, field) / 1e9 for use in uses.values()]
        axes.barh(names, widths, left=left, label=label)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for index, total in enumerate(left):
        axes.text(total + 0.1, index, f"{total:.2f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="GB, computed; each setting with those above it", title=title)
    axes.legend(fontsize=8, loc="lower right")
    save_picture(figure, stem)


if __name__ == "__main__":
    main()
