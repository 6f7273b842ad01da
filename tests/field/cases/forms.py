"""Request bodies of odd clients and from broken connections."""

import socket
from functools import partial
from urllib.parse import urlsplit

from tests.field.answers import Answer
from tests.field.audio import DATA, say
from tests.field.case import HTTP, MODEL, CallCase, Case, Seen, World, asked
from tests.field.checks import Either, Heard, Refused
from tests.field.clients import field, multipart, request_head

_WAV = (DATA / "librivox-0870.wav").read_bytes()
_HEARD = Heard(say("C").said, times=False)
_MODEL = field("model", MODEL)
_FILE = ('Content-Disposition: form-data; name="file"; filename="a.wav"', _WAV)
_HEAD = 'Content-Disposition: form-data; name="file"'
_TYPE = "Content-Type: audio/wav"
_ANSWER_S = 20.0
Part = tuple[str, bytes]


def _send(world: World, *parts: Part, line_end: bytes = b"\r\n", before: bytes = b"") -> Answer:
    body, boundary = multipart(parts, line_end=line_end)
    return world.served().raw(before + body, boundary)


def _named(head: str) -> "partial[Answer]":
    return partial(_send_all, parts=((head, _WAV), _MODEL))


def _send_all(world: World, parts: tuple[Part, ...]) -> Answer:
    return _send(world, *parts)


def _without_end(world: World) -> Answer:
    """A body of the promised length that lacks the form's last boundary."""
    body, boundary = multipart([_MODEL, _FILE])
    return world.served().raw(body[: len(body) // 2], boundary)


def _cut_off(world: World) -> Seen:
    """The client stops sending in the middle of the file, but still listens for an answer."""
    http = world.served()
    body, boundary = multipart([_MODEL, _FILE])
    address = urlsplit(http.url)
    head = request_head(http.url, len(body), boundary)
    with socket.create_connection((address.hostname, address.port), _ANSWER_S) as connection:
        connection.sendall(head + body[: len(body) // 2])
        connection.shutdown(socket.SHUT_WR)
        answered = connection.recv(1_000).decode(errors="replace")
    after = http.transcribe(_WAV, {"model": MODEL})
    faults = [*_HEARD.faults(after)]
    if answered and " 400 " not in answered.splitlines()[0]:
        faults.append(f"answered {answered.splitlines()[0]}")
    return Seen(answered.splitlines()[0] if answered else "closed, no answer", tuple(faults))


CASES: list[Case] = [
    asked("form/filename*= alone", _HEARD, _named(f"{_HEAD}; filename*=UTF-8''n%C3%A9e.wav")),
    asked("form/no filename, with a type", _HEARD, _named(f"{_HEAD}\n{_TYPE}")),
    asked("form/no filename, no type", _HEARD, _named(_HEAD)),
    asked("form/an empty filename", _HEARD, _named(f'{_HEAD}; filename=""')),
    asked(
        "form/the file's name in place of the file",
        Refused((400,), param="file"),
        partial(_send_all, parts=(_MODEL, field("file", "talk.wav"))),
    ),
    asked(
        "form/a file as prompt",
        Refused((400,), says="prompt"),
        partial(
            _send_all,
            parts=(
                _MODEL,
                _FILE,
                ('Content-Disposition: form-data; name="prompt"; filename="p.txt"', b"Words"),
            ),
        ),
    ),
    asked(
        "form/a field twice",
        Refused((400,), param="model", says="twice"),
        partial(_send_all, parts=(_MODEL, _MODEL, _FILE)),
    ),
    asked(
        "form/the file twice",
        Refused((400,), says="two|twice|one|many|maximum"),
        partial(_send_all, parts=(_MODEL, _FILE, _FILE)),
    ),
    asked(
        "form/a preamble",
        _HEARD,
        lambda world: _send(world, _MODEL, _FILE, before=b"This is MIME.\r\n"),
    ),
    asked(
        "form/lines that end with LF alone",
        Either((_HEARD, Refused((400,), "malformed_body"))),
        lambda world: _send(world, _MODEL, _FILE, line_end=b"\n"),
    ),
    asked("form/cut before its end", Refused((400,), "malformed_body"), _without_end),
    CallCase(
        "form/connection ends in the file",
        "400 if anything, no crash; the next request is heard",
        _cut_off,
        HTTP,
    ),
]
