"""Pictures for documents, of training and of all benchmarks."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_picture(figure: "Figure", stem: Path) -> None:
    """Write `stem`.png and `stem`.svg, without a date, so that equal figures give equal files."""
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        metadata = {"Date": None} if suffix == ".svg" else None
        figure.savefig(stem.with_suffix(suffix), dpi=110, metadata=metadata)
