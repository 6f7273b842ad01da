"""Throughput in the shape of MLPerf Inference's Whisper Offline scenario, without files or Ray.

    python -m benchmarks.mlperf_offline [--model large-v3] [--device cuda] [--batches 64,128,256] \
        [--graphs on,off] [--overlap on,off]

Windows are 30 s long and count as 24.05 s of audio (the mean of MLPerf's 1,633 samples), with 75
tokens each, greedy, without timestamps. Weights are random, so the texts mean nothing. Compare
samples/s and RTFx only with figures of that shape. The roofline assumes 790 TFLOP/s and 4.8 TB/s,
one H200 in 16 bit, with encoder and decoder one after the other: its share can exceed 1 when they
overlap.

Phases are measured separately, each alone: all windows encoded, all tokens decoded. Prints a row as
each configuration ends, then one JSON line.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import torch

from benchmarks.local_runner import local_runner
from benchmarks.random_model import random_checkpoint
from engine import (
    N_SAMPLES,
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    ModelDimensions,
    Precision,
    Request,
    default_precision,
)
from engine.model_sizes import MODEL_SIZES
from engine.steps import Decode

SAMPLE_AUDIO_S = 24.05
FLOPS = 790e12
BYTES_PER_S = 4.8e12


@dataclass(frozen=True)
class Row:
    """One configuration; seconds are for all samples."""

    model: str
    device: str
    precision: str
    batch: int
    graphs: bool
    overlap: bool
    samples: int
    tokens: int
    samples_per_s: float
    rtfx: float
    roofline_share: float | None
    encode_s: float
    decode_s: float
    peak_gb: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    device = torch.device(options.device)
    precision = Precision(options.precision or default_precision(device))
    checkpoint = random_checkpoint(options.model, MODEL_SIZES[options.model])
    rows = []
    for batch, graphs, overlap in product(options.batches, options.graphs, options.overlap):
        config = EngineConfig(
            options.device,
            precision,
            max_slots=batch,
            encode_batch=options.encode_batch,
            # A prompt of 4 tokens and the text, rounded up to whole steps of attention's length.
            max_length=-(-(4 + options.tokens) // 32) * 32,
            overlap_encoding=overlap,
            cuda_graphs=graphs,
        )
        rows.append(measure(checkpoint, config, options.samples or 4 * batch, options.tokens))
        print(_line(rows[-1]), flush=True)
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def measure(checkpoint: Checkpoint, config: EngineConfig, n_samples: int, n_tokens: int) -> Row:
    """Run `n_samples` windows through an engine, once to warm up and once timed."""
    device = torch.device(config.device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    engine = Engine(checkpoint, config)
    windows = _windows(config.max_slots)
    run(engine, windows, config.max_slots, n_tokens)
    wall_s = timed(device, lambda: run(engine, windows, n_samples, n_tokens))
    encode_s, decode_s = _phases(engine, device, windows, n_samples, n_tokens)
    rate = n_samples / wall_s
    limit = roofline(checkpoint.dims, config.max_slots, n_tokens)
    return Row(
        model=checkpoint.name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        precision=str(config.precision),
        batch=config.max_slots,
        graphs=config.cuda_graphs and device.type == "cuda",
        overlap=config.overlap_encoding,
        samples=n_samples,
        tokens=n_tokens,
        samples_per_s=rate,
        rtfx=rate * SAMPLE_AUDIO_S,
        roofline_share=rate / limit if device.type == "cuda" else None,
        encode_s=encode_s,
        decode_s=decode_s,
        peak_gb=_peak_bytes(device) / 1e9,
    )


def run(engine: Engine, windows: Sequence[np.ndarray], n_samples: int, n_tokens: int) -> int:
    """Transcribe; returns the number of tokens that came out."""
    options = DecodingOptions(language="en", timestamps=False, max_new_tokens=n_tokens)
    for index in range(n_samples):
        engine.add_request(Request(str(index), windows[index % len(windows)], options))
    n_sampled = 0
    while engine.has_unfinished:
        n_sampled += sum(len(result.tokens) for result in engine.step())
    if n_sampled != n_samples * n_tokens:
        raise RuntimeError(f"{n_sampled} tokens came out, {n_samples * n_tokens} were to")
    return n_sampled


def roofline(dims: ModelDimensions, batch: int, n_tokens: int) -> float:
    """Samples per second at `FLOPS` and `BYTES_PER_S` in 16 bit, encoder and decoder in turn.

    Arithmetic limits the encoder: its layers, convolutions and the keys and values of
    cross-attention. Memory limits the decoder: per token its weights, shared by the batch, and the
    keys and values of a sequence.
    """
    n, width, layers = dims.n_audio_ctx, dims.n_audio_state, dims.n_text_layer
    linear = 24 * n * width**2 * dims.n_audio_layer
    attention = 4 * n**2 * width * dims.n_audio_layer
    convolutions = 2 * 2 * n * dims.n_mels * 3 * width + 2 * n * 3 * width**2
    cross = 4 * n * width**2 * layers
    encode_s = (linear + attention + convolutions + cross) / FLOPS
    weights = 2 * (14 * width**2 * layers + dims.n_vocab * width)
    keys_and_values = 2 * 2 * layers * width * (n + n_tokens / 2)
    decode_s = n_tokens * (weights / batch + keys_and_values) / BYTES_PER_S
    return 1.0 / (encode_s + decode_s)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _phases(
    engine: Engine,
    device: torch.device,
    windows: Sequence[np.ndarray],
    n_samples: int,
    n_tokens: int,
) -> tuple[float, float]:
    runner, config = local_runner(engine), engine.config
    size = min(config.encode_limit, config.max_slots)

    def encode() -> None:
        for start in range(0, n_samples, size):
            n = min(size, n_samples - start)
            runner.encode([windows[i % len(windows)] for i in range(start, start + n)], range(n))

    def decode() -> None:
        for done in range(0, n_samples, config.max_slots):
            n = min(config.max_slots, n_samples - done)
            for token in range(n_tokens):
                runner.decode(Decode(0, n, 5 + token, (None,) * n))

    return timed(device, encode), timed(device, decode)


def _windows(n: int) -> list[np.ndarray]:
    """Windows of noise, all different, so that nothing can be reused."""
    random = np.random.default_rng(0)
    shape = min(n, 16), N_SAMPLES
    return list(random.normal(0.0, 3000.0, shape).clip(-32_768, 32_767).astype(np.int16))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _line(row: Row) -> str:
    share = "" if row.roofline_share is None else f", {row.roofline_share:.0%} of the roofline"
    return (
        f"{row.model} {row.precision} batch {row.batch} graphs {'on' if row.graphs else 'off'} "
        f"overlap {'on' if row.overlap else 'off'}: {row.samples_per_s:.2f} samples/s, "
        f"{row.rtfx:.0f} RTFx{share}; alone: encode {row.encode_s:.2f} s, decode "
        f"{row.decode_s:.2f} s of {row.samples / row.samples_per_s:.2f} s; {row.peak_gb:.1f} GB"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Throughput in MLPerf's Offline shape.")
    parser.add_argument("--model", choices=sorted(MODEL_SIZES), default="large-v3")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=[str(p) for p in Precision])
    parser.add_argument("--batches", type=_numbers, default=[256])
    parser.add_argument("--encode-batch", type=int)
    parser.add_argument("--samples", type=int, help="default: four batches")
    parser.add_argument("--tokens", type=int, default=75)
    parser.add_argument("--graphs", type=_switches, default=[True])
    parser.add_argument("--overlap", type=_switches, default=[True])
    return parser.parse_args(arguments)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _switches(text: str) -> list[bool]:
    return [{"on": True, "off": False}[part] for part in text.split(",")]


if __name__ == "__main__":
    main()
