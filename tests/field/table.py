"""Renders rows as a Markdown table and as JSON, and puts one run beside another."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_MARKS = {True: "right", False: "**wrong**", None: "not tried"}


@dataclass(frozen=True)
class Row:
    """The result of a case.

    Attributes:
        is_right: None if the case could not be tried.
        taken_s: seconds that the case took; only shown, never judged.
    """

    name: str
    way: str
    right: str
    got: str
    is_right: bool | None
    faults: tuple[str, ...] = ()
    taken_s: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.name}, {self.way}"


def to_json(rows: Sequence[Row], murmur: str) -> str:
    """All rows as one line of JSON."""
    return json.dumps(
        {
            "murmur": murmur,
            "right": sum(row.is_right is True for row in rows),
            "wrong": sum(row.is_right is False for row in rows),
            "not_tried": sum(row.is_right is None for row in rows),
            "rows": [asdict(row) for row in rows],
        },
        ensure_ascii=False,
    )


def read_earlier(path: Path) -> dict[str, bool | None]:
    """Whether each row of an earlier run was right, by its key, from the output of `to_json`."""
    last = path.read_text(encoding="utf-8").strip().splitlines()[-1]
    return {f"{row['name']}, {row['way']}": row["is_right"] for row in json.loads(last)["rows"]}


def to_markdown(rows: Sequence[Row], earlier: Mapping[str, bool | None] | None = None) -> str:
    """A table with a line for each row, and a summary below it.

    Args:
        earlier: results of an earlier run, which get a column and a place in the summary.
    """
    columns = ["case", "over", "right is", "got", *(["before"] if earlier is not None else []), ""]
    lines = [columns, ["---"] * len(columns)]
    for row in rows:
        got = row.got if row.is_right is not False else f"{row.got} -- {'; '.join(row.faults)}"
        then = [] if earlier is None else [_MARKS[earlier[row.key]] if row.key in earlier else "-"]
        lines.append([row.name, row.way, row.right, got, *then, _MARKS[row.is_right]])
    table = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
    n_right = sum(row.is_right is True for row in rows)
    n_wrong = sum(row.is_right is False for row in rows)
    summary = f"{n_right} right, {n_wrong} wrong, {len(rows) - n_right - n_wrong} not tried"
    if earlier:
        gone = sorted(earlier.keys() - {row.key for row in rows})
        summary += f"; in the earlier run alone: {'; '.join(gone)}" if gone else ""
        same = [earlier[row.key] for row in rows if row.key in earlier]
        summary += f"; before, of {len(same)} of these rows: {same.count(True)} right"
    return f"{table}\n\n{summary}\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
