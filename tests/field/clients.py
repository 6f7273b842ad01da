"""The two interfaces: HTTP, and the `murmur` command as a subprocess."""

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.field.answers import Answer, Warned

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
_TIMEOUT_S = 180.0
_COMMAND_TIMEOUT_S = 400.0
Fields = Mapping[str, str | list[str]]


class Http:
    """A server at an address."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._client = httpx2.Client(base_url=self.url, timeout=_TIMEOUT_S)

    def get(self, path: str) -> Answer:
        return _answer(self._client.get(path))

    def transcribe(
        self,
        audio: Path | bytes,
        fields: Fields,
        route: str = TRANSCRIPTIONS,
        name: str | None = None,
    ) -> Answer:
        """Send a file as most clients do."""
        content = audio if isinstance(audio, bytes) else audio.read_bytes()
        named = name or (audio.name if isinstance(audio, Path) else "audio.wav")
        sent = self._client.post(route, data=dict(fields), files={"file": (named, content)})
        return _answer(sent)

    def raw(self, body: bytes, boundary: str, route: str = TRANSCRIPTIONS) -> Answer:
        """Send a body as it is."""
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        return _answer(self._client.post(route, content=body, headers=headers))

    def begin(self, body: bytes, boundary: str) -> socket.socket:
        """Send a whole body. The caller may read the answer from the returned connection."""
        address = urlsplit(self.url)
        head = request_head(self.url, len(body), boundary)
        connection = socket.create_connection((address.hostname, address.port), _TIMEOUT_S)
        connection.sendall(head + body)
        return connection

    def stream(self, audio: bytes, fields: Fields) -> Any:
        """A context manager that gives the answer as it arrives."""
        return self._client.stream(
            "POST", TRANSCRIPTIONS, data=dict(fields), files={"file": ("a.wav", audio)}
        )


class CommandLine:
    """A `murmur` command, given by its path.

    Args:
        folder: where it runs: outside any work tree, so that it imports only its own code.
    """

    def __init__(self, murmur: Path, folder: Path) -> None:
        self.murmur, self.folder = murmur, folder
        self.environment = clean_environment()

    @property
    def python(self) -> Path:
        """The Python interpreter beside the command, which has the command's packages."""
        return self.murmur.parent / "python"

    def run(
        self, *arguments: str | Path, timeout_s: float = 120.0
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command. If it does not end in time, the result has exit code -1."""
        command = [str(self.murmur), *map(str, arguments)]
        try:
            return subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            words = f"no end after {timeout_s:g} s"
            return subprocess.CompletedProcess(command, -1, str(error.stdout or ""), words)

    def transcribe(self, files: Sequence[Path], options: Sequence[str]) -> dict[Path, Answer]:
        """Transcribe all files with one engine; returns an answer for each."""
        common = ("transcribe", "--format", "verbose_json", *options)
        done = self.run(*common, *files, timeout_s=_COMMAND_TIMEOUT_S)
        bodies = {}
        for line in _objects(done.stdout.splitlines()):
            bodies[line.pop("file", str(files[0]))] = line
        exit_code = done.returncode if len(files) == 1 else None
        return {file: _of_command(str(file), bodies, exit_code, done.stderr) for file in files}


def clean_environment() -> dict[str, str]:
    """Our environment, without variables that would change how the tried program behaves."""
    ours = ("RAY_", "MURMUR", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def request_head(url: str, n_bytes: int, boundary: str) -> bytes:
    """The head of a transcription request whose body has `n_bytes` bytes."""
    address = urlsplit(url)
    return (
        f"POST {address.path}{TRANSCRIPTIONS} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n"
        f"Content-Length: {n_bytes}\r\n\r\n"
    ).encode()


def multipart(
    parts: Iterable[tuple[str, bytes]], boundary: str | None = None, line_end: bytes = b"\r\n"
) -> tuple[bytes, str]:
    """Build a body from pairs of headers and content; returns it and its boundary."""
    boundary = boundary or uuid.uuid4().hex
    rule = b"--" + boundary.encode()
    body = b""
    for headers, content in parts:
        head = headers.encode().replace(b"\n", line_end)
        body += rule + line_end + head + line_end * 2 + content + line_end
    return body + rule + b"--" + line_end, boundary


def field(name: str, value: str) -> tuple[str, bytes]:
    """A part of `multipart`."""
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def _answer(answer: Any) -> Answer:
    return Answer(answer.status_code, answer.text, dict(answer.headers))


def _of_command(file: str, bodies: Mapping[str, Any], exit_code: int | None, stderr: str) -> Answer:
    events = [e for e in _objects(stderr.splitlines()) if e.get("file") in (None, file)]
    told = tuple(
        Warned(e.get("code", ""), e.get("message", ""), e.get("start_s"), e.get("end_s"))
        for e in events
        if e.get("event") == "warning"
    )
    errors = [e for e in events if e.get("event") == "error"]
    failed = errors or file not in bodies or exit_code not in (None, 0, 3)
    words = " ".join(str(e.get("reason", e)) for e in errors)
    return Answer(
        422 if failed else 200,
        json.dumps(bodies.get(file, {})),
        exit_code=exit_code,
        stderr=words or (stderr if failed else ""),
        told=told,
    )


def _objects(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
