"""The performance of GPUs, and the prices of cloud machines that have them.

`gpu_catalogue.toml`, next to this file, has the figures, their sources and the date of the prices.
"""

import datetime
import functools
import math
import operator
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from deployments.errors import CatalogueError

_FILE = "gpu_catalogue.toml"
_REQUIRED_FORMATS = ("float32", "float16")
FORMATS = (*_REQUIRED_FORMATS, "bfloat16", "int8", "fp8")
"""Keys of `Gpu.flops_per_s`. The last three are optional: the hardware may lack the format, or no
source may state its speed."""
_GIB, _MIB = 2**30, 2**20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One class of GPU.

    Attributes:
        name: Ray's accelerator label, or one that is set by hand if Ray's is less specific.
        aliases: other labels of the same class.
        memory_bytes: total memory that the driver reports, or the nominal size if no source states
            it.
        bytes_per_s: peak memory bandwidth.
        flops_per_s: dense peaks by number format. A format that the hardware lacks has no key.
        sources: where the figures are from; at least one.
    """

    name: str
    aliases: tuple[str, ...]
    compute_capability: tuple[int, int]
    nominal_memory_bytes: int
    memory_bytes: int
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    sources: tuple[str, ...]

    @property
    def half_format(self) -> str:
        """The 16-bit format to compute in: bfloat16, or float16 if the GPU lacks bfloat16."""
        return "bfloat16" if "bfloat16" in self.flops_per_s else "float16"


@dataclass(frozen=True, slots=True)
class Instance:
    """A cloud's machine with GPUs.

    At least one of the two prices is known.

    Attributes:
        gpu: name of the class of its GPUs, never an alias.
        gpus: number of its GPUs.
        usd_per_hour: price of the whole machine on demand; None: it is not sold on demand.
        spot_usd_per_hour: spot price of the whole machine, the median of the region's zones; None:
            no price is known.
    """

    cloud: str
    type: str
    gpu: str
    gpus: int
    vcpus: int
    host_memory_bytes: int
    region: str
    usd_per_hour: float | None
    spot_usd_per_hour: float | None
    source: str

    def usd_per_gpu_hour(self, spot: bool) -> float | None:
        """The price per GPU, on demand or spot; None if there is no such price."""
        price = self.spot_usd_per_hour if spot else self.usd_per_hour
        return None if price is None else price / self.gpus


@dataclass(frozen=True, slots=True)
class GpuCatalogue:
    """The content of the file. `gpus` has each class by name; `dated` is the date of the prices."""

    dated: datetime.date
    gpus: Mapping[str, Gpu]
    instances: tuple[Instance, ...]

    def find(self, name: str) -> Gpu | None:
        """The class with this name or alias; None if there is none."""
        by_alias = {alias: gpu for gpu in self.gpus.values() for alias in gpu.aliases}
        return self.gpus.get(name) or by_alias.get(name)

    def gpu(self, name: str) -> Gpu:
        """The class with this name or alias.

        Raises:
            CatalogueError: there is none. The message lists the known names.
        """
        found = self.find(name)
        if found is None:
            raise CatalogueError(f"no GPU is called {name!r}; known: {', '.join(self.gpus)}")
        return found

    def cheapest(self, gpu_name: str, spot: bool, cloud: str | None = None) -> Instance | None:
        """The machine with the lowest price per GPU; the machine may have several GPUs.

        Among equals, the first one. None if no machine with this GPU has such a price.

        Raises:
            CatalogueError: no GPU has this name.
        """
        name = self.gpu(gpu_name).name
        priced = [
            (price, instance)
            for instance in self.instances
            if instance.gpu == name and cloud in (None, instance.cloud)
            if (price := instance.usd_per_gpu_hour(spot)) is not None
        ]
        found = min(priced, key=operator.itemgetter(0), default=None)
        return None if found is None else found[1]


@functools.cache
def gpu_catalogue() -> GpuCatalogue:
    """The catalogue of this package. The file is read only once.

    Raises:
        CatalogueError: the file is malformed.
    """
    return parse_catalogue(resources.files(__package__).joinpath(_FILE).read_text("utf-8"))


def parse_catalogue(text: str) -> GpuCatalogue:
    """Parse a catalogue in TOML, in the format of this package's file.

    Raises:
        CatalogueError: the text is malformed. The message names the first such entry and its key.
    """
    try:
        top = _Table(_FILE, tomllib.loads(text))
    except tomllib.TOMLDecodeError as cause:
        raise CatalogueError(f"{_FILE}: {cause}") from cause
    dated = top.take_as("dated", datetime.date)
    gpus = [_gpu(table) for table in top.tables("gpu", "name")]
    clouds = top.table("cloud")
    instances = [i for cloud in list(clouds.values) for i in _instances(cloud, clouds.table(cloud))]
    top.end()
    _refuse_twice(label for gpu in gpus for label in (gpu.name, *gpu.aliases))
    _refuse_twice(f"{i.cloud} {i.type} with {i.gpus} {i.gpu} in {i.region}" for i in instances)
    names = [gpu.name for gpu in gpus]
    for i in instances:
        if i.gpu not in names:
            raise CatalogueError(f"{i.cloud} {i.type}: no GPU is called {i.gpu!r}")
    return GpuCatalogue(dated, {gpu.name: gpu for gpu in gpus}, tuple(instances))


class _Table:
    """A table of the file. Values are taken from it by key, and `end` refuses keys that are left.

    All methods raise CatalogueError with `label` and the key.
    """

    def __init__(self, label: str, values: dict[str, Any]) -> None:
        self.label = label
        self.values = dict(values)

    def error(self, reason: str) -> CatalogueError:
        return CatalogueError(f"{self.label}: {reason}")

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise self.error(f"{key} is missing")
        return self.values.pop(key)

    def take_as(self, key: str, kind: type[Any]) -> Any:
        value = self.take(key)
        # Not isinstance: a bool is also an int, and a datetime is also a date.
        if type(value) is not kind:
            raise self.error(f"{key} must be of type {kind.__name__}, got {value!r}")
        return value

    def text(self, key: str) -> str:
        value: str = self.take_as(key, str)
        if not value.strip():
            raise self.error(f"{key} is empty")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.take_as(key, list)
        if not values or not all(isinstance(value, str) and value.strip() for value in values):
            raise self.error(f"{key} must be a list of texts, got {values!r}")
        return tuple(values)

    def positive(self, key: str) -> float:
        number = self.take(key)
        if type(number) not in (int, float) or not 0 < number < math.inf:
            raise self.error(f"{key} must be a positive number, got {number!r}")
        return float(number)

    def optional(self, key: str) -> float | None:
        return self.positive(key) if key in self.values else None

    def count(self, key: str) -> int:
        number: int = self.take_as(key, int)
        if number <= 0:
            raise self.error(f"{key} must be positive, got {number}")
        return number

    def table(self, key: str) -> "_Table":
        return _Table(f"{self.label}: {key}", self.take_as(key, dict))

    def tables(self, key: str, name_key: str) -> list["_Table"]:
        """The tables of a list, each labelled with its value of `name_key`."""
        entries = self.take_as(key, list)
        if not all(isinstance(entry, dict) for entry in entries):
            raise self.error(f"{key} must be a list of tables")
        return [_Table(f"{self.label}: {entry.get(name_key)!r}", entry) for entry in entries]

    def end(self) -> None:
        if self.values:
            raise self.error(f"unknown keys: {', '.join(self.values)}")


def _gpu(table: _Table) -> Gpu:
    nominal_bytes = round(table.positive("memory_gib") * _GIB)
    driver_mib = table.optional("driver_mib")
    memory_bytes = nominal_bytes if driver_mib is None else round(driver_mib * _MIB)
    if memory_bytes > nominal_bytes:
        raise table.error("driver_mib is more than memory_gib")
    gpu = Gpu(
        name=table.text("name"),
        aliases=table.texts("aliases") if "aliases" in table.values else (),
        compute_capability=_capability(table),
        nominal_memory_bytes=nominal_bytes,
        memory_bytes=memory_bytes,
        bytes_per_s=table.positive("gb_per_s") * 1e9,
        flops_per_s=_flops_per_s(table.table("tflops")),
        sources=table.texts("sources"),
    )
    table.end()
    return gpu


def _capability(table: _Table) -> tuple[int, int]:
    match table.take_as("compute_capability", list):
        case [int(major), int(minor)] if major > 0 and minor >= 0:
            return major, minor
        case other:
            raise table.error(f"compute_capability must be [major, minor], got {other!r}")


def _flops_per_s(table: _Table) -> dict[str, float]:
    present = [name for name in FORMATS if name in table.values or name in _REQUIRED_FORMATS]
    flops_per_s = {name: table.positive(name) * 1e12 for name in present}
    table.end()
    return flops_per_s


def _instances(cloud: str, table: _Table) -> list[Instance]:
    source = table.text("source")
    instances = [_instance(cloud, source, entry) for entry in table.tables("instances", "type")]
    table.end()
    return instances


def _instance(cloud: str, source: str, table: _Table) -> Instance:
    instance = Instance(
        cloud=cloud,
        type=table.text("type"),
        gpu=table.text("gpu"),
        gpus=table.count("gpus"),
        vcpus=table.count("vcpus"),
        host_memory_bytes=round(table.positive("memory_gib") * _GIB),
        region=table.text("region"),
        usd_per_hour=table.optional("usd_per_hour"),
        spot_usd_per_hour=table.optional("spot_usd_per_hour"),
        source=source,
    )
    table.end()
    on_demand, spot = instance.usd_per_hour, instance.spot_usd_per_hour
    if on_demand is None and spot is None:
        raise table.error("no price")
    if on_demand is not None and spot is not None and spot > on_demand:
        raise table.error(f"spot costs {spot:g} USD an hour, more than {on_demand:g} on demand")
    return instance


def _refuse_twice(labels: Iterable[str]) -> None:
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            raise CatalogueError(f"{_FILE}: {label} is there twice")
        seen.add(label)
