"""The parts of a GPU's day. Each yields rows; one whose `right` is false makes its part fail."""

import argparse
import platform
import wave
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_day import kernels
from benchmarks.local_runner import local_runner
from benchmarks.mlperf_offline import measure
from benchmarks.random_model import random_checkpoint
from engine import (
    Checkpoint,
    CrossAttentionMode,
    DecodingOptions,
    Engine,
    EngineConfig,
    ModelDimensions,
    ModelNotFoundError,
    Precision,
    Request,
    default_precision,
    open_checkpoint,
)
from engine.fit import rank_memory
from engine.gang.local import local_gang
from engine.kernels.triton import disabled
from engine.model_sizes import MODEL_SIZES
from engine.parallel.distributed import Mesh
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from engine.steps import Decode

Row = dict[str, Any]
CLIPS = Path(__file__).parents[2] / "tests" / "data"
SMALL = ModelDimensions(80, 51_865, 1500, 64, 1, 1, 448, 64, 1, 1)
"""For a rehearsal."""
_AGREEMENT = 0.95
"""Of a text's tokens with those of float32 on the CPU, in lower precisions."""
_WITHIN = 0.05
"""The plan's distance to the peak."""
_BUDGET_BYTES = 3.0e9
"""What large-v3 with 16 texts is to need in 8 bits, absorbed."""


def facts(device: str) -> Row:
    """What the results are of."""
    found: Row = {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "python": platform.python_version(),
    }
    if device != "cpu":
        found["compute capability"] = torch.cuda.get_device_capability(device)
        found["memory, GB"] = torch.cuda.get_device_properties(device).total_memory / 1e9
    return found


def tokens(options: argparse.Namespace) -> Iterator[Row]:
    """A small model's tokens on clips, beside those of float32 on the CPU."""
    checkpoint = _small_model(options)
    clips = _clips(options)
    expected = _texts(Engine(checkpoint, EngineConfig(max_slots=4)), clips)
    device = torch.device(options.device)
    for precision in _precisions(device)[: 2 if options.rehearse else None]:
        for way, context in (("kernels", nullcontext), ("torch", disabled)):
            with context():
                config = EngineConfig(options.device, precision, max_slots=4)
                found = _texts(Engine(checkpoint, config), clips)
            pairs = [(found[name], expected[name]) for name in clips]
            alike = [SequenceMatcher(None, *pair, autojunk=False).ratio() for pair in pairs]
            wanted = 1.0 if precision is Precision.FLOAT32 else _AGREEMENT
            yield {
                "precision": str(precision),
                "way": way,
                "clips": len(clips),
                "equal": sum(ours == theirs for ours, theirs in pairs),
                "agreement": min(alike),
                "right": min(alike) >= wanted,
            }


