"""Which native kernels are compiled, chosen and run."""

import platform
import shutil
from pathlib import Path

import pytest
import torch

from engine.kernels import native, native_builds
from tests.support.native_builds import CPU, FLAGS, cpu_flags


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="another processor")
@pytest.mark.parametrize("instructions", native_builds.INSTRUCTIONS)
def test_they_are_compiled_where_they_can_be(instructions: str) -> None:
    """Their compilation is optional, so a mistake in them would else pass unseen."""
    assert list(Path(native.__file__).parent.glob(f"_native_{instructions}.*"))
    with native_builds.limited_to(instructions):
        assert native_builds.serves(CPU) == (cpu_flags() >= FLAGS[instructions])


def test_the_best_that_a_processor_has_is_chosen() -> None:
    runs = [name for name in native_builds.INSTRUCTIONS if cpu_flags() >= FLAGS[name]]
    assert native_builds.in_use() == (runs[0] if runs else None)


def test_they_serve_no_other_device() -> None:
    assert not native_builds.serves(torch.device("cuda"))
