"""The series that a node of the cluster exports to Prometheus, with their labels.

Our metrics come from deployments/metrics.py, Ray's metrics of nodes from the module that records
them, and Serve's from the source of the installed package. Ray prefixes all names with `ray_`,
appends `_total` to those of counters, and splits histograms into several series.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ray import serve as ray_serve
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from ray.serve._private.common import RequestProtocol

from deployments import metrics

_OF_SERVE = frozenset({"application", "deployment", "replica"})
"""Labels that `ray.serve.metrics` adds to the metrics of replicas."""
OF_TARGETS = frozenset({"instance", "job", "namespace", "pod", "container", "endpoint"})
"""Labels that the Prometheus operator adds to a series for its target."""
_KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}


@cache
def exported() -> dict[str, frozenset[str]]:
    """The labels of each series, by its name."""
    series: dict[str, frozenset[str]] = {}
    for metric in metrics.ALL:
        _add(series, metric.name, metric.kind, _OF_SERVE | set(metric.labels))
    for gauge in METRICS_GAUGES.values():
        _add(series, gauge.view.name, "gauge", frozenset(map(str, gauge.view.columns)))
    for name, kind, labels in _of_serve():
        _add(series, name, kind, _OF_SERVE | labels)
    return series


def _add(series: dict[str, frozenset[str]], name: str, kind: str, labels: frozenset[str]) -> None:
    name = f"ray_{name}"
    if kind == "histogram":
        names = {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    else:
        ends = "_total" if kind == "counter" else ""
        names = {name.removesuffix(ends) + ends: labels}
    for each, its in names.items():
        series[each] = series.get(each, frozenset()) | its


def _of_serve() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Name, kind and labels of every `Counter("serve_...", tag_keys=...)` and the like in Serve."""
    for path in sorted(Path(str(ray_serve.__file__)).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            kind = _KINDS.get(getattr(call.func, "attr", getattr(call.func, "id", "")))
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            named = call.args[0] if call.args else given.get("name")
            if kind is None or named is None:
                continue
            keys = given.get("tag_keys")
            labels = frozenset(() if keys is None else _words(keys, tree))
            for name in _names(named):
                if name.startswith("serve_"):
                    yield name, kind, labels


def _names(node: ast.expr) -> list[str]:
    """The names in a constant, or in an f-string that contains the protocol."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if not isinstance(node, ast.JoinedStr) or "protocol" not in ast.unparse(node):
        return []
    parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    return [
        "".join(protocol.lower() if part is None else str(part) for part in parts)
        for protocol in RequestProtocol
    ]


def _words(node: ast.expr, tree: ast.Module) -> Iterator[str]:
    """The strings in an expression, and in the module's assignments to the names in it."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.Name):
            for given in ast.walk(tree):
                names = given.targets if isinstance(given, ast.Assign) else []
                if any(isinstance(name, ast.Name) and name.id == part.id for name in names):
                    assert isinstance(given, ast.Assign)
                    yield from _words(given.value, tree)
