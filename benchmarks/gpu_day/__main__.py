"""Everything that only a GPU can tell, in ten minutes: is it right, how fast, how much memory.

    python -m benchmarks.gpu_day [--out gpu-day] [--minutes 10] [--parts ...] [--again]

Needs torch and what the engine needs (transformers brings it), no network and no Ray. Each part
runs in a process of its own, within its own time; what it has found is written line by line, so
that neither a fault nor the end of its time costs more than what was still to come. `report.md` and
`report.json` are written again after each part. Run again, it goes on with the parts that have not
succeeded; --again runs all. Parts, the most telling first:

    tokens    a small model's tokens on clips of speech, in each precision, beside the CPU's
    kernels   each of our kernels beside torch's operators, and its time at large-v3's sizes
    speed     MLPerf's Offline shape: large-v3 and turbo, with and without kernels and graphs
    memory    peak memory beside the plan
    ranks     one model over two processes on this device, over gloo
    profile   where the time of a step goes, by kernel

`--device cpu --rehearse` runs all of it on a CPU with models of a few numbers, which proves the
command and measures nothing. The exit code is 1 if a part failed or ran out of its time.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_day import parts
from benchmarks.gpu_day.report import write_report
from engine.kernels.triton import VARIABLE

_SHARES = {
    "tokens": 0.15,
    "kernels": 0.15,
    "speed": 0.4,
    "memory": 0.1,
    "ranks": 0.1,
    "profile": 0.1,
}
"""Of the time, at most; what a part leaves is not spent by others."""
_TAIL_LINES = 15


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    if options.one:
        return _run_here(options)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = parts.facts(options.device) | {"rehearsal": options.rehearse}
    for name in options.parts:
        if _status(options.out, name) == "ok" and not options.again:
            print(f"{name}: done before", flush=True)
            continue
        done = _run_part(options, name)
        (options.out / f"{name}.json").write_text(json.dumps(done, indent=2))
        write_report(options.out, facts)
        print(f"{name}: {done['status']} in {done['seconds']:.0f} s", flush=True)
    write_report(options.out, facts)
    print(options.out / "report.md")
    return 0 if all(_status(options.out, name) == "ok" for name in options.parts) else 1


def _run_part(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Run a part in a process group of its own, which ends with its time."""
    rows = options.out / f"{name}.rows"
    rows.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_day", "--one", name, "--out", str(options.out)]
    command += ["--device", options.device, "--model", options.model]
    command += ["--rehearse"] if options.rehearse else []
    environment = dict(os.environ)
    if options.device == "cpu":  # where Triton's kernels can only be interpreted
        environment["TRITON_INTERPRET"] = "1"
    limit_s = 60 * options.minutes * _SHARES[name]
    start = time.monotonic()
    with (options.out / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    status = "out of time" if code is None else "ok" if code == 0 else "failed"
    lines = (options.out / f"{name}.log").read_text(errors="replace").splitlines()
    found = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    return {
        "part": name,
        "status": status,
        "seconds": time.monotonic() - start,
        "rows": found,
        "log": [] if status == "ok" else lines[-_TAIL_LINES:],
    }


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the part with all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _run_here(options: argparse.Namespace) -> int:
    """The part itself, in its own process."""
    is_right = True
    with (options.out / f"{options.one}.rows").open("w") as file:
        for row in parts.PARTS[options.one](options):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)
            is_right &= row.get("right", True)
    return 0 if is_right else 1


def _status(out: Path, name: str) -> str | None:
    try:
        found: str = json.loads((out / f"{name}.json").read_text())["status"]
    except FileNotFoundError:
        return None
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in _SHARES]
        if unknown:
            raise argparse.ArgumentTypeError(f"no part {unknown[0]!r}; {', '.join(_SHARES)}")
        return found

    parser = argparse.ArgumentParser(
        prog="gpu_day",
        description="Everything that only a GPU can tell.",
        epilog=f"{VARIABLE}=0 leaves our own kernels out.",
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-day"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--parts", type=names, default=list(_SHARES))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="demo:tiny.en", help="for tokens; a name or a folder")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--one", choices=list(_SHARES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --device cpu --rehearse tries the command")
    return options


if __name__ == "__main__":
    sys.exit(main())
