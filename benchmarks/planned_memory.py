"""Compares the planner with the machine: bytes as computed, and as a process really took them.

    python -m benchmarks.planned_memory [--models ...] [--ways ...] [--batches 1,16] [--device cpu]
                                        [--beams 5] [--words] [--positions 64]

Each case runs in its own process. It loads the model, fills all slots twice with windows of noise
whose texts are as long as there is room for, and reports the most that the process took beyond what
it had before: resident memory on a CPU, torch's allocator (and the driver's figure) on a GPU.
Models are the demo ones, or sizes with random weights (large-v3, turbo, ...). A way is
PRECISION[/CROSS-ATTENTION[/8-bit]]. With `--beams`, windows are searched with as many texts as that
or as there are slots; with `--words`, their words get times: neither is to need more than the plan,
which counts slots. Prints a table, then one JSON line.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from benchmarks.arguments import comma_list
from benchmarks.local_runner import local_runner
from benchmarks.precision import config_of
from benchmarks.random_model import random_checkpoint
from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    open_checkpoint,
)
from engine.devices import peak_resident_bytes, resident_bytes
from engine.fit import rank_memory
from engine.memory import MemoryUse
from engine.model_sizes import MODEL_SIZES
from engine.parallel.stages import Stage
from engine.precision import Arithmetic

WAYS = "float32,float32/absorbed,bfloat16,bfloat16/absorbed/8-bit,int8,int8-weight-only/absorbed"
MODELS = "demo:tiny.en,demo:base,large-v3"


@dataclass(frozen=True)
class Row:
    """Bytes; `peak_bytes` excludes what the process had before the model.

    Attributes:
        counted_bytes: weights and slots, by the sizes of their tensors.
        driver_bytes: the whole process, on a GPU.
    """

    model: str
    way: str
    batch: int
    planned: dict[str, int]
    planned_bytes: int
    counted_bytes: int
    loaded_bytes: int
    peak_bytes: int
    driver_bytes: int | None

    @property
    def ratio(self) -> float:
        """Peak divided by plan."""
        return self.peak_bytes / self.planned_bytes


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.one:
        print(json.dumps(asdict(_measure(options))))
        return
    print("| model | way | batch | weights | windows | tokens | activations | planned MB "
          "| loaded | peak MB | peak / planned |")  # fmt: skip
    print("|---" * 11 + "|", flush=True)
    rows = []
    for model in options.models:
        for way in options.ways:
            for batch in options.batches:
                rows.append(_in_a_process(options, model, way, batch))
                _print(rows[-1])
    print(json.dumps({"results": [asdict(row) | {"ratio": row.ratio} for row in rows]}))


def _in_a_process(options: argparse.Namespace, model: str, way: str, batch: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.planned_memory", "--models", model]
    command += ["--ways", way, "--batches", str(batch), "--device", options.device, "--one"]
    command += ["--beams", str(options.beams), *(["--words"] if options.words else [])]
    command += ["--positions", str(options.positions)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Row(**json.loads(done.stdout.splitlines()[-1]))


def _measure(options: argparse.Namespace) -> Row:
    model, way, batch = options.models[0], options.ways[0], options.batches[0]
    torch.set_num_threads(2)
    checkpoint = _open(model)
    slots = {"max_slots": batch, "max_length": options.positions, "encode_batch": 1}
    config = replace(config_of(way), device=options.device, **slots)
    _warm_up(options.device)
    bare = _taken(options.device)
    engine = Engine(checkpoint, config)
    loaded = _taken(options.device)
    _fill_slots(engine, 2 * batch, min(options.beams, engine.max_texts), options.words)
    use = _planned(checkpoint, config)
    return Row(
        model=model,
        way=way,
        batch=batch,
        planned=dict(use.kinds()),
        planned_bytes=use.total,
        counted_bytes=local_runner(engine).n_bytes,
        loaded_bytes=loaded - bare,
        peak_bytes=_most_taken(options.device) - bare,
        driver_bytes=_driver_bytes() if options.device != "cpu" else None,
    )


def _open(model: str) -> Checkpoint:
    if model in MODEL_SIZES:
        return random_checkpoint(model, MODEL_SIZES[model])
    return open_checkpoint(model)


def _planned(checkpoint: Checkpoint, config: EngineConfig) -> MemoryUse:
    arithmetic = Arithmetic.of(torch.device(config.device))
    return rank_memory(checkpoint.dims, config, arithmetic, (Stage.whole(checkpoint.dims),), 0)


def _fill_slots(engine: Engine, n_windows: int, n_beams: int, words: bool) -> None:
    noise = np.random.default_rng(0).integers(-8000, 8000, 480_000, dtype=np.int16)
    language = "en" if not engine.tokenizer.multilingual else next(iter(engine.tokenizer.languages))
    options = DecodingOptions(language=language, timestamps=False, beam_size=n_beams, words=words)
    for index in range(n_windows):
        engine.add_request(Request(str(index), noise, options))
    while engine.has_unfinished:
        engine.step()


def _warm_up(device: str) -> None:
    """Start threads and load libraries, whose memory is not the model's."""
    x = torch.ones(512, 512, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        torch.softmax(x.to(dtype) @ x.to(dtype), dim=-1)
    torch.stft(x.flatten(), 400, 160, window=torch.hann_window(400, device=device),
               return_complex=True)  # fmt: skip


def _taken(device: str) -> int:
    return resident_bytes() if device == "cpu" else torch.cuda.memory_allocated()


def _most_taken(device: str) -> int:
    return peak_resident_bytes() if device == "cpu" else torch.cuda.max_memory_allocated()


def _driver_bytes() -> int:
    free, total = torch.cuda.mem_get_info()
    return total - free


def _print(row: Row) -> None:
    planned = row.planned
    weights = planned["encoder_weights"] + planned["decoder_weights"]
    kinds = (weights, planned["cross"], planned["own"], planned["activations"])
    cells = [*kinds, row.planned_bytes, row.loaded_bytes, row.peak_bytes]
    print(
        f"| {row.model} | {row.way} | {row.batch} | "
        + " | ".join(f"{n_bytes / 1e6:.0f}" for n_bytes in cells)
        + f" | {row.ratio:.3f} |",
        flush=True,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(name) for name in comma_list(text)]

    parser = argparse.ArgumentParser(description="Planned and real memory.")
    parser.add_argument("--models", type=comma_list, default=MODELS)
    parser.add_argument("--ways", type=comma_list, default=WAYS)
    parser.add_argument("--batches", type=numbers, default="1,16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--words", action="store_true")
    parser.add_argument("--positions", type=int, default=64, help="of a slot: few are soon in use")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
