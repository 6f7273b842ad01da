"""Parameters of tests that `make test` runs, and others of the same proof for `make test-more`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def more_but(often: Collection[Any], values: Iterable[Any]) -> list[ParameterSet]:
    """All values as parameters; those that are not tried each time are marked as `more`."""
    rest = pytest.mark.more
    return [pytest.param(value, marks=() if value in often else rest) for value in values]
