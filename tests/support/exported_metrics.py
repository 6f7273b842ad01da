"""What a node of the cluster exports to Prometheus: names of series, and their labels.

Ours from deployments/metrics.py; Ray's of nodes from the module that records them; Serve's from the
source of the installed package, where each is made. Ray puts `ray_` before all, `_total` behind
counters, and splits histograms.
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
"""What `ray.serve.metrics` adds to the metrics of replicas."""
OF_TARGETS = frozenset({"instance", "job", "namespace", "pod", "container", "endpoint"})
"""What Prometheus' operator gives a series by its target."""
_KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}


@cache
def exported() -> dict[str, frozenset[str]]:
    """Labels by name of series."""
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
    """Every `Counter("serve_...", tag_keys=...)` and the like in the package's source."""
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
    """Of a constant, or of a template with the protocol in it."""
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
    """The strings of an expression, and of what its names were given in the module."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.Name):
            for given in ast.walk(tree):
                names = given.targets if isinstance(given, ast.Assign) else []
                if any(isinstance(name, ast.Name) and name.id == part.id for name in names):
                    assert isinstance(given, ast.Assign)
                    yield from _words(given.value, tree)
