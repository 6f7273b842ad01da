"""What became of canaries, of all ingresses together, for those who decide about them."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from deployments.reports import CanaryCount

_Key = tuple[str, str, bool]


class CanaryBook:
    """Adds up counts, of each canary from its beginning or that of the board."""

    def __init__(self) -> None:
        self._shares: dict[_Key, float] = {}
        self._counts: dict[_Key, CanaryCount] = {}

    def configure(self, canaries: Mapping[str, Mapping[str, Any]]) -> None:
        """Take other canaries. The counts of those that stay are kept, whatever their share.

        Args:
            canaries: the setting `routing.canary`.
        """
        self._shares = {
            (name, canary["to"], canary["shadow"]): canary["share"]
            for name, canary in canaries.items()
        }
        self._counts = {key: self._counts.get(key, CanaryCount(*key)) for key in self._shares}

    def hear(self, counts: Iterable[CanaryCount]) -> None:
        for count in counts:
            key = (count.of, count.to, count.shadow)
            if key in self._counts:  # an ingress may not know yet that it has ended
                self._counts[key] += count

    def describe(self) -> list[dict[str, Any]]:
        """For `GET /v1/cluster`: `share`, and the fields of `CanaryCount`."""
        return [
            {"share": share, **asdict(self._counts[key])} for key, share in self._shares.items()
        ]
