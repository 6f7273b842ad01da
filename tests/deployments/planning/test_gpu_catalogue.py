"""The catalogue of GPUs: that its figures agree with each other, and what its loader refuses."""

import datetime
import pickle
import tomllib
from pathlib import Path

import pytest

from deployments.errors import CatalogueError
from deployments.planning.accelerators import device_model, shared_default_precision
from deployments.planning.gpu_catalogue import Instance, gpu_catalogue, parse_catalogue
from engine import Precision
from engine.parallel.device_model import DeviceModel

GIB = 2**30
CATALOGUE = gpu_catalogue()
SMALL = """
dated = 2026-01-02

[[gpu]]
name = "L4"
aliases = ["L4-24G"]
compute_capability = [8, 9]
memory_gib = 24
driver_mib = 23034
gb_per_s = 300
tflops = { float32 = 30.3, float16 = 121, bfloat16 = 121 }
sources = ["https://example.org/l4"]

[[gpu]]
name = "T4"
compute_capability = [7, 5]
memory_gib = 16
gb_per_s = 320
tflops = { float32 = 8.1, float16 = 65 }
sources = ["https://example.org/t4"]

[cloud.near]
source = "https://example.org/near"
instances = [
  { type = "one", gpu = "L4", gpus = 1, vcpus = 4, memory_gib = 16, region = "a", usd_per_hour = 1, spot_usd_per_hour = 0.5 },
  { type = "four", gpu = "L4", gpus = 4, vcpus = 48, memory_gib = 192, region = "a", usd_per_hour = 3.6, spot_usd_per_hour = 2.4 },
]

[cloud.far]
source = "https://example.org/far"
instances = [
  { type = "spot-only", gpu = "L4", gpus = 1, vcpus = 4, memory_gib = 16, region = "b", spot_usd_per_hour = 0.4 },
  { type = "dear", gpu = "L4", gpus = 1, vcpus = 4, memory_gib = 16, region = "b", usd_per_hour = 1.5 },
]
"""  # noqa: E501


def test_all_figures_of_the_file_get_through() -> None:
    small = parse_catalogue(SMALL)
    assert small.dated == datetime.date(2026, 1, 2)
    l4, t4 = small.gpus["L4"], small.gpus["T4"]
    assert (l4.nominal_memory_bytes, l4.memory_bytes) == (24 * GIB, 23034 * 2**20)
    assert t4.memory_bytes == t4.nominal_memory_bytes == 16 * GIB
    assert (l4.compute_capability, l4.bytes_per_s) == ((8, 9), 300e9)
    assert l4.flops_per_s == {"float32": 30.3e12, "float16": 121e12, "bfloat16": 121e12}
    assert small.instances[1] == Instance(
        cloud="near",
        type="four",
        gpu="L4",
        gpus=4,
        vcpus=48,
        host_memory_bytes=192 * GIB,
        region="a",
        usd_per_hour=3.6,
        spot_usd_per_hour=2.4,
        source="https://example.org/near",
    )


@pytest.mark.parametrize(
    ("spot", "cloud", "expected"),
    [
        (False, None, "four"),
        (True, None, "spot-only"),
        (True, "near", "one"),
        (False, "far", "dear"),
        (False, "nowhere", None),
    ],
)
def test_the_cheapest_is_that_by_the_gpu(
    spot: bool, cloud: str | None, expected: str | None
) -> None:
    found = parse_catalogue(SMALL).cheapest("L4", spot, cloud)
    assert (found and found.type) == expected


def test_a_gpu_that_no_cloud_has_is_not_for_sale() -> None:
    assert parse_catalogue(SMALL).cheapest("T4", spot=False) is None


def test_aliases_mean_the_same_gpu() -> None:
    small = parse_catalogue(SMALL)
    assert small.gpu("L4-24G") is small.gpu("L4")
    assert small.cheapest("L4-24G", spot=False) == small.cheapest("L4", spot=False)


