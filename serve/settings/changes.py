"""What a new Serve config changes of the one that is deployed. Does not import Ray.

Both are configs of one application, as `serve.settings.serve_config` makes them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.tier import SPEC_VARIABLE
from serve.settings.deployments import RESTART_OPTIONS

_PACE = "max_surge_percent"
"""How replicas are replaced, which changes nothing of what they do."""
_SECRET = "api_keys_sha256"
_OF_SPEC = {"max_slots": "batch_size", "threads": "cpus", "threads_when_idle": "cpus_when_idle"}
"""What settings are called, where a replica's own word for them is another."""
_UNSET = object()
"""In place of a setting that a config leaves out."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is done to running replicas.

    Attributes:
        whole: why every replica is replaced; empty: only those of `replaced` are.
        replaced: name of a deployment -> what differs, and needs other replicas.
        told: name of a deployment -> what differs, and is told to its running replicas.
    """

    whole: str
    replaced: Mapping[str, tuple[str, ...]]
    told: Mapping[str, tuple[str, ...]]

    def __bool__(self) -> bool:
        return bool(self.whole or self.replaced or self.told)

    def lines(self) -> list[str]:
        """In words, one line for each deployment."""
        if self.whole:
            return [f"every replica is replaced: {self.whole}"]
        lines = [f"{name}: replaced: {', '.join(what)}" for name, what in self.replaced.items()]
        lines += [f"{name}: told: {', '.join(what)}" for name, what in self.told.items()]
        return lines or ["nothing changes"]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Compare two configs of the application."""
    if whole := _whole(before, after):
        return Changes(whole, {}, {})
    old, new = _deployments(before), _deployments(after)
    replaced: dict[str, tuple[str, ...]] = {}
    told: dict[str, tuple[str, ...]] = {}
    for name in new:
        restarts, rest = _parts(old.get(name, {})), _parts(new[name])
        if what := tuple(_differences(restarts[0], rest[0])):
            replaced[name] = what
        elif what := tuple(_differences(restarts[1], rest[1])):
            told[name] = what
    if what := tuple(_differences(_shared(before), _shared(after))):
        told = {name: (*told.get(name, ()), *what) for name in new if name not in replaced}
    return Changes("", replaced, told)


def _whole(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if before.get("args") != after.get("args"):
        names = [
            set((config.get("args") or {}).get("tier_names") or ()) for config in (before, after)
        ]
        gone, come = sorted(names[0] - names[1]), sorted(names[1] - names[0])
        parts = [f"with tier {name}" for name in come] + [f"without tier {name}" for name in gone]
        return ", ".join(parts) or "the order of the tiers"
    for name in ("import_path", "runtime_env", "autoscaling_policy"):
        if before.get(name) != after.get(name):
            return name
    return ""


def _deployments(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {options["name"]: options for options in config.get("deployments") or ()}


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in ("route_prefix", "logging_config")}


def _parts(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that need another replica if they change, and the others."""
    restarts = {name: value for name, value in options.items() if name in RESTART_OPTIONS}
    others = {
        name: value
        for name, value in options.items()
        if name not in RESTART_OPTIONS and name not in ("name", _PACE)
    }
    return restarts, others


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """What differs, as `limits.max_requests 256 -> 100`; of API keys only that they do."""
    before, after = _opened(before), _opened(after)
    sections = [value for value in (before, after) if value is not _UNSET]
    if all(isinstance(value, Mapping) for value in sections):
        old, new = ({} if value is _UNSET else value for value in (before, after))
        for name in dict.fromkeys([*old, *new]):
            inner = _name(path, str(name))
            yield from _differences(old.get(name, _UNSET), new.get(name, _UNSET), inner)
    elif _are_named(before) and _are_named(after):
        yield from _differences({x["name"]: x for x in before}, {x["name"]: x for x in after}, path)
    elif before != after:
        yield path if _SECRET in path else f"{path} {_short(before)} -> {_short(after)}"


def _name(path: str, name: str) -> str:
    """The setting's own name, without the options that carry it."""
    carriers = ("user_config", "ray_actor_options", "runtime_env", "env_vars", SPEC_VARIABLE)
    if name in carriers:
        return path
    name = name if path else _OF_SPEC.get(name, name)
    return f"{path}.{name}" if path else name


def _opened(value: Any) -> Any:
    """A tier's spec, which is JSON."""
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    return value


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(x, Mapping) and "name" in x for x in value)


def _short(value: Any) -> str:
    if value is _UNSET:
        return "default"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
