"""Many large uploads at once: how much memory they take of the processes that they pass.

    python -m benchmarks.uploads [--clients 20] [--mb 100] [--before CHECKOUT]

Each upload is a WAV file whose samples, 3 s of speech, come after a chunk of so many megabytes that
a reader skips: all of it has to arrive, and little of it is work. Clients are patient: one that is
refused waits for as long as `retry-after` says and sends its upload again. Memory is what the
processes of
HTTP (Ray's proxy or HAProxy) and the ingress hold of their own (USS), looked at every 50 ms, and
less what they held before. With `--before`, the same is done first with another checkout of this
repository.
"""

import argparse
import http.client
import json
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.clusters import serving, speech, wav

_PARTS = {
    "proxy": ("ray::ProxyActor", "ray::HAProxyManager"),
    "haproxy": ("haproxy -db", "bin/haproxy"),
    "ingress": ("ray::ServeReplica:murmur:Ingress",),
}
"""Processes by how their command lines begin."""
_MARK = "UPLOADS_BENCHMARK"
"""In the environment of all processes of our own cluster: there may be others on this machine."""
_LOOK_S = 0.05
_GIVE_UP_S = 600.0
_BOUNDARY = "murmur-benchmark"


@dataclass(frozen=True, slots=True)
class Row:
    """One trial. Memory is the most that was seen, in MB beyond what there was before."""

    code: str
    proxy: str
    seconds: float
    mb_per_s: float
    answered: int
    refusals: int
    peak_mb: dict[str, float]
    sum_mb: float


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    os.environ[_MARK] = str(os.getpid())
    checkouts = {"now": Path(__file__).parents[1]}
    if options.before:
        checkouts = {"before": options.before.resolve(), **checkouts}
    rows = []
    for proxy in options.proxies.split(","):
        for name, checkout in checkouts.items():
            rows.append(_trial(name, checkout, proxy, options.clients, options.mb))
            print(_line(rows[-1]), flush=True)
    print(json.dumps([asdict(row) for row in rows]))


def _trial(name: str, checkout: Path, proxy: str, n_clients: int, n_mb: int) -> Row:
    settings = {
        "tiers": [{"name": "bench", "model": "demo:tiny.en"}],
        "http": {"haproxy": proxy == "haproxy"},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.wav"
        _write_large(path, n_mb)
        with serving(settings, code=checkout) as url:
            _send(url, path)  # what is loaded once is no part of what uploads take
            with _watched() as most:
                began = time.perf_counter()
                with ThreadPoolExecutor(n_clients) as pool:
                    refusals = [*pool.map(lambda _: _send(url, path), range(n_clients))]
                took = time.perf_counter() - began
    return Row(
        code=name,
        proxy=proxy,
        seconds=round(took, 1),
        mb_per_s=round(n_clients * n_mb / took, 1),
        answered=len(refusals),
        refusals=sum(refusals),
        peak_mb={part: round(most[part], 1) for part in _PARTS},
        sum_mb=round(most["sum"], 1),
    )


def _write_large(path: Path, n_mb: int) -> None:
    small = wav(speech(3.0))
    skipped = n_mb * 10**6
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", len(small) + skipped) + b"WAVE")
        file.write(b"JUNK" + struct.pack("<I", skipped))
        for _ in range(n_mb):
            file.write(bytes(10**6))
        file.write(small[12:])


def _send(url: str, path: Path) -> int:
    """Upload a file until it is answered; returns how often it was refused."""
    deadline, n_refused = time.monotonic() + _GIVE_UP_S, 0
    while True:
        status, wait_s, words = _send_once(url, path)
        if status == 200:
            return n_refused
        if status != 429 or time.monotonic() > deadline:
            raise RuntimeError(f"{status}: {words}")
        n_refused += 1
        time.sleep(wait_s)


def _send_once(url: str, path: Path) -> tuple[int, float, str]:
    """Status, seconds to wait, body. Like most clients, reads the answer when all is sent or the
    connection breaks."""
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nbench\r\n'
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    ).encode()
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_GIVE_UP_S)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("content-type", f"multipart/form-data; boundary={_BOUNDARY}")
    connection.putheader("content-length", str(len(head) + path.stat().st_size + len(tail)))
    connection.endheaders()
    try:
        with path.open("rb") as file:
            connection.send(head)
            connection.send(file)
            connection.send(tail)
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of it was there; the answer may be here all the same
    try:
        answer = connection.getresponse()
        words = answer.read().decode(errors="replace")
        return answer.status, float(answer.headers.get("retry-after", 1)), words[:200]
    except (ConnectionError, http.client.HTTPException):
        return 429, 1.0, "the connection broke"
    finally:
        connection.close()


@contextmanager
def _watched() -> Iterator[dict[str, float]]:
    """The most memory of each part and of all of them at once, in MB beyond the present; complete
    at the end of the context."""
    processes = {part: _processes(names) for part, names in _PARTS.items()}
    if not processes["ingress"]:
        raise RuntimeError("the ingress's process is not found")
    before = {part: _own_mb(found) for part, found in processes.items()}
    most = dict.fromkeys([*_PARTS, "sum"], 0.0)
    end = threading.Event()

    def look() -> None:
        while not end.wait(_LOOK_S):
            now = {part: _own_mb(found) - before[part] for part, found in processes.items()}
            for part, megabytes in [*now.items(), ("sum", sum(now.values()))]:
                most[part] = max(most[part], megabytes)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        end.set()
        watcher.join()


def _processes(names: Sequence[str]) -> list[psutil.Process]:
    """Those of our cluster whose command line has one of these names in its first two words."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it has ended, or is another user's
            words = " ".join(process.cmdline()[:2])
            if any(name in words for name in names):
                if process.environ().get(_MARK) == os.environ[_MARK]:
                    found.append(process)
    return found


def _own_mb(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def _line(row: Row) -> str:
    parts = ", ".join(f"{part} {megabytes:.0f}" for part, megabytes in row.peak_mb.items())
    return (
        f"{row.code:6} {row.proxy:7} {row.answered} answered, {row.refusals} refusals, "
        f"{row.seconds:.0f} s, {row.mb_per_s:.0f} MB/s; memory: {parts}; all {row.sum_mb:.0f} MB"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory of many large uploads at once.")
    parser.add_argument("--clients", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--mb", type=int, default=100, help="of each upload (%(default)s)")
    parser.add_argument("--proxies", default="python,haproxy", help="(%(default)s)")
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
