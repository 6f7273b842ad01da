"""Uploads under way: how many, how large, how slow, and whose."""

import asyncio
import errno
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.requests import Request

from deployments.errors import OverloadedError
from serve.http import upload as upload_module
from serve.http.auth import Auth
from serve.http.errors import to_http_error
from serve.http.receiving import Receiving, Reception, UploadLimits, UploadTimeoutError
from serve.http.upload import StorageFullError, read_upload
from serve.settings.api_keys import hash_key


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def reception(clock: Clock, **limits: Any) -> Reception:
    limits = {
        "max_uploads": 4,
        "max_uploads_per_caller": 3,
        "max_bytes": 1000.0,
        "min_bytes_per_s": 10.0,
        **limits,
    }
    return Reception(UploadLimits(**limits), clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_there_is_a_most_of_uploads_for_all_and_for_each(clock: Clock, held: ExitStack) -> None:
    there = reception(clock)
    for caller in ("a", "a", "a"):
        there.add(held.enter_context(there.receive(1, caller)), 100)
    clock.now += 2.0
    with pytest.raises(OverloadedError, match="3 uploads of yours") as error:
        held.enter_context(there.receive(1, "a"))
    assert to_http_error(error.value).headers == {"retry-after": "1"}
    with there.receive(1, "b"):
        with pytest.raises(OverloadedError, match="4 uploads are under way"):
            held.enter_context(there.receive(1, "c"))
    held.enter_context(there.receive(1, "c"))  # b's has ended


def test_bytes_are_counted_as_declared_and_one_alone_may_be_larger(
    clock: Clock, held: ExitStack
) -> None:
    there = reception(clock)
    with there.receive(5000, "a"):
        with pytest.raises(OverloadedError, match="5,000 bytes"):
            held.enter_context(there.receive(1, "b"))
    held.enter_context(there.receive(600, "a"))
    with pytest.raises(OverloadedError):
        held.enter_context(there.receive(401, "b"))
    held.enter_context(there.receive(400, "b"))


def test_what_is_read_ahead_has_a_bound_of_its_own(clock: Clock, held: ExitStack) -> None:
    there = reception(clock, max_bytes=9e9)
    held.enter_context(there.receive(5_000_000_000, "a"))
    held.enter_context(there.receive(600_000_000, "a", read_ahead=True))
    with pytest.raises(OverloadedError, match="600,000,000 bytes"):
        held.enter_context(there.receive(400_000_001, "b", read_ahead=True))
    held.enter_context(there.receive(400_000_000, "b", read_ahead=True))
    held.enter_context(there.receive(1_000_000_000, "b"))


def test_bytes_that_were_not_declared_are_counted_as_they_come(
    clock: Clock, held: ExitStack
) -> None:
    there = reception(clock)
    held.enter_context(there.receive(600, "a"))
    unknown = held.enter_context(there.receive(0, "b"))
    there.add(unknown, 400)
    with pytest.raises(OverloadedError):
        there.add(unknown, 1)


def test_alone_an_upload_of_unknown_length_may_be_as_large_as_any(
    clock: Clock, held: ExitStack
) -> None:
    there = reception(clock)
    there.add(held.enter_context(there.receive(0, "a")), 5000)


def test_clients_of_one_address_do_not_wait_until_it_is_known_who_of_them_is_slow(
    clock: Clock, held: ExitStack
) -> None:
    there = reception(clock, max_uploads=100)
    for _ in range(6):  # twice the limit
        held.enter_context(there.receive(1, "a"))
    with pytest.raises(OverloadedError, match="6 uploads of yours"):
        held.enter_context(there.receive(1, "a"))
    held.enter_context(there.receive(1, "b"))
    clock.now += 2.0  # now all six are slow
    for _ in range(6):
        with there.receive(1, "a"):
            pass
    with pytest.raises(OverloadedError, match="6 uploads of yours"):  # all young
        for _ in range(7):
            held.enter_context(there.receive(1, "a"))


def test_the_oldest_slow_upload_makes_room(clock: Clock, held: ExitStack) -> None:
    async def test() -> None:
        there = reception(clock)
        uploads = []
        for name in "abc":
            uploads.append(held.enter_context(there.receive(0, name)))
            clock.now += 1.0
        fast, slow, slower = uploads
        waiting = asyncio.create_task(wait(slow))
        await asyncio.sleep(0)
        clock.now += 20.0
        there.add(fast, 400)
        there.add(slow, 100)
        held.enter_context(there.receive(0, "d"))  # there is room yet
        held.enter_context(there.receive(0, "e"))
        with pytest.raises(UploadTimeoutError, match="too slow, and others wait"):
            await waiting
        held.enter_context(there.receive(0, "f"))
        with pytest.raises(UploadTimeoutError, match="too slow"):
            await wait(slower)  # which was not waiting when it was ended
        with pytest.raises(OverloadedError):  # the others are young, or fast enough
            held.enter_context(there.receive(0, "g"))

    asyncio.run(test())


async def wait(upload: Receiving) -> None:
    async with upload.wait(5.0):
        await asyncio.sleep(60)


def test_a_body_that_stops_is_given_up(clock: Clock, held: ExitStack) -> None:
    async def test() -> None:
        upload = held.enter_context(reception(clock).receive(0, "a"))
        with pytest.raises(UploadTimeoutError, match="for 0.01 s"):
            async with upload.wait(0.01):
                await asyncio.sleep(60)

    asyncio.run(test())


def test_other_limits_hold_for_the_next_upload(clock: Clock, held: ExitStack) -> None:
    there = reception(clock)
    held.enter_context(there.receive(0, "a"))
    there.limits = UploadLimits(1, 1, 1000.0, 0.0)
    with pytest.raises(OverloadedError):
        held.enter_context(there.receive(0, "b"))


def test_callers_are_told_apart_by_keys_that_are_checked() -> None:
    """A key that nobody checks is anything a caller likes."""

    def request(key: str) -> Request:
        headers = [(b"authorization", f"Bearer {key}".encode())]
        return Request({"type": "http", "headers": headers, "client": ("10.0.0.1", 5)})

    assert Auth((hash_key("one"),)).caller(request("one")) == hash_key("one")
    assert Auth(()).caller(request("one")) == Auth(()).caller(request("two")) == "10.0.0.1"


def test_a_full_disk_is_told_and_leaves_nothing(
    clock: Clock, held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Any] = []

    class Full(upload_module.SpooledTemporaryFile[bytes]):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            files.append(self)

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    async def test() -> None:
        monkeypatch.setattr(upload_module, "SpooledTemporaryFile", Full)
        there = reception(clock, max_bytes=1e9)
        upload = held.enter_context(there.receive(0, "a"))
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + bytes(100_000)
        )
        messages = iter([{"type": "http.request", "body": body, "more_body": True}])

        async def receive() -> Any:
            return next(messages)

        kind = (b"content-type", b"multipart/form-data; boundary=b")
        request = Request({"type": "http", "headers": [kind]}, receive)
        with pytest.raises(StorageFullError) as error:
            await read_upload(request, 10_000_000, there, upload)
        answer = to_http_error(error.value)
        assert (answer.status, answer.code) == (507, "insufficient_storage")
        assert answer.headers == {"retry-after": "30"}

    asyncio.run(test())
    assert files and all(file.closed for file in files)
