"""Computes which GPUs a model fits, with which settings, and what it would cost there.

Memory comes from `engine.memory`. Times are rooflines from `engine.parallel.cost` at the peaks in
`gpu_catalogue`: the best that the hardware allows, without losses between ranks or on the host.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deployments.planning.accelerators import RUNTIME_BYTES, device_model, shared_arithmetic
from deployments.planning.gpu_catalogue import Gpu, Instance, gpu_catalogue
from engine.config import CHUNK_LENGTH_S, EngineConfig, ModelDimensions
from engine.errors import EngineError, NoRoomError, PrecisionError, ShardingError
from engine.fit import fitted, rank_memory, ways_down
from engine.memory import MemoryUse
from engine.parallel.balance import balance
from engine.parallel.cost import StageCost, Workload, stage_costs
from engine.parallel.stages import Stage, check_tensor_parallel
from engine.precision import Precision

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
ENOUGH = 0.95
"""Share of the highest speed over all batches. The smallest batch that reaches it is chosen,
because it answers sooner."""
REACHED = 0.5
"""Share of the roofline that is assumed for the price of an hour of audio. TensorRT-LLM reached
about this share with large-v3 in MLPerf Inference 5.1: 67.9 samples/s on an H200
(mlcommons/inference_results_v5.1), where this roofline allows about 140."""


@dataclass(frozen=True, slots=True)
class Question:
    """What to plan.

    Attributes:
        config: all other settings. Its device, precision and slots are ignored.
        precision: None: the GPU's default.
        batch: chunks decoded at once; None: the best number.
        tokens_per_window: mean number of sampled tokens per window; 75 to 100 in English speech.
    """

    dims: ModelDimensions
    config: EngineConfig
    precision: Precision | None = None
    batch: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    tokens_per_window: float = 100.0

    @property
    def n_gpus(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True, slots=True)
class Plan:
    """A model on GPUs of one class, and what it does there.

    Attributes:
        memory: memory of a rank of each stage, including the runtime.
        rtfx: the roofline of a replica's speed, in seconds of audio per second.
        instance, spot_instance: the cheapest machine with such a GPU, on demand and spot.
        changes: settings that were changed because the requested ones do not fit.
    """

    gpu: Gpu
    config: EngineConfig
    tensor_parallel: int
    stages: tuple[Stage, ...]
    memory: tuple[MemoryUse, ...]
    rtfx: float
    instance: Instance | None
    spot_instance: Instance | None
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def n_gpus(self) -> int:
        return self.tensor_parallel * len(self.stages)

    @property
    def needed_bytes(self) -> int:
        """Memory needed on the fullest GPU."""
        return max(use.total for use in self.memory)

    def usd_per_audio_hour(self, spot: bool) -> float | None:
        """Price of an hour of audio if the replica is always busy and reaches `REACHED` of the
        roofline; None if no price is known."""
        instance = self.spot_instance if spot else self.instance
        price = instance and instance.usd_per_gpu_hour(spot)
        return price * self.n_gpus / (self.rtfx * REACHED) if price else None


def plan(question: Question, gpu: Gpu) -> Plan:
    """Plan the model on GPUs of a class, with the requested batch or the best one that fits.

    Raises:
        EngineError: the model does not fit. The message says what would fit.
        PrecisionError: the GPU lacks the precision.
        ShardingError: the model cannot be split in this way.
    """
    check_tensor_parallel(question.dims, question.tensor_parallel)
    if question.batch is not None:
        return _planned(question, gpu, question.batch)
    found, reason = [], None
    for batch in BATCHES:
        try:
            found.append(_planned(question, gpu, batch))
        except EngineError as error:
            reason = error
            break
    if not found:
        assert reason is not None
        raise reason
    most = max(p.rtfx for p in found)
    return next(p for p in found if p.rtfx >= ENOUGH * most)


def cheapest_way(question: Question, gpu: Gpu) -> Plan:
    """Like `plan`, but if the model does not fit, use the least costly settings with which it fits.

    Raises:
        EngineError: the model fits with no settings.
        PrecisionError, ShardingError: as in `plan`.
    """
    try:
        return plan(question, gpu)
    except EngineError as error:
        if isinstance(error, PrecisionError | ShardingError) and not isinstance(error, NoRoomError):
            raise
        reason = error
    precision = question.precision or shared_arithmetic([gpu.name]).default
    config = replace(question.config, device="cuda", precision=precision)
    for changes in ways_down(config):
        tried = replace(config, **changes)
        try:
            found = plan(replace(question, config=tried, precision=tried.precision), gpu)
        except EngineError:
            continue
        texts = tuple((name, str(value)) for name, value in changes.items())
        return replace(found, changes=texts)
    raise reason


def advice(question: Question, gpu: Gpu) -> str:
    """Advice: add GPUs as replicas, as tensor-parallel ranks or as pipeline-parallel ranks."""
    try:
        plan(replace(question, tensor_parallel=1, pipeline_parallel=1, batch=1), gpu)
    except EngineError:
        return _advice_to_split(question, gpu)
    return (
        "fits one GPU: add GPUs as replicas (max_replicas), each as fast as the first; "
        "tensor_parallel only where a chunk's own latency counts"
    )


def _advice_to_split(question: Question, gpu: Gpu) -> str:
    for n_gpus in (2, 4, 8):
        for tp, pp in ((n_gpus, 1), (1, n_gpus)):
            split = replace(question, tensor_parallel=tp, pipeline_parallel=pp, batch=1)
            try:
                plan(split, gpu)
            except EngineError:
                continue
            name = "tensor_parallel" if tp > 1 else "pipeline_parallel"
            return f"does not fit one GPU at this precision: {name}={n_gpus} does" + (
                ", or pipeline_parallel where the GPUs have no fast link" if tp > 1 else ""
            )
    return "does not fit: choose a smaller precision or model, or a larger GPU"


def _planned(question: Question, gpu: Gpu, batch: int) -> Plan:
    arithmetic = shared_arithmetic([gpu.name])
    precision = question.precision or arithmetic.default
    config = replace(
        question.config, device="cuda", precision=precision, max_slots=batch, encode_batch=None
    )
    available = gpu.memory_bytes - RUNTIME_BYTES
    if question.n_gpus == 1:
        config = fitted(question.dims, config, arithmetic, available)
    stages, costs = _costs(question, gpu, config)
    memory = tuple(
        rank_memory(
            question.dims, config, arithmetic, stages, index, question.tensor_parallel,
            RUNTIME_BYTES,
        )
        for index in range(len(stages))
    )  # fmt: skip
    _refuse_too_large(memory, gpu, stages)
    window_s = max(cost.window_s for cost in costs)
    catalogue = gpu_catalogue()
    return Plan(
        gpu=gpu,
        config=config,
        tensor_parallel=question.tensor_parallel,
        stages=stages,
        memory=memory,
        rtfx=CHUNK_LENGTH_S / window_s,
        instance=catalogue.cheapest(gpu.name, spot=False),
        spot_instance=catalogue.cheapest(gpu.name, spot=True),
    )


def _costs(
    question: Question, gpu: Gpu, config: EngineConfig
) -> tuple[tuple[Stage, ...], Sequence[StageCost]]:
    """The stages, and the time and memory of a rank in each of them."""
    dims, device = question.dims, device_model(gpu.name, config.precision)
    formats = config.formats_on(shared_arithmetic([gpu.name]))
    rest = (
        question.tensor_parallel,
        formats,
        Workload(config.max_slots, question.tokens_per_window),
        config.positions(dims),
        config.encode_limit,
        config.offload,
    )
    devices = [device] * question.pipeline_parallel
    stages = balance(dims, devices, *rest)
    return stages, stage_costs(dims, stages, devices, *rest)


def _refuse_too_large(memory: Sequence[MemoryUse], gpu: Gpu, stages: Sequence[Stage]) -> None:
    for use, stage in zip(memory, stages, strict=True):
        if use.total > gpu.memory_bytes:
            raise EngineError(
                f"a rank of {stage} needs {use.total / 1e9:.3g} GB, "
                f"a {gpu.name} has {gpu.memory_bytes / 1e9:.3g}"
            )


def gpus() -> Iterator[Gpu]:
    """The GPUs of the catalogue for which a cloud price is known, the smallest first."""
    catalogue = gpu_catalogue()
    priced = {instance.gpu for instance in catalogue.instances}
    found = [gpu for name, gpu in catalogue.gpus.items() if name in priced]
    yield from sorted(found, key=lambda gpu: (gpu.memory_bytes, gpu.bytes_per_s))
