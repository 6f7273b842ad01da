"""The native kernels for each set of instructions, as far as this processor can run them."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.kernels import native_builds
from tests.support.native_builds import CPU, FLAGS, STAND_INS, cpu_flags


@pytest.fixture(params=native_builds.INSTRUCTIONS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param in STAND_INS and not cpu_flags() >= FLAGS[request.param]:
        request.getfixturevalue("stand_ins")
    with native_builds.limited_to(request.param):
        if not native_builds.serves(CPU):
            pytest.skip(f"no {request.param} here, or not compiled")
        yield request.param


@pytest.fixture
def stand_ins(
    stand_in_libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    path, caches = native_builds._path, (native_builds._loaded, native_builds._kernel)

    def with_stand_ins(instructions: str) -> Path | None:
        return stand_in_libraries.get(instructions) or path(instructions)

    monkeypatch.setattr(native_builds, "_path", with_stand_ins)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="session")
def stand_in_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Builds for processors that are not here, as far as this one can run them."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("kernels")
    sources = sorted((Path(native_builds.__file__).parent / "csrc").glob("*.c"))
    common = ["-O3", "-fopenmp", "-shared", "-fPIC", "-mfma"]
    libraries = {}
    for name, (needs, flags) in STAND_INS.items():
        if not FLAGS[name] <= cpu_flags() and FLAGS[needs] <= cpu_flags():
            libraries[name] = folder / f"{name}.so"
            build = ["cc", *common, *flags, *sources, "-o", libraries[name], "-lm"]
            subprocess.run(build, check=True)
    return libraries


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
