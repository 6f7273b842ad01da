"""The report of a day: what each part found, for people and for programs."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_report(out: Path, facts: Mapping[str, Any]) -> None:
    """Write report.md and report.json from the parts that have run so far."""
    found = [json.loads(path.read_text()) for path in _parts(out)]
    (out / "report.json").write_text(json.dumps({"facts": facts, "parts": found}, indent=2))
    lines = ["# A GPU's day", ""]
    if facts.get("rehearsal"):
        lines += ["**A rehearsal**: small models, and nothing here is a measurement.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    for part in found:
        lines += ["", f"## {part['part']}: {part['status']}, {part['seconds']:.0f} s", ""]
        lines += _table(part["rows"])
        if part["log"]:
            lines += ["", "```", *part["log"], "```"]
    (out / "report.md").write_text("\n".join(lines) + "\n")


def _parts(out: Path) -> list[Path]:
    """In the order in which they ran."""
    found = [path for path in out.glob("*.json") if path.name != "report.json"]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def _table(rows: list[dict[str, Any]]) -> Iterable[str]:
    """Rows of one kind after another, each kind with its own columns."""
    head: list[str] = []
    for row in rows:
        if list(row) != head:
            if head:
                yield ""
            head = list(row)
            yield "| " + " | ".join(head) + " |"
            yield "|---" * len(head) + "|"
        yield "| " + " | ".join(map(_cell, row.values())) + " |"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "/")
