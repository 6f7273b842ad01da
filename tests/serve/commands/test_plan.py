"""`murmur plan`."""

import json

import pytest

from engine.model_sizes import MODEL_SIZES
from serve.commands import cli


def test_plan_prints_where_a_model_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "openai/whisper-large-v3", "--gpu", "T4", "--batch", "64"]) == 0
    out = capsys.readouterr().out
    assert "| T4  | float16, absorbed * | 64 " in out
    assert "it fits with cross_attention=absorbed" in out
    assert "tensor_parallel only where" in out


def test_plan_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "demo:base", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert {"T4", "L4", "A10G", "L40S", "A100-40G", "A100-80G", "H100", "H200"} <= {
        row["gpu"] for row in plans
    }
    for row in plans:
        assert all(sum(use.values()) == 2 * use["total"] for use in row["memory_bytes"])


def test_plan_matrix_has_every_model_on_every_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--matrix"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(MODEL_SIZES)
    assert all(len(row.split("|")) == len(rows[0].split("|")) for row in rows)
    large = next(row for row in rows if row.startswith("| large-v3 "))
    assert [cell.strip() for cell in large.split("|")[2:5]] == ["1543", "6.17", "3.09"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "name a model, or ask for --matrix"),
        (["plan", "tiny", "--gpu", "Voodoo2"], "no GPU is called 'Voodoo2'; known: V100, T4"),
        (["plan", "tiny", "--tokens", "9999"], "--tokens must be 0 to 448"),
        (["plan", "nothing-here"], "unknown model 'nothing-here'"),
    ],
)
def test_plan_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("murmur: ") and message in err and err.count("\n") == 1


def test_plan_says_what_a_gpu_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "tiny", "--gpu", "T4", "--precision", "fp8"]) == 2
    assert "T4: T4 has no fp8; it has float32, float16" in capsys.readouterr().out
