"""Checks whether a model fits a device's memory, before anything is allocated.

If it does not fit, the error says what it needs by kind, and with which settings it would fit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from engine.config import EngineConfig, ModelDimensions
from engine.devices import usable_bytes
from engine.encode_ahead import encodes_on_two_threads
from engine.errors import EngineError
from engine.memory import Load, MemoryUse, longest_prompt, memory_use
from engine.parallel.shares import RankShare
from engine.parallel.stages import Stage, group_sizes
from engine.precision import Arithmetic, CrossAttentionMode, Offload, Precision
from engine.weights.adapters import Adapter

_KINDS = {
    "weights": ("encoder_weights", "decoder_weights"),
    "adapters": ("adapters",),
    "cross-attention": ("cross",),
    "self-attention": ("own",),
    "activations": ("activations",),
    "runtime": ("runtime",),
}
_ABSORBED = (".encoder_attn.k_proj", ".encoder_attn.v_proj")
_SHORTER = 228
"""Enough positions of a slot for any window's text, 224 tokens at most, without a prompt."""
_NAMES = {"max_slots": "batch_size"}
"""Names in the settings and on the command line, where they differ."""


def rank_memory(
    dims: ModelDimensions,
    config: EngineConfig,
    arithmetic: Arithmetic,
    stages: tuple[Stage, ...],
    index: int,
    tensor_parallel: int = 1,
    runtime: int = 0,
    adapters: Sequence[Adapter] = (),
) -> MemoryUse:
    """The memory that the first rank of a stage needs.

    Raises:
        PrecisionError: the device does not have the precision.
    """
    formats = config.formats_on(arithmetic)
    share = RankShare.of(dims, stages[index], tensor_parallel, formats, config.offload)
    n_groups = len(group_sizes(stages, config.max_slots))
    is_whole = stages == (Stage.whole(dims),)
    by_two = is_whole and config.max_slots > 1 and encodes_on_two_threads(config)
    load = Load(
        n_slots=config.max_slots,
        max_length=config.positions(dims),
        encode_batch=config.encode_limit,
        n_groups=n_groups,
        prompt_length=longest_prompt(config.positions(dims)),
        n_encoders=1 + by_two,
        loads_here=arithmetic.is_cpu,
    )
    return memory_use(share, load, runtime, adapters)


def fitted(
    dims: ModelDimensions,
    config: EngineConfig,
    arithmetic: Arithmetic,
    available: float,
    adapters: Sequence[Adapter] = (),
) -> EngineConfig:
    """The config; if it has no `encode_batch`, with as many windows encoded at once as fit.

    Args:
        available: bytes.

    Raises:
        EngineError: not even one window fits, layers are to be offloaded from a CPU, or the config
            has no way to add what adapters add.
    """
    check_adapters(config, adapters)
    if arithmetic.is_cpu and config.offload is not Offload.NONE:
        raise EngineError(f"offload={config.offload} is for GPUs: a CPU's memory is the host's")
    stages = (Stage.whole(dims),)
    limit = config.encode_limit
    for batch in [limit] if config.encode_batch is not None else _halved(limit):
        tried = config if batch == limit else replace(config, encode_batch=batch)
        use = rank_memory(dims, tried, arithmetic, stages, 0, adapters=adapters)
        if use.total <= available:
            return tried
    raise EngineError(
        f"{_describe(tried, arithmetic)} needs {breakdown(use)}, of {gigabytes(available)} that "
        f"may be used; {_advice(dims, tried, arithmetic, available, adapters)}"
    )


def check_adapters(config: EngineConfig, adapters: Sequence[Adapter]) -> None:
    """
    Raises:
        EngineError: adapters cannot be added to a model that runs like this.
    """
    if not adapters:
        return
    if config.offload is not Offload.NONE:
        raise EngineError(f"offload={config.offload} does not go with adapters: choose none")
    if config.cross_attention is not CrossAttentionMode.ABSORBED:
        return
    for adapter in adapters:
        for layer in sorted(adapter.layers):
            if layer.endswith(_ABSORBED):
                raise EngineError(
                    f"adapter {adapter.name} adapts {layer}, which cross_attention=absorbed merges "
                    "into queries and results: choose cached or cached-8bit"
                )


def fitted_to_device(
    dims: ModelDimensions, config: EngineConfig, adapters: Sequence[Adapter] = ()
) -> EngineConfig:
    """As `fitted`, for the config's own device and limit."""
    device = torch.device(config.device)
    available = usable_bytes(device, config.memory_bytes)
    return fitted(dims, config, Arithmetic.of(device), available, adapters)


