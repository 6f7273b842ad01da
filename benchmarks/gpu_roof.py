"""Computes how long a decoder step and a window take on GPUs that are not here, launch by launch.

    python -m benchmarks.gpu_roof [--models large-v3,turbo] [--batches 1,16,64,256] [--tokens 75] \
        [--gpus T4,L4,...] [--bandwidth 0.85] [--arithmetic 0.65] [--launch-us 2]

A launch takes what its bytes or its operations take, whichever is longer, at a share of the GPU's
peaks, and never less than a launch in a CUDA graph does. The three assumptions are options; their
defaults are what well-made kernels reach, not measurements of ours. Launches are those of the
engine's own code (tests/engine/test_fake_cuda.py counts them). With `--check`, prints what the same
arithmetic says beside published rates of other engines. Nothing runs; ends with a JSON line.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from deployments.planning.gpu_catalogue import Gpu, gpu_catalogue
from engine.config import HOP_LENGTH, N_FFT, ModelDimensions
from engine.kernels.triton.weights import ENOUGH_PROGRAMS, MAX_ROWS, MIN_PRODUCTS
from engine.model_sizes import MODEL_SIZES

GPUS = ("T4", "L4", "A10G", "L40S", "A100", "H100", "H200")
LAYER_LAUNCHES = 8
"""Of a decoder layer in a step, on our kernels; one more where programs share a window."""
OTHER_LAUNCHES = 20
"""Of a step: embedding, output layer, rules and sampling."""
_TORCH_LAYER_LAUNCHES = 15
"""Of a decoder layer with more rows than our products take."""
_LOGIT_BYTES = 10
"""Moved for each logit after the output layer: to float32, and once more for the choice."""
_ENCODE_BATCH = 8
_PROMPT_TOKENS = 4
_HALF = 2
_SAMPLE_AUDIO_S = 24.05
PUBLISHED = {
    ("H200", 256): 67.9,
    ("L40S", 64): 18.3,
    ("L4", 32): 5.50,
}
"""Samples a second and GPU of large-v3 in MLPerf Inference 5.1, TensorRT-LLM in float16, by GPU and
batch (mlcommons/inference_results_v5.1)."""


@dataclass(frozen=True, slots=True)
class Work:
    """Launches of one kind.

    Attributes:
        n_bytes, flops: of one launch.
        float32_flops: the same, of arithmetic that is no tensor core's.
    """

    name: str
    launches: int
    n_bytes: float = 0.0
    flops: float = 0.0
    float32_flops: float = 0.0


@dataclass(frozen=True, slots=True)
class Device:
    """What a GPU does in practice; `launch_s` is the shortest time of a launch, `fused` whether our
    products run on it."""

    bytes_per_s: float
    flops_per_s: float
    launch_s: float
    fused: bool = True
    float32_flops_per_s: float = math.inf

    def seconds(self, work: Work) -> float:
        once = max(
            work.n_bytes / self.bytes_per_s,
            work.flops / self.flops_per_s,
            work.float32_flops / self.float32_flops_per_s,
            self.launch_s,
        )
        return work.launches * once


@dataclass(frozen=True)
class Row:
    """One model on one GPU; milliseconds and RTFx are computed."""

    model: str
    gpu: str
    batch: int
    launches: int
    step_ms: float
    encode_ms: float
    window_ms: float
    rtfx: float
    launch_bound_share: float


def step(dims: ModelDimensions, n: int, length: int, fused: bool = True) -> Iterator[Work]:
    """The launches of a step of `n` rows in 16 bits, whose texts are `length` tokens long.

    Args:
        fused: whether our products run on the GPU.
    """
    width, layers = dims.n_text_state, dims.n_text_layer
    for name, n_out, n_in in (
        ("qkv", 3 * width, width),
        ("output", width, width),
        ("query", width, width),
        ("output", width, width),
        ("fc1", 4 * width, width),
        ("fc2", width, 4 * width),
    ):
        moved = _HALF * (n_out * n_in + n * (n_in + n_out))
        yield Work(name, layers, moved, 2 * n * n_out * n_in)
    for name, positions in (("self-attention", length), ("cross-attention", dims.n_audio_ctx)):
        yield Work(name, layers, _HALF * 2 * n * positions * width, 4 * n * positions * width)
    if n * dims.n_text_head < ENOUGH_PROGRAMS:
        yield Work("cross-attention, combined", layers)
    if n > MAX_ROWS or not fused:  # norms, sums and the GELU are launches of their own
        more = _TORCH_LAYER_LAUNCHES - LAYER_LAUNCHES
        yield Work("norms and sums", layers * more, 3 * _HALF * n * width)
    logits = dims.n_vocab * n
    table = _HALF * dims.n_vocab * width
    yield Work("logits", 1, table + _HALF * logits, 2 * logits * width)
    yield Work("sampling", OTHER_LAUNCHES - 1, _LOGIT_BYTES * logits / (OTHER_LAUNCHES - 1))


def window(dims: ModelDimensions, batch: int) -> Iterator[Work]:
    """The launches that encode `batch` windows together, and fill their slots."""
    width, frames = dims.n_audio_state, batch * dims.n_audio_ctx
    yield from _log_mel(dims.n_mels, 2 * frames)
    row = _HALF * frames * width
    convolved = 2 * frames * 3 * width
    yield Work("convolutions", 2, 3 * row, convolved * (2 * dims.n_mels + width) / 2)
    yield Work("around convolutions", 3, 3 * row)
    for name, n_out, n_in in (
        ("qkv", 3, 1),
        ("output", 1, 1),
        ("fc1", 4, 1),
        ("fc2", 1, 4),
    ):
        moved = _HALF * n_out * n_in * width**2 + row * (n_in + n_out)
        yield Work(
            f"encoder {name}", dims.n_audio_layer, moved, 2 * frames * n_out * n_in * width**2
        )
    attention = 4 * frames * dims.n_audio_ctx * width
    yield Work("encoder attention", dims.n_audio_layer, 4 * row, attention)
    yield Work("encoder norms and sums", 4 * dims.n_audio_layer, 4 * row)
    columns = dims.n_text_state
    both = _HALF * frames * 2 * columns
    yield Work("keys and values", dims.n_text_layer, row + both, 4 * frames * width * columns)
    yield Work("keys and values stored", 2 * dims.n_text_layer, both)


def _log_mel(n_mels: int, n_frames: int) -> Iterator[Work]:
    """int16 samples to float32, by a folded DFT and the mel filters as products."""
    n_bins, out = 1 + N_FFT // 2, 4 * n_mels * n_frames
    flops = 2 * n_frames * n_bins * (N_FFT + n_mels)
    yield Work("log-mel", 1, 2 * HOP_LENGTH * n_frames + out, float32_flops=flops)
    yield Work("log-mel, clamped", 1, 2 * out)


def computed(
    dims: ModelDimensions, device: Device, batch: int, n_tokens: int
) -> tuple[float, float, float]:
    """Seconds of a step, of a window's encoding, and of a window in all, at a full batch."""
    step_s = sum(
        map(device.seconds, step(dims, batch, _PROMPT_TOKENS + n_tokens // 2, device.fused))
    )
    together = min(_ENCODE_BATCH, batch)
    encode_s = sum(map(device.seconds, window(dims, together))) / together
    prompts = step(dims, together * _PROMPT_TOKENS, _PROMPT_TOKENS, device.fused)
    prompt_s = sum(map(device.seconds, prompts)) / together
    return step_s, encode_s, encode_s + prompt_s + n_tokens * step_s / batch


def device_of(gpu: Gpu, bandwidth: float, arithmetic: float, launch_s: float) -> Device:
    """A GPU at a share of its peaks, in its 16-bit format."""
    flops = gpu.flops_per_s[gpu.half_format] * arithmetic
    wide = gpu.flops_per_s["float32"] * arithmetic
    major, minor = gpu.compute_capability
    fused = 10 * major + minor >= MIN_PRODUCTS
    return Device(gpu.bytes_per_s * bandwidth, flops, launch_s, fused, wide)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if options.check:
        _print_check(options)
        return
    print("| model | GPU | batch | launches | step, ms | encode, ms | window, ms | RTFx "
          "| time of launches that only wait to start |")  # fmt: skip
    print("|---" * 9 + "|")
    rows = [
        _row(model, name, batch, options)
        for model in options.models
        for name in options.gpus
        for batch in options.batches
    ]
    for row in rows:
        print(
            f"| {row.model} | {row.gpu} | {row.batch} | {row.launches} | {row.step_ms:.2f} "
            f"| {row.encode_ms:.1f} | {row.window_ms:.1f} | {row.rtfx:.0f} "
            f"| {row.launch_bound_share:.0%} |"
        )
    print(json.dumps({"results": [asdict(row) for row in rows]}))


def _row(model: str, name: str, batch: int, options: argparse.Namespace) -> Row:
    dims = MODEL_SIZES[model]
    device = _device(name, options)
    step_s, encode_s, window_s = computed(dims, device, batch, options.tokens)
    launches = list(step(dims, batch, _PROMPT_TOKENS + options.tokens // 2, device.fused))
    waiting = sum(
        device.seconds(work)
        for work in launches
        if device.seconds(work) <= work.launches * device.launch_s
    )
    return Row(
        model,
        name,
        batch,
        sum(work.launches for work in launches),
        step_s * 1e3,
        encode_s * 1e3,
        window_s * 1e3,
        options.audio / window_s,
        waiting / step_s,
    )


def _device(name: str, options: argparse.Namespace) -> Device:
    launch_s = options.launch_us * 1e-6
    return device_of(gpu_catalogue().gpu(name), options.bandwidth, options.arithmetic, launch_s)


def _print_check(options: argparse.Namespace) -> None:
    dims = MODEL_SIZES["large-v3"]
    print("| GPU | batch | published, samples/s | computed | published / computed | of the peaks |")
    print("|---" * 6 + "|")
    found = []
    for (name, batch), rate in PUBLISHED.items():
        window_s = computed(dims, _device(name, options), batch, options.tokens)[2]
        peaks = device_of(gpu_catalogue().gpu(name), 1.0, 1.0, 0.0)
        peak_s = computed(dims, peaks, batch, options.tokens)[2]
        found.append({"gpu": name, "computed": 1 / window_s, "published": rate})
        print(
            f"| {name} | {batch} | {rate} | {1 / window_s:.1f} | {rate * window_s:.2f} "
            f"| {rate * peak_s:.2f} |"
        )
    print(json.dumps({"results": found}))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(known: Sequence[str]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            found = text.split(",")
            for name in found:
                if name not in known:
                    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
            return found

        return parse

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description="What GPUs could do, computed.")
    parser.add_argument("--models", type=names(sorted(MODEL_SIZES)), default=["large-v3", "turbo"])
    parser.add_argument("--gpus", type=names(list(gpu_catalogue().gpus)), default=list(GPUS))
    parser.add_argument("--batches", type=numbers, default=[1, 16, 64, 256])
    parser.add_argument("--tokens", type=int, default=75)
    parser.add_argument("--audio", type=float, default=_SAMPLE_AUDIO_S, help="seconds a window")
    parser.add_argument("--bandwidth", type=float, default=0.85)
    parser.add_argument("--arithmetic", type=float, default=0.65)
    parser.add_argument("--launch-us", type=float, default=2.0)
    parser.add_argument("--check", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
