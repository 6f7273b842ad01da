"""Which GPUs a model fits, how, and what it would cost there: arithmetic, before money is spent.

Memory is `engine.memory`'s, times are rooflines of `engine.parallel.cost` at the peaks of
`gpu_catalogue`: what the hardware allows at most, with nothing lost between ranks or on the host.
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
"""Of the most windows a second: a batch that reaches it is large enough, and answers sooner."""
REACHED = 0.5
"""Of the roof: about what TensorRT-LLM reached with large-v3 in MLPerf Inference 5.1, 67.9
samples/s on an H200 (mlcommons/inference_results_v5.1), where this roofline allows some 140. Prices
of an hour of audio are at this rate."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned.

    Attributes:
        config: what else is asked for; its device, precision and slots are not looked at.
        batch: chunks decoded at once; None: the best.
        precision: None: the default of the GPU.
        tokens_per_window: sampled, on average; 75 to 100 in English speech.
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
        memory: of each stage's ranks, their runtime included.
        rtfx: seconds of audio a second, of the replica, at most: the roofline.
        instance, spot_instance: the cheapest machine with such a GPU.
        changes: settings that differ from what was asked for, because that does not fit.
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
        """Of the fullest GPU."""
        return max(use.total for use in self.memory)

    def usd_per_audio_hour(self, spot: bool) -> float | None:
        """At `REACHED` of the roof and always busy; None without a price."""
        instance = self.spot_instance if spot else self.instance
        price = instance and instance.usd_per_gpu_hour(spot)
        return price * self.n_gpus / (self.rtfx * REACHED) if price else None


def plan(question: Question, gpu: Gpu) -> Plan:
    """The model on GPUs of a class, at the best batch that fits, or at the one that is asked for.

    Raises:
        EngineError: it does not fit; the message says what would.
        PrecisionError: the GPU lacks the precision.
        ShardingError: the model cannot be split so.
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
    """As `plan`; where the model does not fit as it is, with the least costly settings with which
    it does.

    Raises:
        EngineError: it does not fit with any.
        PrecisionError, ShardingError: as `plan`.
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
    """Whether to add GPUs as replicas, as tensor or as pipeline ranks."""
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
    """The stages, and the time and memory of a rank of each."""
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
    """Those of the catalogue that a cloud's price is known of, the smallest first."""
    catalogue = gpu_catalogue()
    priced = {instance.gpu for instance in catalogue.instances}
    found = [gpu for name, gpu in catalogue.gpus.items() if name in priced]
    yield from sorted(found, key=lambda gpu: (gpu.memory_bytes, gpu.bytes_per_s))