def check_rank(
    dims: ModelDimensions,
    config: EngineConfig,
    stages: tuple[Stage, ...],
    index: int,
    tensor_parallel: int,
    adapters: Sequence[Adapter] = (),
) -> None:
    """
    Raises:
        EngineError: a rank's part does not fit its device, by the config's limit or by what is free
            now. Memory that other ranks on the same device have yet to take is not considered.
    """
    device = torch.device(config.device)
    arithmetic, available = Arithmetic.of(device), usable_bytes(device, config.memory_bytes)
    use = rank_memory(dims, config, arithmetic, stages, index, tensor_parallel, adapters=adapters)
    if use.total > available:
        raise EngineError(
            f"a rank of stage {index} ({stages[index]}) needs {breakdown(use)}, of "
            f"{gigabytes(available)} that may be used: split the model over more devices, or "
            f"choose fewer slots than {config.max_slots} or another precision than "
            f"{config.precision}"
        )


def ways_down(config: EngineConfig) -> Iterator[dict[str, Any]]:
    """Settings that need less and less memory, the least costly first.

    8-bit keys and values are not among them: the encoder's output takes less memory, and no more
    of it is read.
    """
    changes: dict[str, Any] = {}
    if config.encode_limit > 1 and config.encode_batch is not None:
        changes["encode_batch"] = 1
        yield dict(changes)
    if config.cross_attention is not CrossAttentionMode.ABSORBED:
        changes["cross_attention"] = CrossAttentionMode.ABSORBED
        yield dict(changes)
    if not config.int8_self_attention:
        changes["int8_self_attention"] = True
        yield dict(changes)
    if config.offload is Offload.NONE and not config.on_cpu:
        changes["offload"] = Offload.ENCODER
        yield dict(changes)
    if config.max_length is None or config.max_length > _SHORTER:
        changes["max_length"] = _SHORTER
        yield dict(changes)
    for precision in _smaller(config.precision):
        changes["precision"] = precision
        yield dict(changes)
    if config.offload is not Offload.ALL and not config.on_cpu:
        changes["offload"] = Offload.ALL
        yield dict(changes)


def breakdown(use: MemoryUse) -> str:
    """Total and kinds, such as `5.1 GB (weights 3.09, cross-attention 1.97, ...)`."""
    amounts = dict(use.kinds())
    parts = [
        f"{name} {sum(amounts[field] for field in fields) / 1e9:.2f}"
        for name, fields in _KINDS.items()
        if any(amounts[field] for field in fields)
    ]
    return f"{gigabytes(use.total)} ({', '.join(parts)})"


def _describe(config: EngineConfig, arithmetic: Arithmetic) -> str:
    slots = f"{config.max_slots} slot{'s' * (config.max_slots > 1)}"
    mode = f", cross-attention {config.cross_attention}" if config.cross_attention else ""
    return f"the model at {config.precision} with {slots}{mode} on {arithmetic.name}"


def gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.0f} GB" if n_bytes > 1e12 else f"{n_bytes / 1e9:.3g} GB"


def _halved(n: int) -> list[int]:
    return [n >> shift for shift in range(n.bit_length())]


def _smaller(precision: Precision) -> list[Precision]:
    """Precisions with smaller weights that every device supports, the most exact first."""
    if precision is Precision.FLOAT32:
        return [Precision.FLOAT16, Precision.INT8_WEIGHT_ONLY, Precision.INT4_G64]
    if precision in (Precision.INT8_WEIGHT_ONLY, Precision.FP8):
        return [Precision.INT4_G64]
    return [] if "int4" in precision else [Precision.INT8_WEIGHT_ONLY, Precision.INT4_G64]


def _advice(
    dims: ModelDimensions,
    config: EngineConfig,
    arithmetic: Arithmetic,
    available: float,
    adapters: Sequence[Adapter],
) -> str:
    whole = (Stage.whole(dims),)

    def fits(tried: EngineConfig) -> bool:
        use = rank_memory(dims, tried, arithmetic, whole, 0, adapters=adapters)
        return use.total <= available

    found: list[dict[str, Any]] = []
    if fewer := _most_slots(config, fits):
        found.append({"max_slots": fewer})
    smallest: dict[str, Any] = {}
    for changes in ways_down(config):
        if not _serves(replace(config, **changes), adapters):
            continue
        smallest = changes
        if fits(replace(config, **changes)):
            found.append(changes)
            break
    if not found and (fewer := _most_slots(replace(config, **smallest), fits)):
        found.append({"max_slots": fewer, **smallest})
    if not found:
        return "no setting makes it fit: split it over several devices"
    texts = [
        ", ".join(f"{_NAMES.get(name, name)}={value}" for name, value in changes.items())
        for changes in found
    ]
    return f"it fits with {' or with '.join(texts)}"


def _serves(config: EngineConfig, adapters: Sequence[Adapter]) -> bool:
    """Whether adapters can be added to a model that runs like this."""
    try:
        check_adapters(config, adapters)
    except EngineError:
        return False
    return True


def _most_slots(config: EngineConfig, fits: Callable[[EngineConfig], bool]) -> int:
    """The largest number of slots that fits; 0 if none does."""
    low, high = 0, config.max_slots
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(replace(config, max_slots=middle)) else (low, middle)
    return low
