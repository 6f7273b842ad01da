"""`murmur doctor`: what this machine has, what models will use of it, and what mends what is
missing."""

import json
from dataclasses import asdict

import torch

from engine.kernels import native_builds
from engine.precision import default_precision
from serve.commands.exit_codes import EXIT_FAILED, EXIT_OK
from serve.commands.findings import Finding, State
from serve.commands.gpu_check import check_gpus
from serve.commands.machine_check import check_machine


def doctor(as_json: bool, offline: bool) -> int:
    """Look at everything, and print it.

    Returns:
        EXIT_FAILED if something that this machine is for does not work.
    """
    findings = [*check_gpus(), *check_machine(offline)]
    has_fault = any(finding.state is State.FAULT for finding in findings)
    uses = _uses(findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        print(json.dumps({"ok": not has_fault, "uses": uses, "findings": rows}, indent=2))
    else:
        _print(findings, uses)
    return EXIT_FAILED if has_fault else EXIT_OK


def _uses(findings: list[Finding]) -> dict[str, str]:
    """What a model runs on if nothing else is asked for."""
    on_gpu = torch.cuda.is_available() and not any(
        finding.state is State.FAULT and finding.name.startswith("GPU") for finding in findings
    )
    device = torch.device("cuda" if on_gpu else "cpu")
    kernels = native_builds.in_use() or "torch"
    if on_gpu:
        triton = next(finding for finding in findings if finding.name == "GPU kernels")
        kernels = "triton" if triton.state is State.OK else "torch"
    return {"device": device.type, "precision": str(default_precision(device)), "kernels": kernels}


def _print(findings: list[Finding], uses: dict[str, str]) -> None:
    width = max(len(finding.name) for finding in findings) + 2
    for finding in findings:
        print(f"{finding.state:<7}{finding.name:<{width}}{finding.found}")
        if finding.mend is not None:
            print(f"{'':<{7 + width}}mend: {finding.mend}")
    print()
    print(
        f"Models run on {uses['device']} in {uses['precision']}, with kernels of "
        f"{uses['kernels']}, unless something else is asked for."
    )
    wrong = [finding.name for finding in findings if finding.state is State.FAULT]
    if wrong:
        print(f"What this machine is for does not work yet: {', '.join(wrong)}.")
