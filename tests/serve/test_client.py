"""The client over HTTP, where the environment names a proxy."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from websockets.sync.server import ServerConnection, serve

from deployments.errors import DeploymentError
from deployments.replicas.ports import free_port
from serve.client import ServerError, connect
from tests.conftest import DATA


class _Refuses(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"error": {"message": "no key", "param": null, "code": null}}')

    def log_message(self, *arguments: object) -> None:
        """Not to the standard error."""


@pytest.fixture
def port() -> Iterator[int]:
    """That of a server on this machine, which refuses everybody."""
    with HTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_asked_without_a_proxy(
    port: int, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # where nobody listens
    with (
        connect(f"http://{host}:{port}") as client,
        pytest.raises(ServerError, match="401: no key"),
    ):
        client.transcribe(DATA / "librivox-0870.wav")


def test_other_machines_are_asked_through_it(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with connect("http://192.0.2.1:9") as client, pytest.raises(httpx2.ConnectError):
        client.transcribe(DATA / "librivox-0870.wav")


def test_live_speech_goes_to_this_machine_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    keys: list[str | None] = []

    def refuse(socket: ServerConnection) -> None:
        assert socket.request is not None
        keys.append(socket.request.headers.get("authorization"))
        socket.close(3000, "invalid_api_key")

    with serve(refuse, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        try:
            with (
                connect(f"http://127.0.0.1:{port}", api_key="sk-none") as client,
                pytest.raises(DeploymentError, match="invalid_api_key"),
            ):
                list(client.live([]))
        finally:
            server.shutdown()
            thread.join()
    assert keys == ["Bearer sk-none"], "it is not asked again"
