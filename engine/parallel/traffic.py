"""Counts what a rank sends to others, and how long it waits for them."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["reduce", "gather", "windows", "hidden", "tokens"]
"""`reduce` and `gather` are collectives of a tensor-parallel group; the others are wires between
stages."""


@dataclass
class Traffic:
    """A rank's counts, by kind.

    Attributes:
        calls: operations in which the rank sent something.
        sent_bytes: bytes that it sent, summed over receivers.
        waited_s: seconds spent in collectives (`reduce`, `gather`) or waiting for a tensor.
    """

    calls: Counter[Kind] = field(default_factory=Counter)
    sent_bytes: Counter[Kind] = field(default_factory=Counter)
    waited_s: dict[Kind, float] = field(default_factory=dict)

    def count(self, kind: Kind, n_bytes: int) -> None:
        self.calls[kind] += 1
        self.sent_bytes[kind] += n_bytes

    def clear(self) -> None:
        self.calls.clear()
        self.sent_bytes.clear()
        self.waited_s.clear()

    @contextmanager
    def waiting(self, kind: Kind) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited_s[kind] = self.waited_s.get(kind, 0.0) + time.perf_counter() - began
