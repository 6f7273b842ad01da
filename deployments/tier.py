"""What a tier runs (`TierSpec`), and what its replicas say of themselves (`TierInfo`)."""

from dataclasses import dataclass

from engine import Precision


@dataclass(frozen=True, slots=True)
class TierSpec:
    """One engine of a tier.

    Args:
        name: the tier's, in metrics and in results.
        model: folder, hub id or demo model.
        device: a torch device.
        precision: None: the default of the device.
        max_slots: chunks decoded at once.
        threads: CPU threads to compute with.
    """

    name: str
    model: str
    device: str
    precision: Precision | None
    max_slots: int
    threads: int


@dataclass(frozen=True, slots=True)
class TierInfo:
    """What an ingress has to know of a tier's model.

    Attributes:
        languages: ISO codes that it transcribes.
        multilingual: whether it detects languages and translates.
    """

    model: str
    precision: str
    languages: tuple[str, ...]
    multilingual: bool
    max_slots: int
