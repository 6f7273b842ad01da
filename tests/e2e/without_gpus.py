"""The application on GPUs that are but labels: placed like real ones, computing on the CPU."""

from dataclasses import replace
from typing import Any

from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.replicas.replica import Replica
from deployments.tier import TierSpec
from engine import Precision
from serve.app import assemble
from serve.settings.loading import load_settings


class CpuReplica(Replica):
    def __init__(self, spec: TierSpec, board: DeploymentHandle[Any]) -> None:
        super().__init__(replace(spec, device="cpu", precision=Precision.FLOAT32), board)


def build(args: dict[str, Any]) -> Application:
    return assemble(load_settings(values=args), CpuReplica)
