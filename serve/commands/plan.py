"""`murmur plan`: which GPUs a model fits, how, and what an hour of audio costs there."""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from deployments.errors import CatalogueError
from deployments.planning.gpu_catalogue import Gpu, Instance, gpu_catalogue
from deployments.planning.planner import REACHED, Plan, Question, advice, cheapest_way, gpus, plan
from engine import (
    CrossAttentionMode,
    EngineConfig,
    EngineError,
    Offload,
    Precision,
    open_checkpoint,
)
from engine.config import ModelDimensions
from engine.memory import MemoryUse
from engine.model_sizes import MODEL_SIZES, known_sizes
from engine.parallel.shares import RankShare
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from engine.weights.shapes import n_values
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK

_GPU = Arithmetic.of_gpu("a GPU", (9, 0))
_NOTE = (
    "RTFx: seconds of audio a second at most, from peak arithmetic and bandwidth, encoding and "
    "decoding in turn (a roofline). "
    f"$: of an hour of audio, always busy at {REACHED:.0%} of that; prices of {{dated}}, "
    "of the machine with the cheapest such GPU. GB: 10^9 bytes, of the fullest "
    "GPU, 1.07 of it for CUDA."
)
_HEAD = ("GPU", "settings", "batch", "GB", "of", "RTFx", "$/h on demand", "$/h spot")
_PARTS = ("weights", "windows", "tokens", "activations", "CUDA")


