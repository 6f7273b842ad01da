"""Which part of a tensor a rank owns. Parts are contiguous and differ by one at most."""


def partition(total: int, size: int) -> list[range]:
    """Split `total` items over `size` ranks; the first ranks get one more where it does not divide.

    20 heads over 8 ranks are 3, 3, 3, 3, 2, 2, 2, 2.

    Raises:
        ValueError: a rank would own nothing.
    """
    if not 1 <= size <= total:
        raise ValueError(f"cannot split {total} items over {size} ranks")
    base, extra = divmod(total, size)
    starts = [rank * base + min(rank, extra) for rank in range(size + 1)]
    return [range(starts[rank], starts[rank + 1]) for rank in range(size)]


def scaled(part: range, unit: int) -> slice:
    """The slice of a dimension in which each item of `part` takes `unit` entries."""
    return slice(part.start * unit, part.stop * unit)
