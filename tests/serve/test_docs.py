"""Pages that must say what the code says."""

from pathlib import Path

from deployments import metrics
from serve.http.errors import _AUDIO, _BODY
from serve.http.fields import TranscriptionFields

DOCS = Path(__file__).parents[2] / "docs"


def test_every_metric_is_in_the_table_as_it_is() -> None:
    page = (DOCS / "operations.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `murmur_")]
    for row, metric in zip(rows, metrics.ALL, strict=True):
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        name, kind, unit = metric.name, metric.kind, metric.unit
        assert row == f"| `{name}` | {kind} | {unit} | {labels} | {metric.meaning} |"


def test_all_metrics_of_the_file_are_in_its_list() -> None:
    named = [value for value in vars(metrics).values() if isinstance(value, metrics.Metric)]
    assert named == list(metrics.ALL)


def test_every_field_and_code_is_in_the_page() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in TranscriptionFields.model_fields:
        assert f"| `{name}` |" in page or f"| `{name}[]` |" in page, name
    codes = [code for _, _, code in _AUDIO] + [code for _, code in _BODY.values()]
    for code in codes:
        assert f"`{code}`" in page, code
