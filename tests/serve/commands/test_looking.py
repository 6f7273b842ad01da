"""A look at settings before they are deployed: models that cannot be opened, and memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.replicas.inspection import Inspection
from engine import resolve_model
from serve.commands.cli import main
from serve.commands.connection import ClusterError
from serve.commands.looking import check_memory, look_here, with_room
from serve.settings.loading import load_settings


def tiers(*wanted: dict[str, Any]) -> Any:
    named = [{"name": f"t{n}", "quality": 1, **tier} for n, tier in enumerate(wanted)]
    return load_settings(None, {}, {"tiers": named}).tiers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copied = tmp_path / "model"
    shutil.copytree(resolve_model("demo:tiny.en"), copied)
    return copied


def test_a_model_is_opened_and_its_memory_is_planned(folder: Path) -> None:
    (seen,) = look_here(tiers({"model": str(folder)})).values()
    assert seen.fault == "" and 50e6 < seen.needed_bytes < 2e9
    (more,) = look_here(tiers({"model": str(folder), "batch_size": 96})).values()
    assert more.needed_bytes > 1.5 * seen.needed_bytes


def test_each_tier_that_cannot_start_has_a_line(folder: Path, tmp_path: Path) -> None:
    (folder / "vocabulary.json").write_text(json.dumps(["a", "b"]))
    for name in ("tokenizer.json", "vocabulary.txt"):
        (folder / name).unlink(missing_ok=True)
    weights = tmp_path / "w" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(bytes(100))
    (weights.parent / "config.json").write_text('{"model_type": "bert"}')
    wanted = tiers(
        {"model": str(folder)},
        {"model": "demo:tiny.en"},
        {"model": str(weights.parent)},
        {"model": str(tmp_path / "none")},
    )
    with pytest.raises(ClusterError) as error:
        look_here(wanted)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["tier t0", "tier t2", "tier t3"]
    assert "model_type is 'bert'" in lines[1] and "no such folder" in lines[2]


def test_the_command_looks_where_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "murmur.yaml"
    path.write_text(yaml.safe_dump({"tiers": [{"name": "a", "model": "./none", "quality": 1}]}))
    assert main(["check-config", str(path)]) == 0
    capsys.readouterr()
    assert main(["check-config", str(path), "--models"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "murmur: tier a: unknown model './none': there is no such folder" in err


def seen(needed: float, free: float = 10e9, machine: str = "here") -> Inspection:
    return Inspection("", needed, free, machine)


def test_memory_that_is_not_there_is_told_before_anything_starts() -> None:
    wanted = tiers({"model": "base", "min_replicas": 3, "max_replicas": 3}, {"model": "base"})
    check_memory(wanted, {"t0": seen(3e9), "t1": seen(1e9)})
    with pytest.raises(ClusterError, match=r"need 13 GB of memory \(t0 12 GB, t1 1 GB\), 10 GB"):
        check_memory(wanted, {"t0": seen(4e9), "t1": seen(1e9)})


def test_one_more_replica_of_each_tier_fits_as_long_as_there_is_memory() -> None:
    looks = {"large": seen(8e9), "small": seen(1e9), "medium": seen(4e9)}
    assert with_room(looks) == {"small", "medium"}
    assert with_room({**looks, "large": seen(8e9, machine="there")}) == set(looks)
