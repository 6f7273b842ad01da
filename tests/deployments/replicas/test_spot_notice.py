"""What clouds' metadata services say of spot machines, by small servers that speak as they do."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from deployments.replicas.ports import free_port
from deployments.replicas.spot_notice import AwsMetadata, GcpMetadata, wait_for_notice

DEADLINE = "2026-09-18T08:22:00Z"
DEADLINE_S = 1789719720.0


class Metadata(HTTPServer):
    """Answers as a cloud does; by default the machine stays."""

    action: str | None = None
    token = "first"
    preempted = "FALSE"
    tokens_given = 0


class Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token":
            return self.answer(404)
        lifetime = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", 0))
        self.server.tokens_given += 1
        return self.answer(200, self.server.token) if 1 <= lifetime <= 21600 else self.answer(400)

    def do_GET(self) -> None:
        if self.path == "/computeMetadata/v1/instance/preempted":
            if self.headers.get("Metadata-Flavor") != "Google":
                return self.answer(403)
            return self.answer(200, self.server.preempted)
        if self.headers.get("X-aws-ec2-metadata-token") != self.server.token:
            return self.answer(401)
        if self.path != "/latest/meta-data/spot/instance-action" or self.server.action is None:
            return self.answer(404)
        return self.answer(200, self.server.action)

    def answer(self, code: int, body: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def served(port: int = 0) -> Iterator[tuple[Metadata, str]]:
    with Metadata(("127.0.0.1", port), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server, f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def metadata() -> Iterator[tuple[Metadata, str]]:
    with served() as found:
        yield found


def test_a_machine_of_aws_stays_and_then_goes(metadata: tuple[Metadata, str]) -> None:
    server, host = metadata
    service = AwsMetadata(f"http://{host}")
    assert service.notice() is None
    server.action = json.dumps({"action": "terminate", "time": DEADLINE})
    notice = service.notice()
    assert notice is not None and notice.deadline == DEADLINE_S
    assert server.tokens_given == 1


def test_a_token_that_no_longer_counts_is_replaced(metadata: tuple[Metadata, str]) -> None:
    server, host = metadata
    service = AwsMetadata(f"http://{host}")
    assert service.notice() is None
    server.token = "second"
    with pytest.raises(OSError, match="401"):
        service.notice()
    assert service.notice() is None and server.tokens_given == 2


def test_hibernation_has_no_time(metadata: tuple[Metadata, str]) -> None:
    server, host = metadata
    server.action = json.dumps({"action": "hibernate"})
    notice = AwsMetadata(f"http://{host}").notice()
    assert notice is not None and 0 < notice.deadline - time.time() <= 120


@pytest.mark.parametrize("answer", ["[]", "{}", "no JSON", '{"action": "dance", "time": "now"}'])
def test_an_answer_that_means_nothing_is_no_notice(
    answer: str, metadata: tuple[Metadata, str]
) -> None:
    server, host = metadata
    server.action = answer
    with pytest.raises(ValueError):
        AwsMetadata(f"http://{host}").notice()


def test_a_machine_of_google_stays_and_then_goes(metadata: tuple[Metadata, str]) -> None:
    server, host = metadata
    service = GcpMetadata(host, clock=lambda: 1000.0)
    assert service.notice() is None
    server.preempted = "TRUE\n"
    notice = service.notice()
    assert notice is not None and notice.deadline == 1030.0
    server.preempted = "<html>"
    with pytest.raises(ValueError, match="<html>"):
        service.notice()


def test_clouds_own_variables_name_the_host(
    metadata: tuple[Metadata, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, host = metadata
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{host}/")
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # which must not be asked
    assert AwsMetadata().notice() is None and GcpMetadata().notice() is None


def test_waiting_outlasts_a_service_that_is_away() -> None:
    said: list[str] = []
    steps: list[float] = []
    with ExitStack() as servers:
        service = AwsMetadata(f"http://127.0.0.1:{(port := free_port())}")

        def sleep(seconds: float) -> None:
            steps.append(seconds)
            if len(steps) == 3:
                server, _ = servers.enter_context(served(port))
                server.action = json.dumps({"action": "stop", "time": DEADLINE})

        notice = wait_for_notice(service, 2.5, said.append, sleep)
    assert notice.deadline == DEADLINE_S and steps == [2.5] * 3
    assert len(said) == 1 and "refused" in said[0]