def test_an_unknown_gpu_is_refused_with_those_there_are() -> None:
    small = parse_catalogue(SMALL)
    assert small.find("L5") is None
    with pytest.raises(CatalogueError, match="'L5'; known: L4, T4$") as caught:
        small.cheapest("L5", spot=True)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gb_per_s = 320", "gb_per_s = 0", r"'T4': gb_per_s must be a positive number, got 0"),
        ("gb_per_s = 320", "gb_per_s = inf", r"'T4': gb_per_s must be a positive number, got inf"),
        ("gb_per_s = 320", "gb_per_s = true", r"'T4': gb_per_s must be a positive number"),
        ("gb_per_s = 320\n", "", r"'T4': gb_per_s is missing"),
        ("driver_mib = 23034", "driver_mib = 24577", r"'L4': driver_mib is more than memory_gib"),
        ("float16 = 65", "half = 65", r"'T4': tflops: float16 is missing"),
        ("float16 = 65", "float16 = 65, bf16 = 65", r"'T4': tflops: unknown keys: bf16"),
        ("[7, 5]", "[7.5]", r"'T4': compute_capability must be \[major, minor\]"),
        ('["https://example.org/t4"]', "[]", r"'T4': sources must be a list of texts"),
        ('name = "T4"', 'name = "L4-24G"', r"L4-24G is there twice"),
        ('name = "T4"\n', "", r"None: name is missing"),
        ('"one", gpu = "L4"', '"one", gpu = "L5"', r"near one: no GPU is called 'L5'"),
        ('"one", gpu = "L4"', '"one", gpu = "L4-24G"', r"near one: no GPU is called 'L4-24G'"),
        ('"four", gpu = "L4", gpus = 4', '"one", gpu = "L4", gpus = 1', r"near one .* is there tw"),
        ("vcpus = 48", "vcpus = 48.5", r"'four': vcpus must be of type int, got 48.5"),
        ("vcpus = 48", "vcpus = -1", r"'four': vcpus must be positive, got -1"),
        ("usd_per_hour = 3.6", 'usd_per_hour = "3.6"', r"'four': usd_per_hour must be a positive"),
        (", usd_per_hour = 1.5", "", r"'dear': no price"),
        ("= 2.4", "= 3.7", r"'four': spot costs 3.7 USD an hour, more than 3.6 on demand"),
        ("2026-01-02", "2026-01-02T03:04:05", r"dated must be of type date"),
        ('source = "https://example.org/far"', "", r"far: source is missing"),
        ("dated =", "dated", r"gpu_catalogue.toml: "),
    ],
)
def test_what_is_malformed_is_refused_by_name(old: str, new: str, message: str) -> None:
    assert SMALL.count(old) == 1
    with pytest.raises(CatalogueError, match=message):
        parse_catalogue(SMALL.replace(old, new))


def test_every_figure_names_where_it_is_from() -> None:
    for gpu in CATALOGUE.gpus.values():
        assert all(source.startswith("https://") for source in gpu.sources), gpu.name
    for instance in CATALOGUE.instances:
        assert "/blob/" in instance.source and instance.cloud in instance.source


def test_formats_follow_the_compute_capability() -> None:
    """Tensor cores have bfloat16 from 8.0 on, and 8-bit floating point from 8.9 on."""
    for gpu in CATALOGUE.gpus.values():
        assert ("bfloat16" in gpu.flops_per_s) == (gpu.compute_capability >= (8, 0)), gpu.name
        assert ("fp8" in gpu.flops_per_s) == (gpu.compute_capability >= (8, 9)), gpu.name


def test_peaks_are_dense() -> None:
    """Eight bits take half as long as sixteen; one of the two with sparsity would show here."""
    for gpu in CATALOGUE.gpus.values():
        peaks = gpu.flops_per_s
        for name in {"int8", "fp8"} & peaks.keys():
            assert peaks[name] / peaks["float16"] == pytest.approx(2, rel=0.02), (gpu.name, name)
        assert peaks.get("bfloat16", peaks["float16"]) == peaks["float16"]


def test_drivers_keep_little_of_the_memory() -> None:
    for gpu in CATALOGUE.gpus.values():
        assert 0.93 <= gpu.memory_bytes / gpu.nominal_memory_bytes <= 1, gpu.name


def test_newer_generations_do_more() -> None:
    order = [CATALOGUE.gpu(name) for name in ("T4", "A10G", "A100", "H100", "B200")]
    for older, newer in zip(order, order[1:], strict=False):
        assert older.bytes_per_s < newer.bytes_per_s
        assert older.flops_per_s["float16"] < newer.flops_per_s["float16"]
    h100, h200 = CATALOGUE.gpu("H100"), CATALOGUE.gpu("H200")
    assert h100.flops_per_s == h200.flops_per_s


