"""`murmur doctor` on machines that lack something: GPUs, drivers and compilers have stand-ins."""

import json
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from serve.commands import gpu_check, machine_check
from serve.commands.cli import main
from serve.commands.findings import Finding, State
from serve.commands.gpu_check import check_gpus

SMI = "NVIDIA L4, 23034, 570.133.20, 8.9"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH, for programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a GPU in the machine."""
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(gpu_check, "_DEVICES", tmp_path)


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_this_machine_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--offline", "--json"])
    report = json.loads(capsys.readouterr().out)
    names = [finding["name"] for finding in report["findings"]]
    assert {"GPU", "CPU", "CPU kernels", "memory", "ffmpeg", "model hub", "Ray's token"} <= {*names}
    assert report["uses"].keys() == {"device", "precision", "kernels"}
    wrong = [x for x in report["findings"] if x["state"] == "fault"]
    assert report["ok"] == (not wrong) and code == (1 if wrong else 0)
    assert all((x["mend"] is None) == (x["state"] == "ok") for x in report["findings"])


def test_no_gpu_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setattr(gpu_check, "_DEVICES", tmp_path)
    monkeypatch.setattr(gpu_check, "_PCI", tmp_path)
    assert [finding.state for finding in check_gpus()] == [State.OK]


@pytest.mark.parametrize(
    ("vendor", "kind", "state"),
    [
        ("0x10de", "0x030200", State.FAULT),
        ("0x10de", "0x040300", State.OK),  # a sound card
        ("0x1002", "0x030000", State.OK),
    ],
)
def test_a_gpu_is_known_by_its_bus(
    vendor: str,
    kind: str,
    state: State,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
) -> None:
    device = tmp_path / "0000:00:1e.0"
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    monkeypatch.setattr(gpu_check, "_DEVICES", tmp_path)
    monkeypatch.setattr(gpu_check, "_PCI", tmp_path)
    assert [finding.state for finding in check_gpus()] == [state]


def test_a_gpu_without_its_driver(
    gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["doctor", "--offline"]) == 1
    written = capsys.readouterr().out
    assert "fault  GPU" in written and "its driver does not answer" in written
    assert "does not work yet: GPU" in written
    program(path / "nvidia-smi", "echo 'has failed because it could not communicate'; exit 9")
    assert by_name(check_gpus())["GPU"].state is State.FAULT
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert "nvidia.com/gpu" in str(by_name(check_gpus())["GPU"].mend)


def test_a_torch_for_cpus_alone(gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path / "nvidia-smi", f"echo '{SMI}'")
    monkeypatch.setattr(torch.version, "cuda", None)
    found = by_name(check_gpus())
    assert found["GPU driver"].found == "570.133.20"
    assert found["CUDA"].state is State.FAULT
    pinned = torch.__version__.partition("+")[0]
    assert str(found["CUDA"].mend).endswith(f"torch=={pinned}")


def test_a_driver_that_is_too_old(gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn(
            "The NVIDIA driver on your system is too old (found version 11040).", stacklevel=1
        )
        return False

    program(path / "nvidia-smi", f"echo '{SMI}'")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    found = by_name(check_gpus())["CUDA"]
    assert found.state is State.FAULT
    assert "too old (found version 11040)" in found.found and "CUDA 13.0" in str(found.mend)


class Usable:
    """What torch says of a GPU that works."""

    def __init__(self, patch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 9)) -> None:
        major, minor = capability
        shown = SimpleNamespace(
            name="NVIDIA L4", total_memory=23_600_000_000, major=major, minor=minor
        )
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "get_device_properties", lambda index: shown)
        ones = torch.ones
        patch.setattr(torch, "ones", lambda *size, device="cpu": ones(*size))


def test_a_gpu_that_works(gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path / "nvidia-smi", f"echo '{SMI}'")
    Usable(monkeypatch)
    monkeypatch.delenv("MURMUR_TRITON", raising=False)
    found = by_name(check_gpus())
    assert found["GPU 0"].state is State.OK
    assert found["GPU 0"].found.endswith("23.6 GB, compute capability 8.9: bfloat16")
    monkeypatch.setenv("MURMUR_TRITON", "0")
    assert by_name(check_gpus())["GPU kernels"].mend == "unset MURMUR_TRITON"


def test_kernels_need_a_compiler(gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    program(path / "nvidia-smi", f"echo '{SMI}'")
    Usable(monkeypatch)
    monkeypatch.delenv("MURMUR_TRITON", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gpu_check.sysconfig, "get_path", lambda name: str(path))
    (path / "Python.h").touch()
    program(path / "gcc", "true")
    assert by_name(check_gpus())["GPU kernels"].state is State.OK
    monkeypatch.setenv("PATH", str(path))
    (path / "gcc").unlink()
    program(path / "nvidia-smi", f"echo '{SMI}'")
    found = by_name(check_gpus())["GPU kernels"]
    assert found.state is State.NOTE and found.found.startswith("no C compiler")


def test_a_gpu_that_is_too_old_or_taken(
    gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path / "nvidia-smi", f"echo '{SMI}'")
    Usable(monkeypatch, (7, 0))
    assert by_name(check_gpus())["GPU 0"].state is State.FAULT
    Usable(monkeypatch)

    def taken(*size: int, device: str) -> torch.Tensor:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy\nmore")

    monkeypatch.setattr(torch, "ones", taken)
    found = by_name(check_gpus())["GPU 0"]
    assert found.state is State.FAULT and found.found.endswith("devices are busy")


def test_ports_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MURMUR__HTTP__PORT", str(port))
        monkeypatch.setattr(machine_check, "_own_cluster_runs", lambda: False)
        found = by_name(machine_check._ports())[f"port {port}"]
        assert found.state is State.NOTE
        assert found.mend == f"MURMUR__HTTP__PORT={port + 1} murmur up"
        monkeypatch.setattr(machine_check, "_own_cluster_runs", lambda: True)
        assert by_name(machine_check._ports())[f"port {port}"].state is State.OK
    assert by_name(machine_check._ports())[f"port {port}"].found.startswith("free")


def test_settings_that_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MURMUR__HTTP__PORT", "many")
    (found,) = machine_check._ports()
    assert found.state is State.FAULT and found.mend == "murmur check-config"


def test_an_ffmpeg_that_does_not_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(path / "ffmpeg", "echo 'libx.so: cannot open' >&2; exit 127")
    monkeypatch.setattr(machine_check, "ffmpeg_exe", lambda: str(path / "ffmpeg"))
    found = machine_check._ffmpeg()
    assert found.state is State.FAULT and found.found == "libx.so: cannot open"


def test_a_token_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert machine_check._token().state is State.OK
    token.write_text("secret")
    token.chmod(0o644)
    found = machine_check._token()
    assert found.mend == f"chmod 600 {token}" and "secret" not in found.found
    token.chmod(0o600)
    assert machine_check._token().state is State.OK


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setattr(machine_check.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(machine_check.constants, "ENDPOINT", f"http://127.0.0.1:{closed}")
    found = machine_check._hub(offline=False)
    assert found.state is State.NOTE and "does not answer" in found.found
    assert machine_check._hub(offline=True).state is State.OK
    monkeypatch.setattr(machine_check.constants, "HF_HUB_OFFLINE", True)
    assert machine_check._hub(offline=True).mend == "unset HF_HUB_OFFLINE"


def test_weights_have_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_check.constants, "HF_HUB_CACHE", str(tmp_path / "a" / "b"))
    usage = SimpleNamespace(free=10**9)
    monkeypatch.setattr(machine_check.shutil, "disk_usage", lambda path: usage)
    found = by_name(machine_check._disks())["hub's weights"]
    assert found.state is State.NOTE and "HF_HOME" in str(found.mend)
    monkeypatch.setattr(machine_check.os, "access", lambda path, mode: False)
    assert by_name(machine_check._disks())["hub's weights"].state is State.FAULT


@pytest.mark.parametrize(("compiled", "words"), [(True, "none for this"), (False, "not compiled")])
def test_a_cpu_without_kernels(compiled: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_check.native_builds, "in_use", lambda: None)
    monkeypatch.setattr(machine_check.native_builds, "is_compiled", lambda name: compiled)
    found = machine_check._kernels()
    assert found.state is State.NOTE and found.found.startswith(words)
