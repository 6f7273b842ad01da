"""Alerts on made-up series, by Prometheus' own promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.manifests import of_kind

_CASES = Path(__file__).with_name("alerts.yaml")


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    cases = yaml.safe_load(_CASES.read_text(encoding="utf-8"))["tests"]
    checks = [check for case in cases for check in case["alert_rule_test"]]
    firing = {check["alertname"] for check in checks if check["exp_alerts"]}
    silent = {check["alertname"] for check in checks if not check["exp_alerts"]}
    (manifest,) = of_kind("gpu", "PrometheusRule")
    alerts = {rule["alert"] for group in manifest["spec"]["groups"] for rule in group["rules"]}
    assert firing == alerts
    assert silent == alerts


@pytest.mark.cluster
def test_promtool_agrees(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing: apt-get install prometheus"
    (manifest,) = of_kind("gpu", "PrometheusRule")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(manifest["spec"]), encoding="utf-8")
    shutil.copy(_CASES, tmp_path)
    for command in (["check", "rules", "rules.yaml"], ["test", "rules", _CASES.name]):
        done = subprocess.run(
            [promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