def test_spot_costs_less_but_not_nothing() -> None:
    for instance in CATALOGUE.instances:
        if instance.usd_per_hour is not None and instance.spot_usd_per_hour is not None:
            share = instance.spot_usd_per_hour / instance.usd_per_hour
            assert 0.15 < share < 1, instance.type


def test_prices_of_a_gpu_are_alike() -> None:
    """A column mistaken, or a price of a part, would be off by the GPUs of a machine."""
    for name in CATALOGUE.gpus:
        prices = [i.usd_per_gpu_hour(spot=False) for i in CATALOGUE.instances if i.gpu == name]
        known = [price for price in prices if price is not None]
        assert not known or max(known) / min(known) < 2, name


def test_a_machine_has_cores_and_memory_for_its_gpus() -> None:
    for instance in CATALOGUE.instances:
        assert instance.vcpus / instance.gpus >= 4, instance.type
        assert instance.host_memory_bytes / instance.gpus >= 15 * GIB, instance.type


def test_what_clouds_do_not_have() -> None:
    """Google has neither A10G nor L40S, and sells a single H100 as spot alone."""
    assert CATALOGUE.cheapest("L40S", spot=False, cloud="gcp") is None
    assert CATALOGUE.cheapest("A10G", spot=True, cloud="gcp") is None
    assert CATALOGUE.cheapest("V100", spot=True) is None
    single = [i for i in CATALOGUE.instances if i.type == "a3-highgpu-1g"]
    assert [i.usd_per_hour for i in single] == [None]


@pytest.mark.parametrize(
    ("gpu", "spot", "cloud", "expected"),
    [
        ("T4", False, None, "g4dn.xlarge"),
        ("L4", False, None, "g2-standard-4"),
        ("L4", False, "aws", "g6.xlarge"),
        ("A100-40G", False, None, "p4d.24xlarge"),
        ("A100", False, "gcp", "a2-ultragpu-1g"),
        ("H100", False, "gcp", "a3-highgpu-8g"),
        ("H100", True, "aws", "p5.48xlarge"),
    ],
)
def test_the_cheapest_there_is(gpu: str, spot: bool, cloud: str | None, expected: str) -> None:
    found = CATALOGUE.cheapest(gpu, spot, cloud)
    assert found is not None and found.type == expected


@pytest.mark.parametrize(
    ("name", "tflops", "gb_per_s", "gib"),
    [
        ("V100", 125, 900, 16),
        ("T4", 65, 320, 16),
        ("L4", 121, 300, 24),
        ("A10G", 70, 600, 24),
        ("L40S", 362, 864, 48),
        ("A100", 312, 2039, 80),
        ("A100-40G", 312, 1555, 40),
        ("H100", 989, 3350, 80),
        ("H200", 989, 4800, 141),
        ("B200", 2250, 7700, 180),
    ],
)
def test_device_models_are_of_dense_sixteen_bits_and_usable_memory(
    name: str, tflops: float, gb_per_s: float, gib: float
) -> None:
    """Against the nominal figures, as plans of sharded models were made with."""
    model = device_model(name)
    assert model.flops_per_s == pytest.approx(tflops * 1e12, rel=1e-3)
    assert model.bytes_per_s == pytest.approx(gb_per_s * 1e9)
    assert 0.87 * gib * GIB < model.memory_bytes <= (gib - 1) * GIB


def test_unknown_labels_share_one_model() -> None:
    assert device_model("X1") == device_model("X2") == DeviceModel(300e12, 1.5e12, float("inf"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("L4", "H100"), Precision.BFLOAT16),
        (("H100", "T4"), Precision.FLOAT16),
        (("V100",), Precision.FLOAT16),
        (("X1",), Precision.BFLOAT16),
    ],
)
def test_one_gpu_without_bfloat16_decides_for_all(
    names: tuple[str, ...], expected: Precision
) -> None:
    assert shared_default_precision(names) == expected


def test_the_data_file_goes_into_the_wheel() -> None:
    project = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text())
    assert (
        "gpu_catalogue.toml"
        in project["tool"]["setuptools"]["package-data"]["deployments.planning"]
    )
