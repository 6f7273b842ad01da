"""Dashboard and alerts: what they ask Prometheus for is PromQL, and there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest

from deployments import errors, metrics
from deployments.entrance.accounting import outcome_of
from scripts.k8s_serve_configs import OVERLAYS
from tests.support.exported_metrics import OF_TARGETS, exported
from tests.support.manifests import K8S, groups, of_kind

_DASHBOARD = K8S / "components" / "monitoring" / "dashboard.json"
# What Grafana puts in before it asks.
_VARIABLES = {"$__rate_interval": "1m", "$tier": ".*"}


def _panels() -> list[dict[str, Any]]:
    panels = json.loads(_DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in panels if panel["type"] != "row"]


def _rules() -> list[dict[str, Any]]:
    (manifest,) = of_kind("gpu", "PrometheusRule")
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


def _queries() -> Iterator[Any]:
    for panel in _panels():
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for rule in _rules():
        yield pytest.param(rule["expr"], id=rule["alert"])


def _parsed(query: str) -> promql_parser.Expr:
    for variable, value in _VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return promql_parser.parse(query)


def _unknown(query: str) -> list[str]:
    """Names and labels of a query that nothing exports."""
    found: list[str] = []
    _visit(_parsed(query), found)
    return found


def _visit(expr: Any, found: list[str]) -> frozenset[str]:
    """Labels that the value of an expression may have; what does not exist goes to `found`."""
    match expr:
        case promql_parser.VectorSelector():
            if expr.name not in exported():
                found.append(str(expr.name))
                return frozenset()
            labels = exported()[expr.name] | OF_TARGETS
            found += [m.name for m in expr.matchers.matchers if m.name not in labels]
            return labels
        case promql_parser.MatrixSelector():
            return _visit(expr.vector_selector, found)
        case promql_parser.AggregateExpr():
            labels = _visit(expr.expr, found)
            if expr.modifier is None:
                return frozenset()
            assert expr.modifier.type == promql_parser.AggModifierType.By
            found += [label for label in expr.modifier.labels if label not in labels]
            return frozenset(expr.modifier.labels)
        case promql_parser.BinaryExpr():
            left, right = _visit(expr.lhs, found), _visit(expr.rhs, found)
            assert expr.modifier is None or expr.modifier.matching is None
            scalar = promql_parser.NumberLiteral
            if not isinstance(expr.lhs, scalar) and not isinstance(expr.rhs, scalar):
                found += [] if left == right else [f"{sorted(left)} beside {sorted(right)}"]
            return left | right
        case promql_parser.Call():
            return frozenset().union(*(_visit(argument, found) for argument in expr.args))
        case promql_parser.ParenExpr():
            return _visit(expr.expr, found)
        case promql_parser.NumberLiteral():
            return frozenset()
    raise AssertionError(f"{type(expr)} is not known here")


@pytest.mark.parametrize("query", list(_queries()))
def test_queries_name_what_is_exported(query: str) -> None:
    assert _unknown(query) == []


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("ray_murmur_requests", ["ray_murmur_requests"]),  # a counter ends in _total
        ("ray_murmur_queued_audio_s_total", ["ray_murmur_queued_audio_s_total"]),
        ('ray_murmur_slots{model="x"}', ["model"]),
        ("sum by (reason) (ray_murmur_slots)", ["reason"]),
        ("ray_serve_number_of_replicas", ["ray_serve_number_of_replicas"]),
        ("sum(ray_murmur_slots) / sum by (tier) (ray_murmur_slots)", ["[] beside ['tier']"]),
    ],
)
def test_what_is_not_exported_is_found(query: str, unknown: list[str]) -> None:
    assert _unknown(query) == unknown


def test_no_promql_is_refused() -> None:
    with pytest.raises(ValueError):
        _parsed("sum by tier (ray_murmur_slots")


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    asked = " ".join(target["expr"] for panel in _panels() for target in panel["targets"])
    for metric in metrics.ALL:
        assert f"ray_{metric.name}" in asked, metric.name


def test_legends_and_summaries_use_labels_that_are_left() -> None:
    for panel in _panels():
        for target in panel["targets"]:
            labels = _visit(_parsed(target["expr"]), [])
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, panel["title"]
    for rule in _rules():
        labels = _visit(_parsed(rule["expr"]), [])
        words = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels, rule["alert"]


def test_outcomes_are_kinds_of_errors() -> None:
    kinds = {outcome_of(kind.__new__(kind)) for kind in _errors()} | {"ok", "cancelled", "fault"}
    named = set()
    for rule in _rules():
        for values in re.findall(r'outcome=~?"([^"]+)"', rule["expr"]):
            named |= set(values.split("|"))
    assert named
    assert named <= kinds


def _errors() -> list[type[BaseException]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DeploymentError)
    ]


def test_the_threshold_of_the_queue_is_that_of_the_limits() -> None:
    limits = OVERLAYS[1].settings().limits
    (rule,) = (rule for rule in _rules() if rule["alert"] == "MurmurQueueAlmostFull")
    assert float(rule["expr"].rpartition("> ")[2]) == 0.8 * limits.max_queued_audio_s


def test_the_monitor_finds_ports_of_pods() -> None:
    (monitor,) = of_kind("gpu", "PodMonitor")
    labels = monitor["spec"]["selector"]["matchLabels"]
    ports = set()
    for name, group in groups("gpu"):
        template = group["template"]
        assert labels.items() <= template["metadata"]["labels"].items(), name
        ports |= {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_the_dashboard_comes_as_it_is() -> None:
    (manifest,) = (
        m for m in of_kind("gpu", "ConfigMap") if m["metadata"]["name"] == "murmur-dashboard"
    )
    assert manifest["metadata"]["labels"] == {"grafana_dashboard": "1"}
    text = _DASHBOARD.read_text(encoding="utf-8")
    assert manifest["data"] == {"murmur.json": text}
    ids = [panel["id"] for panel in json.loads(text)["panels"]]
    assert len(ids) == len(set(ids))
