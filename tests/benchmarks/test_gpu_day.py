"""The one command for a GPU, rehearsed on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_day.__main__ import _SHARES, main

REHEARSE = ("--device", "cpu", "--rehearse")


def parts_of(out: Path) -> dict[str, dict[str, object]]:
    found = json.loads((out / "report.json").read_text())["parts"]
    return {part["part"]: part for part in found}


@pytest.mark.more
def test_all_parts(tmp_path: Path) -> None:
    assert main([*REHEARSE, "--out", str(tmp_path), "--minutes", "30"]) == 0
    found = parts_of(tmp_path)
    assert found.keys() == _SHARES.keys()
    assert all(part["status"] == "ok" and part["rows"] for part in found.values())
    page = (tmp_path / "report.md").read_text()
    assert "nothing here is a measurement" in page
    assert all(f"## {name}: ok" in page for name in _SHARES)


def test_what_fails_costs_itself_alone_and_is_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "no-model"
    empty.mkdir()
    out = tmp_path / "day"
    common = [*REHEARSE, "--out", str(out), "--parts", "tokens,profile"]
    assert main([*common, "--model", str(empty), "--minutes", "30"]) == 1
    found = parts_of(out)
    assert found["tokens"]["status"] == "failed" and found["tokens"]["log"]
    assert found["profile"]["status"] == "ok"
    assert "launches a step" in str(found["profile"]["rows"])
    capsys.readouterr()
    # Too little time for anything.
    assert main([*common, "--model", str(empty), "--minutes", "0.01"]) == 1
    assert "profile: done before" in capsys.readouterr().out
    assert parts_of(out)["tokens"]["status"] == "out of time"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--device cpu --rehearse" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--parts", "dance"])
