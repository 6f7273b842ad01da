"""Looks at what a tier would run, on the machine where this is called, without starting it.

A replica that cannot start takes the place of one that serves. So what can be known is looked at
before: the model's folder, configuration, tokenizer and weights, and the memory that it needs.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from deployments.planning.accelerators import CPU
from deployments.replicas.gang_mesh import check_fits, gang_config, make_mesh
from deployments.tier import TierSpec
from engine import ModelDimensions, default_precision, open_checkpoint
from engine.devices import free_bytes, total_bytes
from engine.errors import EngineError
from engine.fit import fitted, rank_memory
from engine.parallel.stages import Stage
from engine.precision import Arithmetic
from engine.weights.adapters import Adapter


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        fault: why a replica could not start, in one line; empty: nothing is known against it.
        needed_bytes: what a replica takes of this machine's memory; 0 for models on GPUs, and for
            gangs, whose ranks may be elsewhere.
        free_bytes: what this machine has left.
        machine: its name.
    """

    fault: str
    needed_bytes: float
    free_bytes: float
    machine: str


def inspect_tier(spec: TierSpec, accelerators: Sequence[str]) -> Inspection:
    """Look at a tier's model. Downloads it if need be, but reads no weights but their headers, and
    those of adapters.

    Args:
        accelerators: class of the devices of each pipeline stage.
    """
    fault, needed = "", 0.0
    try:
        checkpoint = open_checkpoint(spec.model, dict(spec.adapters))
        dims, adapters = checkpoint.dims, checkpoint.adapters
        check_fits(dims, spec, accelerators, adapters)
        if spec.sharding is not None:
            make_mesh(dims, spec.sharding, gang_config(spec, spec.sharding))
        elif accelerators[0] == CPU:
            needed = _bytes_on_cpu(dims, spec, adapters)
    except (EngineError, OSError) as error:
        fault = " ".join(str(error).split())
    return Inspection(fault, needed, free_bytes(torch.device("cpu")), socket.gethostname())


def _bytes_on_cpu(dims: ModelDimensions, spec: TierSpec, adapters: Sequence[Adapter]) -> float:
    device = torch.device("cpu")
    config = spec.engine_config(default_precision(device))
    arithmetic = Arithmetic.of(device)
    config = fitted(dims, config, arithmetic, total_bytes(), adapters)
    whole = (Stage.whole(dims),)
    return float(rank_memory(dims, config, arithmetic, whole, 0, adapters=adapters).total)
