"""Multipart bodies as clients write them: what arrives, and what is said of broken ones."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request

from serve.http.fields import FieldError
from serve.http.form import MAX_FIELD_BYTES, MAX_PARTS, MalformedBodyError
from serve.http.receiving import Reception, UploadLimits
from serve.http.upload import TooLargeError, read_upload

BOUNDARY = b"b0undary'()+_,-./:=?"
AUDIO = (
    bytes(range(256)) * 40 + b"\r\n--\r\n\n--b\r\n--" + BOUNDARY + b"x\n--" + BOUNDARY + b"-\n\r"
)
"""Has all kinds of line breaks, and what looks like a boundary."""


def part(name: str, data: bytes, more: str = "", headers: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n'
    return b"--" + BOUNDARY + b"\r\n" + disposition.encode() + data + b"\r\n"


END = b"--" + BOUNDARY + b"--\r\n"
MODEL = part("model", b"base")
FILE = part("file", AUDIO, '; filename="a.wav"', "Content-Type: audio/wav\r\n")


def with_lf(*parts: bytes) -> bytes:
    """As clients write that end lines by LF alone; the data stays."""
    held = b"".join(parts).replace(AUDIO, b"<audio>").replace(b"\r\n", b"\n")
    return held.replace(b"<audio>", AUDIO)


def read(
    body: bytes, block: int = 1 << 20, max_bytes: int = 1_000_000
) -> tuple[dict[str, str], bytes | None]:
    """The fields and the file of a body that comes in blocks."""

    async def blocks() -> AsyncIterator[dict[str, object]]:
        for start in range(0, len(body), block):
            yield {"type": "http.request", "body": body[start : start + block], "more_body": True}
        yield {"type": "http.request", "body": b"", "more_body": False}

    messages = blocks()

    async def run() -> tuple[dict[str, str], bytes | None]:
        kind = b'multipart/form-data; boundary="' + BOUNDARY + b'"'
        scope = {"type": "http", "headers": [(b"content-type", kind)]}
        reception = Reception(UploadLimits(9, 9, 1e9, 0.0))
        with reception.receive(0, "me") as receiving:
            request = Request(scope, messages.__anext__)
            upload = await read_upload(request, max_bytes, reception, receiving)
        file = None
        if upload.file is not None:
            source = upload.source()
            if isinstance(source, bytes):
                file = source
            else:
                with source:
                    file = source.read()
        await upload.close()
        return dict(upload.fields), file

    return asyncio.run(run())


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "body",
    [
        MODEL + FILE + END,
        FILE + MODEL + END.rstrip(),
        with_lf(MODEL, FILE, END),
        with_lf(FILE, MODEL, END).rstrip(),
        b"This is a form.\r\n--b\r\n" + MODEL + FILE + END + b"Good-bye.\r\n",
        with_lf(b"\nA form.\n--b\n\n", MODEL, FILE, END, b"Good-bye.\n" + MODEL),
        with_lf(MODEL, FILE, END).replace(BOUNDARY + b"\n", BOUNDARY + b" \t\n"),
    ],
    ids=["usual", "file first", "lf", "lf, no last break", "preamble", "lf preamble", "padding"],
)
def test_every_byte_of_the_file_arrives_however_lines_end(body: bytes, block: int) -> None:
    assert read(body, block) == ({"model": "base"}, AUDIO)


@pytest.mark.parametrize(
    "more",
    [
        "",
        '; filename=""',
        "; filename*=UTF-8''na%C3%AFve%20file.mp3",
        "; filename=\"a.mp3\"; filename*=UTF-8''a.mp3",
        "; filename=a.mp3",
    ],
)
def test_the_part_called_file_is_the_file_whatever_its_headers_say(more: str) -> None:
    assert read(MODEL + part("file", AUDIO, more) + END) == ({"model": "base"}, AUDIO)


def test_a_large_file_comes_from_the_disk() -> None:
    large = AUDIO * 200
    assert len(large) > 1 << 20
    body = MODEL + part("file", large) + END
    assert read(body, 1 << 16, 10**7) == ({"model": "base"}, large)


def test_fields_are_text_in_the_charset_that_they_name() -> None:
    latin = "Content-Type: text/plain; charset=iso-8859-1\r\n"
    body = part("prompt", "Zoë".encode("latin-1"), headers=latin)
    body += part("language", "Português".encode())
    assert read(body + END)[0] == {"prompt": "Zoë", "language": "Português"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "does not have the boundary"),
        (b"{}", "does not have the boundary"),
        (MODEL + FILE, "ends before its last boundary"),
        ((MODEL + FILE)[:-400], "ends before its last boundary"),
        (MODEL[:30], "ends before its last boundary"),
        (with_lf(MODEL, FILE)[:-400], "ends before its last boundary"),
        (MODEL + b"--" + BOUNDARY + b"\r\nno header\r\n\r\n" + END, "malformed"),
        (b"--" + BOUNDARY + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, "has no name"),
        (part("keywords", b"x") * (MAX_PARTS + 1) + END, "more than"),
        (with_lf(b"--" + BOUNDARY + b"\n" + b"x" * 100_000), "malformed"),
    ],
)
def test_a_body_that_is_no_whole_form(body: bytes, says: str) -> None:
    with pytest.raises(MalformedBodyError, match=says):
        read(body)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        (FILE + MODEL + FILE, "file", "given twice"),
        (part("model", b"base", '; filename="blob"') + FILE, "model", "not a file"),
        (part("audio", AUDIO, '; filename="a.wav"') + MODEL, "audio", "the part called file"),
        (part("prompt", b"x" * (MAX_FIELD_BYTES + 1)) + FILE, "prompt", "longer than"),
        (part("keywords", b"x" * 60_000) * 20 + FILE, "keywords", "the fields have more than"),
        (part("prompt", b"\xff\xfe") + FILE, "prompt", "not valid utf-8"),
        (
            part("prompt", b"x", headers="Content-Type: text/plain; charset=ebcdic\r\n"),
            "prompt",
            "charset",
        ),
        (
            part("file", b"UklGRg==", headers="Content-Transfer-Encoding: base64\r\n"),
            "file",
            "base64",
        ),
    ],
)
def test_a_wrong_part_is_named(body: bytes, param: str, says: str) -> None:
    with pytest.raises(FieldError, match=says) as caught:
        read(body + END, max_bytes=2_000_000)
    assert caught.value.param == param


def test_a_file_that_is_too_large() -> None:
    body = MODEL + FILE + END
    assert read(body, 512, len(AUDIO))[1] == AUDIO
    with pytest.raises(TooLargeError):
        read(body, 512, len(AUDIO) - 1)
