"""Where the parts of a replica are placed, and what a cluster lacks for them.

A replica on several devices is a gang. Its placement group has bundles for its shards; the first
bundle also holds the actor that leads them. If a placement group fits nowhere, Ray waits for ever
without a message. Therefore `shortage` says in advance what is missing. It considers the total
resources of the given nodes, not what is free at the moment, and only CPUs and GPUs. It does not
query the cluster.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from deployments.planning.accelerators import CPU

ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Node label: the class of the node's GPUs. Ray detects it."""
MARKET_LABEL = "ray.io/market-type"
"""Node label: `spot` or `on-demand`. Ray sets it where it can tell; a node without the label counts
as on demand."""
SPOT, NOT_SPOT = "spot", "!spot"
_TOLERANCE = 1e-6  # for sums of fractions; Ray counts in units of 1e-4
_N_LISTED = 4


@dataclass(frozen=True, slots=True)
class GangPlacement:
    """The placement group of a replica.

    Attributes:
        bundles: resources of each bundle. Ray never splits a bundle over nodes.
        labels: for each bundle, the labels that its node must have.
        shard_bundles: index of each rank's bundle; rank = stage * tensor_parallel + rank in stage.
        strategy: Ray's placement strategy. `PACK` puts bundles on as few nodes as possible.
    """

    bundles: tuple[dict[str, float], ...]
    labels: tuple[dict[str, str], ...]
    shard_bundles: tuple[int, ...]
    strategy: str = "PACK"


@dataclass(frozen=True, slots=True)
class NodeResources:
    """A node's resources, all or those that are free, and its labels."""

    name: str
    resources: dict[str, float]
    labels: dict[str, str]
    node_id: str = ""


Tier = tuple[str, GangPlacement, int]
"""A tier's name, the placement of its replicas, and the minimum number of replicas: 0 for a tier
that may scale to zero."""


