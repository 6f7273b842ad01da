"""What `murmur doctor` says of NVIDIA GPUs: the hardware, its driver, torch, our kernels."""

import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from os import environ
from pathlib import Path

import torch

from engine.kernels.triton import VARIABLE
from engine.precision import Arithmetic
from serve.commands.findings import Finding, fault, note, ok

_DEVICES = Path("/dev")
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA = "0x10de"
_DISPLAYS = ("0x0300", "0x0302")
"""PCI classes of graphics cards and of accelerators without a screen."""
_TIMEOUT_S = 60.0
_COLUMNS = "name,memory.total,driver_version,compute_cap"
_OLDEST = (7, 5)
"""What current builds of torch are compiled for."""


def check_gpus() -> Iterator[Finding]:
    """Nothing is wrong with a machine that has no GPU."""
    driver = _driver()
    if not _has_hardware() and not driver:
        yield ok("GPU", "none of NVIDIA's; models run on the CPU")
        return
    if not driver:
        yield fault("GPU", "an NVIDIA GPU, but its driver does not answer", _driver_mend())
        return
    yield ok("GPU driver", driver[0][2])
    reason = _torch_fault()
    if reason is not None:
        yield reason
        return
    yield ok("CUDA", f"torch {torch.__version__}, built for CUDA {torch.version.cuda}")
    for index in range(torch.cuda.device_count()):
        yield _gpu(index)
    yield _kernels()


def _has_hardware() -> bool:
    if (_DEVICES / "nvidia0").exists():
        return True
    return any(
        _read(device / "vendor") == _NVIDIA and _read(device / "class")[:6] in _DISPLAYS
        for device in _PCI.glob("*")
    )


def _driver() -> list[list[str]]:
    """What the driver says of each GPU: name, MiB, driver's version and compute capability."""
    command = ["nvidia-smi", f"--query-gpu={_COLUMNS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]
    return [row for row in rows if len(row) == len(_COLUMNS.split(","))]


def _driver_mend() -> str:
    if Path("/.dockerenv").exists() or "KUBERNETES_SERVICE_HOST" in environ:
        return "start the container with the GPU: docker run --gpus all, or nvidia.com/gpu: 1"
    if shutil.which("nvidia-smi"):
        return "nvidia-smi says why; after an update of the driver: sudo reboot"
    return "sudo apt-get install -y ubuntu-drivers-common && sudo ubuntu-drivers install"


def _torch_fault() -> Finding | None:
    """Why torch cannot use the GPU."""
    pinned = version("torch").partition("+")[0]
    if torch.version.cuda is None:
        install = (
            f"pip install --force-reinstall --index-url https://pypi.org/simple torch=={pinned}"
        )
        return fault("CUDA", f"torch {torch.__version__} is built for CPUs alone", install)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return None
    said = str(caught[0].message).splitlines()[0] if caught else "torch finds no device"
    mend = f"a driver for CUDA {torch.version.cuda} or newer, or a torch built for the driver's"
    return fault("CUDA", f"torch {torch.__version__}: {said}", mend)


def _gpu(index: int) -> Finding:
    name = f"GPU {index}"
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    arithmetic = Arithmetic.of_gpu(properties.name, capability)
    text = (
        f"{properties.name}, {properties.total_memory / 1e9:.1f} GB, compute capability "
        f"{capability[0]}.{capability[1]}: {arithmetic.default}"
    )
    if capability < _OLDEST:
        return fault(name, text, f"a GPU of compute capability {_OLDEST[0]}.{_OLDEST[1]} or newer")
    try:
        torch.ones(1, device=f"cuda:{index}").item()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return fault(name, f"{text}; it cannot be used: {reason}", "nvidia-smi shows who holds it")
    return ok(name, text)


def _kernels() -> Finding:
    """Whether our own kernels can be compiled; whether they are right is seen at first use."""
    name = "GPU kernels"
    if environ.get(VARIABLE) == "0":
        return note(name, f"turned off by {VARIABLE}=0", f"unset {VARIABLE}")
    if not find_spec("triton"):
        return note(name, "Triton is missing: torch's operators do all", "pip install triton")
    compiler = environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not compiler or not headers.exists():
        lacks = "no C compiler" if not compiler else "no Python.h"
        install = "sudo apt-get install -y gcc libc6-dev python3-dev"
        return note(name, f"{lacks}, so that torch's operators do all", install)
    return ok(name, f"Triton {version('triton')}")


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return ""
