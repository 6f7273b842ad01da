"""A replica's engine on several devices: one actor per rank, in the replica's placement group.

The replica is the leader: it runs the scheduler, and the ranks compute in their bundles. They live
and die together. When a rank dies or hangs, the replica's process ends. The replica owns the other
ranks, so these end too. Serve removes the placement group and starts another replica.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.planning.accelerators import CPU
from deployments.replicas.gang_mesh import gang_config, make_mesh
from deployments.tier import Sharding, TierSpec
from engine import DecodingOptions, Engine, Request, open_checkpoint
from engine.config import SAMPLE_RATE
from engine.errors import GangError
from engine.gang.connection import Listener
from engine.gang.gang import Gang
from engine.gang.lines import GangLimits
from engine.gang.setup import assemble_gang, check_mesh, run_rank

logger = logging.getLogger("ray.serve")

_PINGS = 10
"""Pings that a rank may leave unanswered before it counts as hung."""


class Shard:
    """A rank, in its own process."""

    def run(self, address: tuple[str, int], key: bytes, rank: int) -> None:
        """Run the rank until the gang ends."""
        run_rank(address, key, rank)


def load_sharded_engine(spec: TierSpec, sharding: Sharding, group: PlacementGroup | None) -> Engine:
    """Start the ranks of a tier's model and wait until all of them have decoded a chunk.

    Args:
        group: placement group of the replica; None: the ranks run wherever there is room.

    Raises:
        ShardingError: the model cannot be split in this way.
        EngineError: a rank cannot load the model.
        GangError: a rank cannot be started, or died.
    """
    torch.set_num_threads(1)  # the ranks compute, not this process
    opener = partial(open_checkpoint, spec.model, dict(spec.adapters))
    checkpoint = opener()
    config = gang_config(spec, sharding)
    mesh = make_mesh(checkpoint.dims, sharding, config)
    check_mesh(checkpoint, mesh)
    logger.info(
        "%s: %d ranks a stage of %s",
        spec.name,
        mesh.tensor_parallel,
        " | ".join(map(str, mesh.stages)),
    )
    limits = GangLimits(ping_s=sharding.silent_s / _PINGS, silent_s=sharding.silent_s)
    listener = Listener(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    running = [_start(spec, sharding, group, listener, rank) for rank in range(mesh.size)]
    gang = assemble_gang(
        listener,
        checkpoint,
        opener,
        mesh,
        config,
        limits,
        threads=spec.threads,
        check=partial(_check_all_run, [reference for _, reference in running]),
        members=running,  # an actor ends when nothing refers to it any more
    )
    try:
        return _proven(Engine(checkpoint, config, gang), gang)
    except BaseException:
        gang.close()
        raise


def _start(
    spec: TierSpec,
    sharding: Sharding,
    group: PlacementGroup | None,
    listener: Listener,
    rank: int,
) -> tuple[Any, "ray.ObjectRef[None]"]:
    """Start a rank. Returns its actor and a reference to its run, which ends with the gang."""
    options: dict[str, Any] = {
        "num_cpus": spec.threads,
        "num_gpus": 0 if sharding.accelerators[0] == CPU else 1,
        "max_restarts": 0,
    }
    if group is not None:
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=sharding.shard_bundles[rank]
        )
    actor: Any = ray.remote(Shard).options(**options).remote()
    return actor, actor.run.remote(listener.address, listener.key, rank)


def _check_all_run(running: Sequence["ray.ObjectRef[None]"]) -> None:
    ended, _ = ray.wait(list(running), num_returns=1, timeout=0)
    if ended:
        rank = list(running).index(ended[0])
        try:
            ray.get(ended[0])
        except RayError as error:
            raise GangError(f"rank {rank} cannot run: {error}") from error
        raise GangError(f"rank {rank} has ended")


def _proven(engine: Engine, gang: Gang) -> Engine:
    """Decode a test chunk and return the engine, once every rank has done its part."""
    pcm = torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    options = DecodingOptions(language="en", max_new_tokens=2)
    engine.add_request(Request("proof", (pcm * 1000).short().numpy(), options))
    while engine.has_unfinished:
        engine.step()
    gang.report()
    return engine