def gang_placement(
    tensor_parallel: int,
    accelerators: Sequence[str],
    cpus: int,
    leader_cpus: float,
    allow_cross_node_tp: bool,
    spot: bool | None = None,
) -> GangPlacement:
    """The placement of a replica: one bundle per stage, or per shard if a stage may span nodes.

    Args:
        tensor_parallel: number of shards of each stage.
        accelerators: device class of each stage: `cpu`, or Ray's name of a GPU.
        cpus: cores of each shard.
        leader_cpus: cores of the actor that leads the shards; 0 if that actor is the only shard.
        allow_cross_node_tp: whether the shards of a stage may be on different nodes.
        spot: True: only spot machines; False: only on-demand machines; None: any machine.

    Raises:
        ValueError: there is no stage, or a stage has no shard.
    """
    if tensor_parallel < 1 or not accelerators:
        raise ValueError("a replica has at least one stage, and a stage at least one shard")
    width = 1 if allow_cross_node_tp else tensor_parallel
    classes = [name for name in accelerators for _ in range(tensor_parallel // width)]
    bundles = [_bundle(name, width, cpus) for name in classes]
    bundles[0]["CPU"] += leader_cpus
    return GangPlacement(
        bundles=tuple(bundles),
        labels=tuple(_labels(name, spot) for name in classes),
        shard_bundles=tuple(rank // width for rank in range(tensor_parallel * len(accelerators))),
    )


def _labels(accelerator: str, spot: bool | None) -> dict[str, str]:
    labels = {} if accelerator == CPU else {ACCELERATOR_LABEL: accelerator}
    return labels if spot is None else {**labels, MARKET_LABEL: SPOT if spot else NOT_SPOT}


def _bundle(accelerator: str, n_shards: int, cpus: int) -> dict[str, float]:
    gpus = {} if accelerator == CPU else {"GPU": float(n_shards)}
    return {"CPU": float(cpus * n_shards), **gpus}


def shortage(tiers: Sequence[Tier], nodes: Sequence[NodeResources]) -> list[str]:
    """What prevents replicas from being placed, one line per fault; empty if all can be placed.

    To test whether all replicas fit together, the largest bundles are placed first, each on the
    node with the least room that is enough. In an almost full cluster this may miss the only
    solution, and so may Ray.
    """
    lines: list[str] = []
    possible: list[Tier] = []
    for tier in tiers:
        faults = _misfits(tier, nodes)
        lines += faults
        if not faults:
            possible.append(tier)
    parts = [part for tier in possible for part in _parts(tier)]
    return lines + (_missing(possible, nodes) or _without_room(parts, nodes))


@dataclass(frozen=True, slots=True)
class _Part:
    """A bundle of one of a tier's replicas."""

    tier: str
    replica: int
    words: str
    bundle: dict[str, float]
    labels: dict[str, str]
    n_shards: int

    @property
    def kind(self) -> tuple[str | None, float]:  # all of a tier's bundles have the same market
        return self.labels.get(ACCELERATOR_LABEL), _gpus(self.bundle)

    def amount(self, resource: str) -> str:
        return _count(self.bundle[resource], _kind_of(resource, self.labels))

    def suits(self, node: NodeResources) -> bool:
        return suits(self.labels, node.labels)

    def fits(self, free: Mapping[str, float]) -> bool:
        return all(free.get(name, 0) >= n - _TOLERANCE for name, n in self.bundle.items())


def suits(labels: Mapping[str, str], node_labels: Mapping[str, str]) -> bool:
    """Whether a node's labels match by Ray's rules: `!spot` also matches a missing label."""
    return all(
        node_labels.get(name) != value[1:]
        if value.startswith("!")
        else node_labels.get(name) == value
        for name, value in labels.items()
    )


def _parts(tier: Tier) -> list[_Part]:
    name, placement, replicas = tier
    n_bundles, shards = len(placement.bundles), Counter(placement.shard_bundles)
    kind = "shard" if n_bundles == len(placement.shard_bundles) else "stage"
    bundles = list(zip(placement.bundles, placement.labels, strict=True))
    return [
        _Part(
            tier=name,
            replica=replica,
            words="a replica" if n_bundles == 1 else f"{kind} {i + 1} of {n_bundles}",
            bundle=bundle,
            labels=labels,
            n_shards=shards[i],
        )
        for replica in range(replicas)
        for i, (bundle, labels) in enumerate(bundles)
    ]


def _misfits(tier: Tier, nodes: Sequence[NodeResources]) -> list[str]:
    """Faults of bundles that no node could hold even if it were empty; one fault per kind."""
    kinds: dict[tuple[str | None, float], _Part] = {}
    name, placement, replicas = tier
    for part in _parts((name, placement, max(replicas, 1))):  # even if none runs now
        kinds.setdefault(part.kind, part)  # the first is the largest: it may hold the leader
    faults = (_misfit(part, nodes) for part in kinds.values())
    return [f"tier {tier[0]}: {fault}" for fault in faults if fault is not None]


def _misfit(part: _Part, nodes: Sequence[NodeResources]) -> str | None:
    suited = [node for node in nodes if part.suits(node)]
    wide = [node for node in suited if _gpus(node.resources) >= _gpus(part.bundle)]
    if any(part.fits(node.resources) for node in wide):
        return None
    if not suited:
        resource = "GPU" if "GPU" in part.bundle else "CPU"
        where = _other_labels(part.labels)
        return (
            f"{part.words} needs {part.amount(resource)}{where}, but no node has any{_known(nodes)}"
        )
    if not wide:
        remedy = ": lower tensor_parallel or set allow_cross_node_tp" if part.n_shards > 1 else ""
        return f"{_too_narrow(part, 'GPU', suited)}{remedy}"
    remedy = " or tensor_parallel, or set allow_cross_node_tp" if part.n_shards > 1 else ""
    return f"{_too_narrow(part, 'CPU', wide)}: lower cpus{remedy}"


def _other_labels(labels: Mapping[str, str]) -> str:
    others = [
        f"{name}: {value}"
        for name, value in labels.items()
        if name not in (ACCELERATOR_LABEL, MARKET_LABEL)
    ]
    return f" on a node labelled {', '.join(others)}" if others else ""


def _too_narrow(part: _Part, resource: str, nodes: Sequence[NodeResources]) -> str:
    widest = max(nodes, key=lambda node: node.resources.get(resource, 0))
    beside = f" beside {part.amount('GPU')}" if resource == "CPU" and "GPU" in part.bundle else ""
    return (
        f"{part.words} needs {part.amount(resource)} on one node{beside}; the widest node "
        f"({widest.name}) has {widest.resources.get(resource, 0):g}"
    )


def _known(nodes: Iterable[NodeResources]) -> str:
    classes = {node.labels.get(ACCELERATOR_LABEL) for node in nodes} - {None}
    return f"; there are {', '.join(sorted(map(str, classes)))}" if classes else ""


def _missing(tiers: Sequence[Tier], nodes: Sequence[NodeResources]) -> list[str]:
    """Resources of which the whole cluster has too little."""
    labels = (labels for _, placement, _ in tiers for labels in placement.labels)
    classes = dict.fromkeys(each[ACCELERATOR_LABEL] for each in labels if ACCELERATOR_LABEL in each)
    gpus = [_too_few("GPU", {ACCELERATOR_LABEL: name}, tiers, nodes) for name in classes]
    return [line for line in [*gpus, _too_few("CPU", {}, tiers, nodes)] if line is not None]


def _too_few(
    resource: str, labels: dict[str, str], tiers: Sequence[Tier], nodes: Sequence[NodeResources]
) -> str | None:
    needs = {name: (n, _per_replica(placement, resource, labels)) for name, placement, n in tiers}
    needs = {name: (n, each) for name, (n, each) in needs.items() if n * each > 0}
    has: dict[str, float] = {}
    for node in nodes:
        if suits(labels, node.labels):
            has[node.name] = has.get(node.name, 0) + node.resources.get(resource, 0)
    needed, total = sum(n * each for n, each in needs.values()), sum(has.values())
    if needed <= total + _TOLERANCE:
        return None
    terms = [f"{_count(n, 'replica')} of {each:g}" for n, each in needs.values()]
    return (
        f"{'tier' if len(needs) == 1 else 'tiers'} {', '.join(needs)}: "
        f"{_count(needed, _kind_of(resource, labels))} {_are(needed)} needed for "
        f"{' and '.join(terms)}, the cluster has {total:g} ({_listed(has)}): "
        f"{needed - total:g} {_are(needed - total)} missing"
    )


def _per_replica(placement: GangPlacement, resource: str, labels: dict[str, str]) -> float:
    pairs = zip(placement.bundles, placement.labels, strict=True)
    return sum(bundle.get(resource, 0) for bundle, its in pairs if labels.items() <= its.items())


def _without_room(parts: Sequence[_Part], nodes: Sequence[NodeResources]) -> list[str]:
    """Bundles without room, although the cluster has enough in total, but not on the same nodes."""
    free = [dict(node.resources) for node in nodes]
    homeless: dict[str, list[_Part]] = {}
    for part in sorted(parts, key=lambda part: _size(part.bundle), reverse=True):
        room = [
            left
            for node, left in zip(nodes, free, strict=True)
            if part.suits(node) and part.fits(left)
        ]
        if not room:
            homeless.setdefault(part.tier, []).append(part)
            continue
        tightest = min(room, key=_size)
        for name, n in part.bundle.items():
            tightest[name] = tightest.get(name, 0) - n
    left_over = [replace(node, resources=left) for node, left in zip(nodes, free, strict=True)]
    n_replicas = {part.tier: part.replica + 1 for part in parts}
    return [_no_room(found, n_replicas[tier], left_over) for tier, found in homeless.items()]


def _no_room(parts: Sequence[_Part], n_replicas: int, nodes: Sequence[NodeResources]) -> str:
    part = parts[0]
    n = len({part.replica for part in parts})
    resources = sorted(part.bundle, reverse=True)
    suited = sorted((node for node in nodes if part.suits(node)), key=_free, reverse=True)
    left = dict.fromkeys(
        f"{' and '.join(_count(node.resources.get(name, 0), name) for name in resources)} "
        f"on {node.name}"
        for node in suited
    )
    return (
        f"tier {part.tier}: {n} of {_count(n_replicas, 'replica')} {'has' if n == 1 else 'have'} "
        f"no room beside the others: {part.words} needs "
        f"{' and '.join(part.amount(name) for name in resources)} on one node; left are "
        f"{_shortened(list(left))}"
    )


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return _gpus(resources), resources.get("CPU", 0)


def _free(node: NodeResources) -> tuple[float, float]:
    return _size(node.resources)


def _gpus(resources: Mapping[str, float]) -> float:
    return resources.get("GPU", 0)


def _kind_of(resource: str, labels: Mapping[str, str]) -> str:
    market = {SPOT: "spot ", NOT_SPOT: "on-demand "}.get(labels.get(MARKET_LABEL, ""), "")
    return market + (f"{labels[ACCELERATOR_LABEL]} GPU" if resource == "GPU" else resource)


def _count(n: float, noun: str) -> str:
    return f"{n:g} {noun}{'' if n == 1 else 's'}"


def _are(n: float) -> str:
    return "is" if n == 1 else "are"


def _listed(amounts: Mapping[str, float]) -> str:
    largest = sorted(amounts.items(), key=lambda item: item[1], reverse=True)
    return _shortened([f"{n:g} on {name}" for name, n in largest])


def _shortened(items: Sequence[str]) -> str:
    hidden = len(items) - _N_LISTED
    return ", ".join([*items[:_N_LISTED], *([f"{hidden} more"] if hidden > 0 else [])])
