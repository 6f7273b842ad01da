"""Other Ray jobs on the cluster, ffmpeg's threads, and readiness. Most need our own server."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from tests.field.answers import Answer
from tests.field.audio import DATA, five, say
from tests.field.case import COMMAND_LINE, CallCase, Case, Seen, World
from tests.field.checks import Heard
from tests.field.media import FFMPEG, encode, write

_SCRIPTS = Path(__file__).parents[1] / "scripts"
_STOP_S = 10.0
_BUSY_TIMEOUT_S = 90.0
_HALF_MINUTES = 30
_HALF_MINUTES_OF_JOB = 240
"""Minutes of work, so that it does not end by itself in the time that is measured."""
_PYTHONS_OWN = {"ValueError", "RuntimeError", "TimeoutError"}


def _long(folder: Path, suffix: str, times: int) -> Path:
    samples = np.tile(np.append(five().samples, np.zeros(16_000)), times)
    path = folder / f"long.{suffix}"
    return write(path, samples) if suffix == "wav" else encode(path, samples)


def _plain_job(world: World) -> Seen:
    server = world.own_server()
    done = subprocess.run(
        [world.command_line.python, _SCRIPTS / "plain_job.py", DATA / "librivox-0870.wav"],
        env=server.joined(),
        cwd=world.folder,
        capture_output=True,
        text=True,
        timeout=180,
    )
    if done.returncode != 0 or not done.stdout.strip():
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return Seen(last[:160], (f"the job failed: {last[:160]}",))
    told = json.loads(done.stdout.splitlines()[-1])
    result = told.pop("result")
    if "text" not in result:
        return Seen(str(result)[:160], (f"no result: {result['message'].splitlines()[-1]}",))
    faults = Heard(say("C").said, times=False).faults(Answer(200, result["text"]))
    for name, word in (("no such model", "no-such-model"), ("no audio", "audio"),
                       ("no such option", "colour")):  # fmt: skip
        error = told[name]
        message = error.get("message", "")
        if not _PYTHONS_OWN & set(error.get("kinds", ())) or "No module named" in message:
            faults.append(f"{name}: {error.get('kinds', ['none'])[0]} {message[-120:]!r}")
        elif word not in message:
            faults.append(f"{name}: {word!r} is not in {message[-120:]!r}")
    return Seen(f"{result['kind']} with {result['keys']}; {told}"[:300], tuple(faults))


def _killed_job(world: World) -> Seen:
    server, http = world.own_server(), world.served()
    path = _long(world.folder, "wav", _HALF_MINUTES_OF_JOB)
    said = world.folder / "job.err"
    job = subprocess.Popen(
        [world.command_line.python, _SCRIPTS / "long_job.py", path, "base"],
        env=server.joined(),
        cwd=world.folder,
        stdout=subprocess.DEVNULL,
        stderr=said.open("w"),
    )
    try:
        busy = _wait(lambda: _load(http.get("/v1/cluster")) > 0, _BUSY_TIMEOUT_S)
        ended = job.poll() is not None
    finally:
        job.kill()
        job.wait()
    if busy is None or ended:
        last = (said.read_text().strip().splitlines() or ["nothing"])[-1]
        return Seen(f"the job said {last[:160]}", ("its work was not seen in /v1/cluster",))
    idle = _wait(lambda: _load(http.get("/v1/cluster")) == 0, 4 * _STOP_S)
    path.unlink()
    if idle is None:
        return Seen(f"still at work {4 * _STOP_S:g} s later", ("the work goes on",))
    faults = () if idle <= _STOP_S else (f"idle only after {idle:.1f} s",)
    return Seen(f"idle {idle:.1f} s after the kill", faults)


def _load(answer: Answer) -> float:
    """Queued audio plus slots in use; 0 if the cluster is idle."""
    return sum(t["queued_audio_s"] + t["slots_in_use"] for t in answer.body["tiers"])


def _wait(holds: Callable[[], bool], timeout_s: float) -> float | None:
    """Seconds until a condition holds; None if it does not within the time limit."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < timeout_s:
        if holds():
            return waited
        time.sleep(0.25)
    return None


def _threads_by_hand(path: Path) -> int:
    """The threads of an ffmpeg that decodes on one thread, including those that it always has."""
    command = [FFMPEG, "-loglevel", "error", "-threads", "1", "-filter_threads", "1", "-i", path,
               *("-threads", "1", "-f", "s16le", "-")]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        time.sleep(1.0)  # it blocks, because nobody reads its output
        n = psutil.Process(process.pid).num_threads()
        process.kill()
    return n


def _ffmpeg_threads(world: World) -> Seen:
    path = _long(world.folder, "flac", _HALF_MINUTES)
    bound = _threads_by_hand(path)
    with _started(world, path) as process:
        most = _most_threads(process)
    path.unlink()
    if most is None:
        return Seen("no ffmpeg is used")
    return Seen(f"{most} threads, {bound} by hand", () if most <= bound else (f"{most} > {bound}",))


@contextmanager
def _started(world: World, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = [world.command_line.murmur, "transcribe", "--model", "demo:tiny.en", path]
    process = subprocess.Popen(
        command,
        cwd=world.folder,
        env=world.command_line.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _most_threads(process: "subprocess.Popen[bytes]") -> int | None:
    """The most threads seen in an ffmpeg below a process; None if none was seen."""
    most, deadline = None, time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        found = [n for child in psutil.Process(process.pid).children(recursive=True)
                 if (n := _threads_of_ffmpeg(child))]  # fmt: skip
        if not found and most is not None:
            return most
        most = max([most or 0, *found]) or None
        time.sleep(0.01)
    return most


def _threads_of_ffmpeg(process: psutil.Process) -> int:
    try:
        return process.num_threads() if "ffmpeg" in Path(process.exe()).name else 0
    except psutil.Error:
        return 0


def _ready(world: World) -> Seen:
    status, body = world.own_server().ready
    return Seen(f"{status} {body}", () if status == 200 else (f"status {status}",))


CASES: list[Case] = [
    CallCase("server/readyz right behind up", "200", _ready),
    CallCase(
        "job/without the package",
        "options as a mapping; the words; errors of Python's own kinds that name the mistake",
        _plain_job,
    ),
    CallCase(
        "job/killed",
        f"its work stops within {_STOP_S:g} s, as GET /v1/cluster tells",
        _killed_job,
    ),
    CallCase(
        "ffmpeg/threads while a FLAC is read",
        "as many as with -threads 1 by hand",
        _ffmpeg_threads,
        COMMAND_LINE,
    ),
]
