"""What adapters cost: a model alone, and the same with adapters in a mixed batch, side by side.

    python -m benchmarks.adapters --clips DIR [--model demo:base] [--precision int8] [--rank 16]

Makes adapters for all linear layers, with additions too small to change a word, so that all engines
decode the same tokens. DIR holds WAV files of at most 30 s at 16 kHz. Engines of one process take
turns, round after round: `alone` is the model without adapters, `idle` the model with adapters that
no chunk asks for, `mixed` has chunks of the base and of each adapter in one batch. Prints the
medians of seconds and of CPU seconds, the ratios to `alone`, round by round, and their medians, as
JSON. On a machine that others use, CPU seconds say more.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import soundfile
import torch
from safetensors.torch import save_file

from engine import Checkpoint, Engine, EngineConfig, Precision, Request, open_checkpoint
from engine.kernels import native_builds
from engine.weights.adapters import CONFIG, WEIGHTS
from engine.weights.shapes import tensor_shapes

_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_STRENGTH = 1e-4
"""Of additions, beside a layer's weights."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    names = [f"adapter-{number}" for number in range(options.n_adapters)]
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: str(Path(folder) / name) for name in names}
        base = open_checkpoint(options.model)
        for seed, target in enumerate(folders.values()):
            _write_adapter(base, Path(target), seed, options.rank)
        config = EngineConfig(precision=Precision(options.precision), max_slots=options.slots)
        adapted = Engine.load(options.model, config, folders)
    clips = [soundfile.read(path, dtype="int16")[0] for path in sorted(options.clips.glob("*.wav"))]
    runs = {
        "alone": (Engine(base, config), [""]),
        "idle": (adapted, [""]),
        "mixed": (adapted, ["", *names]),
    }
    rounds: dict[str, list[tuple[float, float, int]]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, (engine, adapters) in runs.items():
            requests = [
                Request(f"{turn}-{clip}", pcm, adapter=adapters[turn % len(adapters)])
                for turn in range(options.repeats)
                for clip, pcm in enumerate(clips)
            ]
            measured = _timed(engine, requests)
            if number:  # the first round warms up
                rounds[name].append(measured)
    print(json.dumps(_report(rounds, options), indent=1))


def _timed(engine: Engine, requests: Sequence[Request]) -> tuple[float, float, int]:
    """Seconds, CPU seconds, and tokens of all results."""
    began, began_cpu, n_tokens = time.perf_counter(), time.process_time(), 0
    for request in requests:
        engine.add_request(request)
    while engine.has_unfinished:
        n_tokens += sum(len(result.tokens) for result in engine.step())
    return time.perf_counter() - began, time.process_time() - began_cpu, n_tokens


def _report(
    rounds: dict[str, list[tuple[float, float, int]]], options: argparse.Namespace
) -> dict[str, object]:
    report: dict[str, object] = {
        "model": options.model,
        "precision": options.precision,
        "rank": options.rank,
        "adapters": options.n_adapters,
        "instructions": native_builds.in_use(),
    }
    for name, measured in rounds.items():
        pairs = list(zip(measured, rounds["alone"], strict=True))
        wall = [ours[0] / theirs[0] for ours, theirs in pairs]
        cpu = [ours[1] / theirs[1] for ours, theirs in pairs]
        report[name] = {
            "wall_s": round(statistics.median(each[0] for each in measured), 3),
            "cpu_s": round(statistics.median(each[1] for each in measured), 3),
            "tokens": measured[0][2],
            "wall_ratio": round(statistics.median(wall), 3),
            "cpu_ratio": round(statistics.median(cpu), 3),
            "cpu_ratios": [round(each, 3) for each in cpu],
        }
    return report


def _write_adapter(base: Checkpoint, folder: Path, seed: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in tensor_shapes(base.dims).items():
        layer = name.removesuffix(".weight")
        if len(shape) != 2 or layer.rpartition(".")[2] not in _LAYERS:
            continue
        down = torch.randn(rank, shape[1], generator=generator)
        up = torch.randn(shape[0], rank, generator=generator)
        size = _STRENGTH * base.source.read(name).float().norm() / (up @ down).norm()
        key = f"base_model.model.model.{layer}"
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up * size}
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    content = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [*_LAYERS]}
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What adapters cost, side by side.")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--model", default="demo:base")
    parser.add_argument("--precision", default="int8", choices=[each.value for each in Precision])
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--n-adapters", type=int, default=2)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=9, help="how often each clip is decoded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
