"""`murmur status` as a table: tiers, their queues and prices, and the reasons for their sizes."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from serve.commands.tables import columns

_HEAD = ("tier", "on", "status", "replicas", "slots", "queued", "wait", "RTFx", "$/h", "$/audio h")
_NUMBERS = range(3, len(_HEAD))
_N_DECISIONS = 5
_NAN = "-"


def status_table(
    address: str, application: Mapping[str, Any], cluster: Mapping[str, Any] | None
) -> RenderableType:
    """The table, with the application's state above it and notes below it.

    Args:
        application: status of the application and its deployments.
        cluster: the answer of `GET /v1/cluster`; None if the board does not answer.
    """
    lines = [f"murmur at {address}: {application['status']}"]
    deployments = application["deployments"]
    if application["message"]:
        lines.append(application["message"])
    lines += [f"{name}: {d['message']}" for name, d in deployments.items() if d["message"]]
    if cluster is None:
        lines += [f"{name}: {d['status'].lower()}" for name, d in deployments.items()]
        return Text("\n".join(lines))
    table = columns(_HEAD, [_row(tier, deployments) for tier in cluster["tiers"]], _NUMBERS)
    return Group(Text("\n".join(lines)), "", table, "", Text("\n".join(_notes(cluster))))


def _notes(cluster: Mapping[str, Any]) -> list[str]:
    tiers = cluster["tiers"]
    lines = [f"{tier['name']}: {tier['reason']}" for tier in tiers if tier["reason"]]
    lines += [
        f"{tier['name']} also serves {', '.join(tier['adapters'])}"
        for tier in tiers
        if tier["adapters"]
    ]
    lines.append(f"{cluster['usd_per_hour']:.4g} $/h in all; ~ planned, not measured yet")
    lines += [_canary(canary) for canary in cluster["canaries"]]
    if cluster["autoscaler_faults"]:
        lines.append(f"the autoscaler failed {cluster['autoscaler_faults']} times: see the log")
    if cluster["decisions"]:
        lines += ["", *(_decision(d) for d in cluster["decisions"][:_N_DECISIONS])]
    return lines


def _canary(canary: Mapping[str, Any]) -> str:
    kind = "shadow" if canary["shadow"] else "canary"
    met = f"{canary['share']:.3g} of requests, {canary['n_requests']} so far"
    line = f"{kind} {canary['to']} for {canary['of']}: {met}"
    if not canary["shadow"]:
        return line
    words = canary["n_words"]
    differ = f"{canary['n_changed'] / words:.1%} of {words:,} words differ" if words else "no words"
    chunks = [f"{canary['n_chunks']} chunks"]
    chunks += [f"{canary[f'n_{x}']} {x}" for x in ("failed", "skipped") if canary[f"n_{x}"]]
    return f"{line}; {differ} ({', '.join(chunks)})"


def _row(tier: Mapping[str, Any], deployments: Mapping[str, Any]) -> tuple[str, ...]:
    deployment = deployments.get(tier["name"].replace(".", "_"), {})
    target = tier["target_replicas"]
    wanted = tier["replicas"] if target is None else target
    planned = "" if tier["rtfx_measured"] else "~"
    return (
        tier["name"],
        tier["accelerator"],
        "cannot be had"
        if tier["denied"] and tier["replicas"] < wanted
        else str(deployment.get("status", _NAN)).lower(),
        f"{tier['replicas']}/{wanted} of {tier['min_replicas']}-{tier['max_replicas']}",
        f"{tier['slots_in_use']}/{tier['slots']}",
        f"{tier['queued_audio_s']:.0f} s",
        _NAN if tier["wait_s"] is None else f"{tier['wait_s']:.1f} s",
        f"{planned}{tier['rtfx']:.3g}",
        f"{tier['usd_per_hour']:.4g}",
        f"{planned}{tier['usd_per_audio_hour']:.3g}",
    )


def _decision(change: Mapping[str, Any]) -> str:
    return (
        f"{change['at']} {change['tier']}: {change['before']} -> {change['replicas']} replicas: "
        f"{change['reason']}"
    )