def plan_command(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    try:
        if args.matrix:
            return _print_matrix(args)
        if args.model is None:
            raise EngineError("name a model, or ask for --matrix")
        return _print_plans(args)
    except (EngineError, CatalogueError, ValueError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _print_plans(args: argparse.Namespace) -> int:
    question = _question(args, _dims(args.model))
    chosen = [gpu_catalogue().gpu(name) for name in args.gpu] if args.gpu else list(gpus())
    found: list[Plan] = []
    refused: list[tuple[Gpu, str]] = []
    for gpu in chosen:
        try:
            found.append((plan if args.strict else cheapest_way)(question, gpu))
        except EngineError as error:
            refused.append((gpu, str(error)))
    if args.json:
        rows = [_as_json(p, args.model, advice(question, p.gpu)) for p in found]
        rows += [{"model": args.model, "gpu": gpu.name, "error": text} for gpu, text in refused]
        print(json.dumps({"prices_dated": str(gpu_catalogue().dated), "plans": rows}, indent=2))
    else:
        _print_table([_HEAD, *(_row(p) for p in found)])
        for gpu, text in refused:
            print(f"{gpu.name}: {text}")
        if args.gpu:
            _print_details(question, found)
        print(_NOTE.format(dated=gpu_catalogue().dated))
    return EXIT_OK if found else EXIT_BAD_INPUT


def _question(args: argparse.Namespace, dims: ModelDimensions) -> Question:
    for name in ("batch", "tp", "pp"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.tokens <= dims.n_text_ctx:
        raise ValueError(f"--tokens must be 0 to {dims.n_text_ctx}, got {args.tokens}")
    config = EngineConfig(
        cross_attention=args.cross_attention and CrossAttentionMode(args.cross_attention),
        int8_self_attention=args.int8_self_attention,
        max_length=args.max_length,
        offload=Offload(args.offload),
    )
    return Question(
        dims=dims,
        config=config,
        precision=args.precision and Precision(args.precision),
        batch=args.batch,
        tensor_parallel=args.tp,
        pipeline_parallel=args.pp,
        tokens_per_window=args.tokens,
    )


def _dims(model: str) -> ModelDimensions:
    """Of a published model from a table, of others from their files."""
    return known_sizes(model) or open_checkpoint(model).dims


def _row(p: Plan) -> tuple[str, ...]:
    return (
        p.gpu.name if p.n_gpus == 1 else f"{p.n_gpus} x {p.gpu.name}",
        _settings(p),
        str(p.config.max_slots),
        f"{p.needed_bytes / 1e9:.2f}",
        f"{p.gpu.memory_bytes / 1e9:.1f}",
        f"{p.rtfx:.0f}",
        _dollars(p.usd_per_audio_hour(spot=False), p.instance),
        _dollars(p.usd_per_audio_hour(spot=True), p.spot_instance),
    )


def _settings(p: Plan) -> str:
    config = p.config
    parts = [config.precision.value]
    if config.cross_attention is not None:
        parts.append(config.cross_attention.value)
    if config.int8_self_attention:
        parts.append("8-bit tokens")
    if config.max_length is not None:
        parts.append(f"{config.max_length} tokens")
    if config.encode_batch is not None:
        parts.append(f"encodes {config.encode_batch}")
    if config.offload is not Offload.NONE:
        parts.append(f"offload {config.offload}")
    if p.tensor_parallel > 1:
        parts.append(f"tp {p.tensor_parallel}")
    if len(p.stages) > 1:
        parts.append(f"pp {len(p.stages)}")
    return ", ".join(parts) + (" *" if p.changes else "")


def _dollars(amount: float | None, instance: Instance | None) -> str:
    if amount is None or instance is None:
        return "-"
    return f"{amount:.4f} {instance.cloud} {instance.type}"


def _print_details(question: Question, plans: Iterable[Plan]) -> None:
    for p in plans:
        as_planned = replace(question, config=p.config, precision=p.config.precision)
        print(f"\n{p.gpu.name}: {advice(as_planned, p.gpu)}")
        if p.changes:
            changed = ", ".join(f"{name}={value}" for name, value in p.changes)
            print(f"* does not fit as asked; it fits with {changed}")
        rows = [("layers", *(f"{part} GB" for part in _PARTS))]
        rows += [(str(stage), *_parts(use)) for stage, use in zip(p.stages, p.memory, strict=True)]
        _print_table(rows)


def _parts(use: MemoryUse) -> tuple[str, ...]:
    amounts = (use.weights, use.cross, use.own, use.activations, use.runtime)
    return tuple(f"{n_bytes / 1e9:.3f}" for n_bytes in amounts)


def _as_json(p: Plan, model: str, text: str) -> dict[str, Any]:
    config = p.config
    return {
        "model": model,
        "gpu": p.gpu.name,
        "gpu_memory_bytes": p.gpu.memory_bytes,
        "settings": {
            "precision": config.precision.value,
            "cross_attention": config.cross_attention and config.cross_attention.value,
            "int8_self_attention": config.int8_self_attention,
            "max_length": config.max_length,
            "offload": config.offload.value,
            "encode_batch": config.encode_limit,
            "batch_size": config.max_slots,
            "tensor_parallel": p.tensor_parallel,
            "stage_layers": [stage.n_layers for stage in p.stages],
        },
        "does_not_fit_as_asked": bool(p.changes),
        "memory_bytes": [dict(use.kinds()) | {"total": use.total} for use in p.memory],
        "rtfx_at_most": p.rtfx,
        "usd_per_audio_hour": p.usd_per_audio_hour(spot=False),
        "spot_usd_per_audio_hour": p.usd_per_audio_hour(spot=True),
        "advice": text,
    }


def _print_matrix(args: argparse.Namespace) -> int:
    """Every published model on every GPU."""
    if args.model or args.gpu:
        raise ValueError("--matrix has every model and GPU: name none")
    find = plan if args.strict else cheapest_way
    cells: dict[tuple[str, str], Plan] = {}
    for model, dims in MODEL_SIZES.items():
        for gpu in gpus():
            with suppress(EngineError):  # a cell without a plan
                cells[model, gpu.name] = find(_question(args, dims), gpu)
    if args.json:
        rows = [_as_json(p, model, "") for (model, _), p in cells.items()]
        print(json.dumps({"prices_dated": str(gpu_catalogue().dated), "plans": rows}, indent=2))
        return EXIT_OK
    names = [gpu.name for gpu in gpus()]
    table = [("model", "million", "float32", "16 bit", "int8", "int4", *names)]
    for model, dims in MODEL_SIZES.items():
        weights = [f"{_weight_bytes(dims, p) / 1e9:.2f}" for p in _WEIGHTS]
        fits = [_cell(cells.get((model, name))) for name in names]
        table.append((model, f"{n_values(dims) / 1e6:.0f}", *weights, *fits))
    _print_table(table)
    print(
        "Weights in GB. Of each GPU: batch, GB in all, RTFx; * with settings of less memory.\n"
        + _NOTE.format(dated=gpu_catalogue().dated)
    )
    return EXIT_OK


_WEIGHTS = (
    Precision.FLOAT32,
    Precision.BFLOAT16,
    Precision.INT8_WEIGHT_ONLY,
    Precision.INT4_G64,
)


def _weight_bytes(dims: ModelDimensions, precision: Precision) -> int:
    share = RankShare.of(dims, Stage.whole(dims), 1, precision.formats(_GPU))
    return share.encoder_bytes + share.decoder_bytes


def _cell(p: Plan | None) -> str:
    if p is None:
        return "-"
    mark = "*" if p.changes else ""
    return f"{p.config.max_slots}: {p.needed_bytes / 1e9:.1f}, {p.rtfx:.0f}{mark}"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"| {' | '.join(cells)} |")
        if index == 0:
            print(f"|{'|'.join('-' * (width + 2) for width in widths)}|")
