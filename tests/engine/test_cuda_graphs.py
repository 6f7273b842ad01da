"""Which sizes are captured. Capturing itself needs a GPU: see test_gpu."""

import pytest

from engine.cuda_graphs import bucket


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [(1, 8, 1), (3, 8, 4), (5, 6, 6), (8, 8, 8), (9, 300, 16), (17, 300, 300), (300, 300, 300)],
)
def test_the_smallest_size_that_holds_it(value: int, limit: int, expected: int) -> None:
    assert bucket(value, (1, 2, 4, 8, 16), limit) == expected