def speed(options: argparse.Namespace) -> Iterator[Row]:
    """MLPerf's Offline shape, the runs that matter most first."""
    batches = (2,) if options.rehearse else (256, 64, 128)
    n_tokens = 6 if options.rehearse else 75
    half = default_precision(torch.device(options.device))
    for name in ("large-v3", "turbo"):
        dims = SMALL if options.rehearse else MODEL_SIZES[name]
        checkpoint = random_checkpoint(name, dims)
        base = EngineConfig(
            options.device, half, max_slots=batches[0], max_length=-(-(4 + n_tokens) // 32) * 32
        )
        ways: list[tuple[str, EngineConfig, Callable[[], AbstractContextManager[None]]]] = [
            ("kernels, graphs", base, nullcontext),
            ("torch, graphs", base, disabled),
            *(
                (f"kernels, graphs, batch {n}", replace(base, max_slots=n), nullcontext)
                for n in batches[1:]
            ),
            (
                "8-bit windows",
                replace(base, cross_attention=CrossAttentionMode.CACHED_8BIT),
                nullcontext,
            ),
            ("absorbed", replace(base, cross_attention=CrossAttentionMode.ABSORBED), nullcontext),
            ("kernels, no graphs", replace(base, cuda_graphs=False), nullcontext),
            ("no overlap", replace(base, overlap_encoding=False), nullcontext),
        ]
        for way, config, context in ways:
            with context():
                row = measure(checkpoint, config, 2 * config.max_slots, n_tokens)
            yield {
                "model": name,
                "way": way,
                "batch": row.batch,
                "samples/s": row.samples_per_s,
                "RTFx": row.rtfx,
                "encode, s": row.encode_s,
                "decode, s": row.decode_s,
                "peak, GB": row.peak_gb,
            }


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """The most that each way took, beside the plan."""
    dims = SMALL if options.rehearse else MODEL_SIZES["large-v3"]
    checkpoint, on_gpu = random_checkpoint("large-v3", dims), options.device != "cpu"
    absorbed, cached = CrossAttentionMode.ABSORBED, CrossAttentionMode.CACHED
    half = default_precision(torch.device(options.device))
    for precision, cross, n in (
        (Precision.INT8_WEIGHT_ONLY, absorbed, 16),
        (half, cached, 16),
        (half, absorbed, 64),
        (Precision.INT4_G64, absorbed, 16),
    ):
        config = EngineConfig(
            options.device,
            precision,
            cross_attention=cross,
            max_slots=2 if options.rehearse else n,
            max_length=64,
            encode_batch=1,
        )
        before = _reset_peak() if on_gpu else 0
        engine = Engine(checkpoint, config)
        _fill(engine, 2 * config.max_slots)
        arithmetic = Arithmetic.of(torch.device(options.device))
        plan = rank_memory(dims, config, arithmetic, (Stage.whole(dims),), 0).total
        peak = torch.cuda.max_memory_allocated() - before if on_gpu else plan
        free, total = torch.cuda.mem_get_info() if on_gpu else (0, 0)
        fits = precision is not Precision.INT8_WEIGHT_ONLY or peak <= _BUDGET_BYTES
        yield {
            "precision": str(precision),
            "cross-attention": str(cross),
            "batch": config.max_slots,
            "planned, GB": plan / 1e9,
            "peak, GB": peak / 1e9,
            "peak / planned": peak / plan,
            "driver, GB": (total - free) / 1e9,
            "right": abs(peak / plan - 1) <= _WITHIN and fits,
        }
        del engine


def ranks(options: argparse.Namespace) -> Iterator[Row]:
    """A model over two processes, tensor-parallel and as a pipeline, beside one process."""
    checkpoint = _small_model(options)
    clips = _clips(options)
    config = EngineConfig(options.device, Precision.FLOAT32, max_slots=4)
    expected = _texts(Engine(checkpoint, config), clips)
    dims, opener = checkpoint.dims, partial(_small_model, options)
    halves = Stage(range(dims.n_audio_layer), range(0)), Stage(range(0), range(dims.n_text_layer))
    whole = (Stage.whole(dims),)
    for name, mesh in (("2 x 1", Mesh(whole, 2)), ("1 x 2", Mesh(halves, 1))):
        if mesh.tensor_parallel > dims.n_text_head:
            continue
        with local_gang(opener, mesh, config, backend="gloo") as engine:
            found = _texts(engine, clips)
        yield {"mesh": name, "clips": len(clips), "right": found == expected}


def profile(options: argparse.Namespace) -> Iterator[Row]:
    """Where the time of a step goes, by kernel, without graphs."""
    dims = SMALL if options.rehearse else MODEL_SIZES["large-v3"]
    n = 2 if options.rehearse else 64
    half = default_precision(torch.device(options.device))
    config = EngineConfig(options.device, half, max_slots=n, cuda_graphs=False)
    runner = local_runner(Engine(random_checkpoint("large-v3", dims), config))
    activity = torch.profiler.ProfilerActivity
    on_gpu = options.device != "cpu"
    step = Decode(0, n, 60, (None,) * n)
    for _ in range(3):
        runner.decode(step)
    with torch.profiler.profile(activities=[activity.CUDA if on_gpu else activity.CPU]) as seen:
        for _ in range(5):
            runner.decode(step)
        if on_gpu:
            torch.cuda.synchronize()
    of = "device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: -getattr(event, of))
    total = sum(getattr(event, of) for event in events)
    for event in events[:25]:
        spent = getattr(event, of)
        yield {
            "kernel": event.key[:80],
            "launches a step": event.count / 5,
            "us a step": spent / 5,
            "share": spent / total if total else 0.0,
        }


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "tokens": tokens,
    "kernels": kernels.kernels,
    "speed": speed,
    "memory": memory,
    "ranks": ranks,
    "profile": profile,
}


def _small_model(options: argparse.Namespace) -> Checkpoint:
    """The model for tokens, or random weights of tiny's sizes where there is none."""
    try:
        return open_checkpoint(options.model)
    except ModelNotFoundError:
        return random_checkpoint("tiny", MODEL_SIZES["tiny"])


def _clips(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The committed clips, int16 at 16 kHz; Python's own reader has to do."""
    found = {}
    for path in sorted(CLIPS.glob("librivox-*.wav"))[: 1 if options.rehearse else None]:
        with wave.open(str(path)) as file:
            found[path.name] = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    return found


def _texts(engine: Engine, clips: dict[str, np.ndarray]) -> dict[str, list[int]]:
    multilingual = engine.tokenizer.multilingual
    language = next(iter(engine.tokenizer.languages)) if multilingual else "en"
    options = DecodingOptions(language=language, max_new_tokens=60)
    for name, pcm in clips.items():
        engine.add_request(Request(name, pcm, options))
    found = {}
    while engine.has_unfinished:
        for result in engine.step():
            found[result.request_id] = list(result.tokens)
    return found


def _precisions(device: torch.device) -> list[Precision]:
    """Those to compare that the device has, float32 first."""
    wanted = (
        Precision.FLOAT32,
        Precision.BFLOAT16,
        Precision.FLOAT16,
        Precision.INT8_WEIGHT_ONLY,
        Precision.INT8,
        Precision.FP8,
    )
    arithmetic = Arithmetic.of(device)
    return [precision for precision in wanted if precision.is_supported(arithmetic)]


def _fill(engine: Engine, n_windows: int) -> None:
    """Windows of noise, with texts as long as there is room for."""
    noise = np.random.default_rng(0).integers(-8000, 8000, 480_000, dtype=np.int16)
    options = DecodingOptions(language="en", timestamps=False)
    for index in range(n_windows):
        engine.add_request(Request(str(index), noise, options))
    while engine.has_unfinished:
        engine.step()


def _reset_peak() -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
