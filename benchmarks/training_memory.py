"""Compares planned and real memory of training.

    python -m benchmarks.training_memory [--models ...] [--ways ...] [--batches 2] [--plot STEM]

Each case runs in its own process: after a step of a small model it takes one of the model, of two
batches of random windows, and reports the most resident memory beyond what it had in between.
glibc is told to give every large block back at once, for else it keeps what is free. A way is
PRECISION[/lora][/frozen][/checkpointed][/one] (`one`: a batch a step, without accumulation). Prints
a table, then one JSON line; with `--plot` also STEM.png and STEM.svg.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.arguments import comma_list
from benchmarks.random_model import random_checkpoint
from engine import Checkpoint, open_checkpoint
from engine.devices import peak_resident_bytes, resident_bytes
from engine.model_sizes import MODEL_SIZES
from training.memory import TrainingLoad, training_memory
from training.pictures import save_picture
from training.settings import FinetuneSettings, LoraSettings

WAYS = (
    "float32,bfloat16/lora/checkpointed,float32/checkpointed,float32/lora,bfloat16,float32/one,"
    "float32/frozen,float32/lora/checkpointed,bfloat16/checkpointed"
)
_POSITIONS = 128
_KINDS = ("weights", "gradients", "optimiser", "activations", "logits")
_SMALL = replace(
    MODEL_SIZES["tiny"], n_audio_state=32, n_audio_head=2, n_text_state=32, n_text_head=2
)


@dataclass(frozen=True)
class Row:
    """Bytes of one case; `peak_bytes` excludes what the process had before the model."""

    model: str
    way: str
    batch: int
    planned: dict[str, int]
    planned_bytes: int
    peak_bytes: int

    @property
    def ratio(self) -> float:
        """Peak divided by plan."""
        return self.peak_bytes / self.planned_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.one:
        row = _measure(options.models[0], options.ways[0], options.batches[0])
        print(json.dumps(asdict(row)))
        return
    print("| model | way | batch | " + " | ".join(_KINDS) + " | planned MB | peak MB | ratio |")
    print("|---" * 11 + "|", flush=True)
    rows = []
    for model in options.models:
        for way in options.ways:
            for batch in options.batches:
                rows.append(_in_a_process(model, way, batch))
                _print(rows[-1])
    if options.plot is not None:
        _draw(rows, options.plot)
    print(json.dumps({"results": [asdict(row) | {"ratio": row.ratio} for row in rows]}))


def settings_of(model: str, way: str, batch: int) -> FinetuneSettings:
    precision, *words = way.split("/")
    values: dict[str, Any] = {
        "model": model,
        "output": "unused",
        "train": ["unused.jsonl"],
        "precision": precision,
        "batch_size": batch,
        "method": "lora" if "lora" in words else "full",
        "encoder": "frozen" if "frozen" in words else "trained",
        "checkpoint_activations": "checkpointed" in words,
        "accumulate": 1 if "one" in words else 2,
        "lora": LoraSettings().model_dump(),
    }
    return FinetuneSettings.model_validate(values)


def _in_a_process(model: str, way: str, batch: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.training_memory", "--models", model]
    command += ["--ways", way, "--batches", str(batch), "--one"]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def _measure(model: str, way: str, batch: int) -> Row:

    torch.set_num_threads(2)
    settings = settings_of(model, way, batch)
    checkpoint = open_checkpoint(model)
    # Load libraries and start threads, whose memory is not the model's.
    _take_a_step(random_checkpoint("small", _SMALL), settings)
    gc.collect()
    bare = resident_bytes()
    _take_a_step(checkpoint, settings)
    use = training_memory(checkpoint.dims, TrainingLoad.of(settings, _POSITIONS, on_cpu=True))
    return Row(
        model=model,
        way=way,
        batch=batch,
        planned=dict(use.kinds()),
        planned_bytes=use.total,
        peak_bytes=peak_resident_bytes() - bare,
    )


def _take_a_step(checkpoint: Checkpoint, settings: FinetuneSettings) -> None:
    """A step with the optimiser's state in place, as every step but the first is."""
    from training.model import Learner
    from training.optimiser import optimiser

    learner = Learner(checkpoint, settings, torch.device("cpu"))
    changing = optimiser(learner, settings)
    for weight in learner.learnt().values():
        # Not zeros: the kernel takes back pages that hold nothing else.
        weight.grad = torch.full_like(weight, 1e-6)
    changing.step()
    changing.zero_grad(set_to_none=True)
    for _ in range(settings.accumulate):
        mel = torch.randn(settings.batch_size, checkpoint.dims.n_mels, 3000)
        tokens = torch.randint(0, 50_000, (settings.batch_size, _POSITIONS))
        learner(mel, tokens, tokens).backward()
    changing.step()


def _print(row: Row) -> None:
    cells = [*(row.planned[kind] for kind in _KINDS), row.planned_bytes, row.peak_bytes]
    numbers = " | ".join(f"{n_bytes / 1e6:.0f}" for n_bytes in cells)
    print(f"| {row.model} | `{row.way}` | {row.batch} | {numbers} | {row.ratio:.3f} |", flush=True)


def _draw(rows: Sequence[Row], stem: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "murmur"  # the same file from the same numbers
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 0.3 * len(rows) + 1.2))
    names = [f"{row.model.removeprefix('demo:')}, {row.way}, {row.batch}" for row in rows]
    left = [0.0] * len(rows)
    for kind in _KINDS:
        widths = [row.planned[kind] / 1e6 for row in rows]
        axes.barh(names, widths, left=left, label=kind)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    peaks = [row.peak_bytes / 1e6 for row in rows]
    axes.plot(peaks, names, "k|", markersize=12, label="measured peak")
    axes.invert_yaxis()
    axes.set(xlabel="MB, planned", title="Memory of training: planned, and as measured on a CPU")
    axes.legend(fontsize=8, loc="lower right")
    save_picture(figure, stem)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(name) for name in comma_list(text)]

    parser = argparse.ArgumentParser(description="Planned and real memory of training.")
    parser.add_argument("--models", type=comma_list, default="demo:tiny.en,demo:base")
    parser.add_argument("--ways", type=comma_list, default=WAYS)
    parser.add_argument("--batches", type=numbers, default="2")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
