"""The application on GPUs that are but labels: placed like real ones, computing on the CPU."""

import os
from dataclasses import replace
from typing import Any

from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.replicas.replica import Replica
from deployments.tier import spec_of
from engine import Precision
from serve.app import build_with


class CpuReplica(Replica):
    def __init__(self, board: DeploymentHandle[Any]) -> None:
        spec = replace(spec_of(os.environ), device="cpu", precision=Precision.FLOAT32)
        super().__init__(board, spec)


def build(args: dict[str, Any]) -> Application:
    return build_with(args, CpuReplica)
