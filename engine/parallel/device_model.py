"""What a device can do, for the costs of a split. Needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """What one rank's device can do: a GPU, or the CPU cores of a process.

    Attributes:
        flops_per_s: sustained, in the number format of products; 8-bit products count the same.
        bytes_per_s: sustained, of its memory.
        memory_bytes: usable memory.
        host_bytes_per_s: sustained, of its link to the host; by default that of 16 lanes of PCI
            Express 3, which the smallest GPUs have.
    """

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    host_bytes_per_s: float = 12e9

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}")

    def seconds(self, flops: float, n_bytes: float) -> float:
        """The roofline of one operation."""
        return max(flops / self.flops_per_s, n_bytes / self.bytes_per_s)
