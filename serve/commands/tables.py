"""Tables: fitted to a terminal for people; elsewhere plain, complete and always the same."""

import sys
from collections.abc import Collection, Sequence
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 10_000
"""A width in columns at which nothing is wrapped or cut."""


def is_terminal() -> bool:
    """Whether a person sees the standard output. Variables of the environment about colours do not
    count."""
    return sys.stdout is not None and sys.stdout.isatty()


def terminal() -> Console:
    """A console on the standard output, which it takes for a terminal."""
    return Console(file=sys.stdout, force_terminal=True, highlight=False)


def show(renderable: RenderableType) -> None:
    """Print formatted on a terminal, else as plain text."""
    if is_terminal():
        terminal().print(renderable)
    else:
        print(plain(renderable))


def say(words: str) -> None:
    """Print a paragraph, which is wrapped on a terminal only."""
    show(Text(words))


def plain(renderable: RenderableType) -> str:
    """Render as text without escape sequences and without blanks at line ends."""
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
        numbers: indices of the columns that are aligned on the right.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    return _filled(table, head, rows, numbers)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table in Markdown; on a terminal, a table with rules instead."""
    form = box.SIMPLE_HEAD if is_terminal() else box.MARKDOWN
    return _filled(Table(box=form, header_style="bold"), head, rows, ())


def in_parts(
    head: Sequence[str], rows: Sequence[Sequence[str]], n_repeated: int = 1
) -> list[Table]:
    """A table in Markdown. If a terminal is too narrow for it, several tables that share out the
    columns; each repeats the first `n_repeated`."""
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
