"""`murmur plan`: which GPUs a model fits, with which settings, and what an hour of audio costs."""

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

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
from serve.commands.arguments import PlanArguments
from serve.commands.exit_codes import EXIT_BAD_INPUT, EXIT_OK
from serve.commands.plan_training import print_training_plan
from serve.commands.tables import in_parts, markdown, say, show

_GPU = Arithmetic.of_gpu("a GPU", (9, 0))
_NOTE = (
    "RTFx: seconds of audio a second at most, from peak arithmetic and bandwidth, encoding and "
    "decoding in turn (a roofline). "
    f"$: of an hour of audio, always busy at {REACHED:.0%} of that; prices of {{dated}}, "
    "of the machine with the cheapest such GPU. GB: 10^9 bytes, of the fullest "
    "GPU, 1.07 of it for CUDA."
)
_HEAD = ("GPU", "settings", "batch", "GB", "of", "RTFx", "$/h on demand", "$/h spot")
_Named = TypeVar("_Named", bound=StrEnum)
_PARTS = ("weights", "windows", "tokens", "activations", "CUDA")


def plan_command(args: PlanArguments) -> int:
    """Run the command; returns the exit code."""
    try:
        if args.matrix:
            return _print_matrix(args)
        if args.model is None:
            raise EngineError("name a model, or ask for --matrix")
        if args.train:
            return print_training_plan(args, _dims(args.model))
        return _print_plans(args, args.model)
    except (EngineError, CatalogueError, ValueError) as error:
        print(f"murmur: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _print_plans(args: PlanArguments, model: str) -> int:
    question = _question(args, _dims(model))
    chosen = [gpu_catalogue().gpu(name) for name in args.gpu] if args.gpu else list(gpus())
    found: list[Plan] = []
    refused: list[tuple[Gpu, str]] = []
    for gpu in chosen:
        try:
            found.append((plan if args.strict else cheapest_way)(question, gpu))
        except EngineError as error:
            refused.append((gpu, str(error)))
    if args.as_json:
        rows = [_as_json(p, model, advice(question, p.gpu)) for p in found]
        rows += [{"model": model, "gpu": gpu.name, "error": text} for gpu, text in refused]
        print(json.dumps({"prices_dated": str(gpu_catalogue().dated), "plans": rows}, indent=2))
    else:
        show(markdown(_HEAD, [_row(p) for p in found]))
        for gpu, text in refused:
            say(f"{gpu.name}: {text}")
        if args.gpu:
            _print_details(question, found)
        say(_NOTE.format(dated=gpu_catalogue().dated))
    return EXIT_OK if found else EXIT_BAD_INPUT


def _question(args: PlanArguments, dims: ModelDimensions) -> Question:
    if not 0 <= args.tokens <= dims.n_text_ctx:
        raise ValueError(f"--tokens must be 0 to {dims.n_text_ctx}, got {args.tokens}")
    config = EngineConfig(
        cross_attention=_or_none(CrossAttentionMode, args.cross_attention),
        int8_self_attention=args.int8_self_attention,
        max_length=args.max_length,
        offload=Offload(args.offload),
    )
    return Question(
        dims=dims,
        config=config,
        precision=_or_none(Precision, args.precision),
        batch=args.batch_size,
        tensor_parallel=args.tensor_parallel,
        pipeline_parallel=args.pipeline_parallel,
        tokens_per_window=args.tokens,
    )


def _or_none(kind: type[_Named], name: str | None) -> _Named | None:
    return None if name is None else kind(name)


def _dims(model: str) -> ModelDimensions:
    """A model's sizes, from a table if it is published, else from its files."""
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
        print()
        say(f"{p.gpu.name}: {advice(as_planned, p.gpu)}")
        if p.changes:
            changed = ", ".join(f"{name}={value}" for name, value in p.changes)
            say(f"* does not fit as asked; it fits with {changed}")
        rows = [(str(stage), *_parts(use)) for stage, use in zip(p.stages, p.memory, strict=True)]
        show(markdown(("layers", *(f"{part} GB" for part in _PARTS)), rows))


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


def _print_matrix(args: PlanArguments) -> int:
    """Every published model on every GPU."""
    if args.model or args.gpu:
        raise ValueError("--matrix has every model and GPU: name none")
    find = plan if args.strict else cheapest_way
    cells: dict[tuple[str, str], Plan] = {}
    for model, dims in MODEL_SIZES.items():
        for gpu in gpus():
            with suppress(EngineError):  # the model does not fit: its cell stays empty
                cells[model, gpu.name] = find(_question(args, dims), gpu)
    if args.as_json:
        plans = [_as_json(p, model, "") for (model, _), p in cells.items()]
        print(json.dumps({"prices_dated": str(gpu_catalogue().dated), "plans": plans}, indent=2))
        return EXIT_OK
    names = [gpu.name for gpu in gpus()]
    rows: list[tuple[str, ...]] = []
    for model, dims in MODEL_SIZES.items():
        weights = [f"{_weight_bytes(dims, p) / 1e9:.2f}" for p in _WEIGHTS]
        fits = [_cell(cells.get((model, name))) for name in names]
        rows.append((model, f"{n_values(dims) / 1e6:.0f}", *weights, *fits))
    for table in in_parts(("model", *_SIZES, *names), rows):
        show(table)
    say(
        "Weights in GB. Of each GPU: batch, GB in all, RTFx; * with settings of less memory.\n"
        + _NOTE.format(dated=gpu_catalogue().dated)
    )
    return EXIT_OK


_SIZES = ("million", "float32", "16 bit", "int8", "int4")
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
