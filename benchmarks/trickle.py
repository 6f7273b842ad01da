"""Whether uploads that trickle hold up good clients.

    python -m benchmarks.trickle [--connections 400] [--clients 3] [--seconds 20] [--rounds 3]

A real cluster on this machine with tiny.en, one replica. A few clients send a clip again and again,
in turns without and with many connections that have begun an upload and send a byte of it every
second. A connection that is answered, or closed, begins again. Prints how long the good clients'
requests take, then one JSON line. All of them share this machine, an address and no key, so only
their speed tells them apart.
"""

import argparse
import json
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from urllib.parse import urlsplit

import httpx2

from benchmarks.clusters import serving, speech, wav

_CLIP_S = 7.0
_BEGIN_S = 5.0
"""Until all connections have begun."""
_HEAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: here\r\ncontent-length: 1000000\r\n"
    b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One half of a round. `begun`: connections of slow uploads, those that began again included;
    `refused`: requests of good clients that were not answered with 200, after which a client waits
    as long as it is told to (it counts in the time of its request)."""

    slow: int
    p50_ms: float
    p95_ms: float
    answered: int
    refused: int
    begun: int


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    tier = {"name": "bench", "model": "demo:tiny.en"}
    rows: list[Row] = []
    with serving({"tiers": [tier], "http": {"haproxy": options.proxy == "haproxy"}}) as url:
        _load(url, options.clients, 3.0)
        for round_number in range(options.rounds):
            order = (0, options.connections) if round_number % 2 else (options.connections, 0)
            for n_slow in order:
                rows.append(_half(url, n_slow, options))
                print(_line(rows[-1]), flush=True)
    with_slow, without = (
        median(row.p50_ms for row in rows if bool(row.slow) == is_slow) for is_slow in (True, False)
    )
    print(f"p50 with slow uploads / without: {with_slow / without:.2f}")
    print(json.dumps([asdict(row) for row in rows]))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=400)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--proxy", choices=("haproxy", "python"), default="haproxy")
    return parser.parse_args(arguments)


def _half(url: str, n_slow: int, options: argparse.Namespace) -> Row:
    with _slow_uploads(url, n_slow) as begun:
        if n_slow:
            time.sleep(_BEGIN_S)
        took_ms, n_refused = _load(url, options.clients, options.seconds)
    if not took_ms:
        raise SystemExit(f"no request was answered, and {n_refused} were refused")
    ordered = sorted(took_ms)
    return Row(
        slow=n_slow,
        p50_ms=round(median(ordered), 1),
        p95_ms=round(ordered[int(0.95 * (len(ordered) - 1))], 1),
        answered=len(ordered),
        refused=n_refused,
        begun=len(begun),
    )


def _load(url: str, n_clients: int, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of each request that was answered, and how many others there were."""
    body, end = wav(speech(_CLIP_S)), time.monotonic() + seconds

    def send_until_the_end(_: int) -> tuple[list[float], int]:
        took_ms, n_refused, began = list[float](), 0, time.perf_counter()
        with httpx2.Client(base_url=url, timeout=120, trust_env=False) as client:
            while time.monotonic() < end:
                wait_s = _send(client, body)
                if wait_s is None:
                    took_ms.append(1000 * (time.perf_counter() - began))
                    began = time.perf_counter()
                else:
                    n_refused += 1
                    time.sleep(wait_s)
        return took_ms, n_refused

    with ThreadPoolExecutor(n_clients) as pool:
        parts = list(pool.map(send_until_the_end, range(n_clients)))
    return [each for took_ms, _ in parts for each in took_ms], sum(n for _, n in parts)


def _send(client: httpx2.Client, body: bytes) -> float | None:
    """Seconds to wait before the clip is sent again; None: it was answered."""
    form, files = {"model": "bench"}, {"file": ("a.wav", body)}
    try:
        answer = client.post("/v1/audio/transcriptions", data=form, files=files)
    except httpx2.TransportError:
        return 1.0
    if answer.status_code == 200:
        return None
    return float(answer.headers.get("retry-after", 1))


@contextmanager
def _slow_uploads(url: str, n: int) -> Iterator[list[float]]:
    """Trickle within this context. Gives the times at which connections began."""
    parts, end, begun = urlsplit(url), threading.Event(), list[float]()
    address = (parts.hostname or "", parts.port or 0)
    threads = [
        threading.Thread(target=_trickle, args=(address, end, begun), daemon=True) for _ in range(n)
    ]
    for thread in threads:
        thread.start()
    try:
        yield begun
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _trickle(address: tuple[str, int], end: threading.Event, begun: list[float]) -> None:
    while not end.is_set():
        try:
            with socket.create_connection(address, timeout=5) as connection:
                begun.append(time.monotonic())
                connection.sendall(_HEAD)
                while not end.wait(1.0):
                    if select.select([connection], [], [], 0)[0]:
                        break
                    connection.sendall(b"x")
        except OSError:  # it was ended
            end.wait(1.0)


def _line(row: Row) -> str:
    return (
        f"{row.slow:4} slow uploads ({row.begun} begun): {row.p50_ms:.0f} / {row.p95_ms:.0f} ms, "
        f"{row.answered} answered, {row.refused} not"
    )


if __name__ == "__main__":
    main()
