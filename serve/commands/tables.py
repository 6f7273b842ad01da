"""Tables: as wide as a terminal for a person; elsewhere plain, whole and always the same."""

import sys
from collections.abc import Collection, Sequence
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000
"""Columns: nothing is wrapped or cut."""


def is_terminal() -> bool:
    """Whether a person sees the standard output. What the environment wishes about colours says
    nothing of that."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal() -> Console:
    """The standard output, taken for a terminal."""
    return Console(file=sys.stdout, force_terminal=True, highlight=False)


def show(renderable: RenderableType) -> None:
    """Print for whoever reads the standard output."""
    if is_terminal():
        terminal().print(renderable)
    else:
        print(plain(renderable))


def say(words: str) -> None:
    """Print a paragraph, wrapped where it is read on a terminal."""
    show(Text(words))


def plain(renderable: RenderableType) -> str:
    """Text without escape sequences, and without blanks at the ends of its lines."""
    written = StringIO()
    Console(file=written, width=_UNBOUNDED, color_system=None, force_terminal=False).print(
        renderable
    )
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()).strip("\n")


def columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int] = ()
) -> Table:
    """Columns side by side without lines.

    Args:
        numbers: columns that are aligned on the right.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    return _filled(table, head, rows, numbers)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table in Markdown where it is read by programs, with lines where by people."""
    form = box.SIMPLE_HEAD if is_terminal() else box.MARKDOWN
    return _filled(Table(box=form, header_style="bold"), head, rows, ())


def in_parts(
    head: Sequence[str], rows: Sequence[Sequence[str]], n_repeated: int = 1
) -> list[Table]:
    """A table in Markdown; on a terminal as many side by side as it is too narrow for, each with
    the first columns."""
    if not is_terminal():
        return [markdown(head, rows)]
    widths = [max(len(row[column]) for row in [head, *rows]) + 3 for column in range(len(head))]
    room = terminal().width - sum(widths[:n_repeated]) - 1
    parts: list[list[int]] = [[]]
    for column in range(n_repeated, len(head)):
        if parts[-1] and sum(widths[c] for c in parts[-1]) + widths[column] > room:
            parts.append([])
        parts[-1].append(column)
    chosen = [[*range(n_repeated), *part] for part in parts]
    return [
        markdown([head[c] for c in part], [[row[c] for c in part] for row in rows])
        for part in chosen
    ]


def _filled(
    table: Table, head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Collection[int]
) -> Table:
    for column, title in enumerate(head):
        justify = "right" if column in numbers else "left"
        table.add_column(Text(title), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
