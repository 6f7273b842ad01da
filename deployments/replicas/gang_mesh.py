"""Computes how a tier's model is split, and whether the parts fit the devices. Does not use Ray."""

from collections.abc import Sequence
from dataclasses import replace

from deployments.planning.accelerators import (
    CPU,
    RUNTIME_BYTES,
    device_model,
    shared_arithmetic,
    shared_default_precision,
)
from deployments.planning.gpu_catalogue import gpu_catalogue
from deployments.tier import Sharding, TierSpec
from engine import EngineConfig, ModelDimensions
from engine.errors import EngineError
from engine.fit import breakdown, check_adapters, fitted, gigabytes, rank_memory
from engine.parallel.balance import balance
from engine.parallel.cost import Workload
from engine.parallel.distributed import Mesh
from engine.parallel.stages import cut_stages
from engine.weights.adapters import Adapter


def gang_config(spec: TierSpec, sharding: Sharding) -> EngineConfig:
    """The configuration of all ranks, with number formats that each of their devices has."""
    return replace(
        spec.engine_config(shared_default_precision(sharding.accelerators)),
        half=shared_arithmetic(sharding.accelerators).half,
    )


def make_mesh(dims: ModelDimensions, sharding: Sharding, config: EngineConfig) -> Mesh:
    """The mesh of a tier's gang: its stages and tensor-parallel ranks.

    Raises:
        ShardingError: the model cannot be split in this way.
    """
    if sharding.stage_layers:
        return Mesh(cut_stages(dims, sharding.stage_layers), sharding.tensor_parallel)
    stages = balance(
        dims,
        [device_model(name) for name in sharding.accelerators],
        sharding.tensor_parallel,
        config.formats_on(shared_arithmetic(sharding.accelerators)),
        Workload(config.max_slots),
        config.positions(dims),
        config.encode_limit,
        config.offload,
    )
    return Mesh(stages, sharding.tensor_parallel)


def check_fits(
    dims: ModelDimensions,
    spec: TierSpec,
    accelerators: Sequence[str],
    adapters: Sequence[Adapter] = (),
) -> None:
    """Check that GPUs of these classes, one class per stage, can hold a replica. Classes that are
    not in the catalogue, and CPUs, are not checked, because their memory is unknown here.

    Raises:
        ShardingError: the model cannot be split in this way.
        EngineError: a part needs more memory than its GPU has, or adapters cannot be added.
    """
    if spec.sharding is not None:
        _check_gang(dims, spec, spec.sharding, adapters)
        return
    gpu = None if accelerators[0] == CPU else gpu_catalogue().find(accelerators[0])
    if gpu is not None:
        config = spec.engine_config(shared_default_precision(accelerators))
        available = gpu.memory_bytes - RUNTIME_BYTES
        fitted(dims, config, shared_arithmetic(accelerators), available, adapters)


def _check_gang(
    dims: ModelDimensions, spec: TierSpec, sharding: Sharding, adapters: Sequence[Adapter]
) -> None:
    config = gang_config(spec, sharding)
    check_adapters(config, adapters)
    mesh = make_mesh(dims, sharding, config)
    arithmetic = shared_arithmetic(sharding.accelerators)
    for index, name in enumerate(sharding.accelerators):
        gpu = None if name == CPU else gpu_catalogue().find(name)
        if gpu is None:
            continue
        use = rank_memory(
            dims,
            config,
            arithmetic,
            mesh.stages,
            index,
            mesh.tensor_parallel,
            RUNTIME_BYTES,
            adapters,
        )
        if use.total > gpu.memory_bytes:
            raise EngineError(
                f"a rank of stage {index + 1} ({mesh.stages[index]}) needs {breakdown(use)}, a "
                f"{gpu.name} has {gigabytes(gpu.memory_bytes)}: split the model over more GPUs, "
                f"or choose a smaller batch_size than {config.max_slots} or another precision "
                f"than {config.precision}"
            )
