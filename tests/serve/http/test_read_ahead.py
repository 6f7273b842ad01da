"""How far a body is read ahead of the application, in each process on its way."""

import asyncio
import pickle
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from ray.serve._private import proxy, replica
from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
from ray.serve._private.http_util import ASGIReceiveProxy, MessageQueue
from ray.serve._private.utils import call_function_from_import_path
from starlette.types import Message, Receive, Scope, Send

from serve.commands.cluster import BOUND_PROXY
from serve.http.read_ahead import (
    MAX_PARTS,
    BoundedDirectReceive,
    BoundedMessageQueue,
    BoundedReceive,
    bound_replica,
    is_bounded,
)

N_PARTS = 50
SETTLED_S = 0.05


def part(number: int, kind: str = "http.request") -> Message:
    return {"type": kind, "body": b"%d" % number, "more_body": number < N_PARTS - 1}


DISCONNECT: Message = {"type": "http.disconnect"}


class Sender:
    """What uvicorn gives: so many parts, then nothing until the client goes away."""

    def __init__(self, n_parts: int) -> None:
        self.n_given = 0
        self._n_parts = n_parts
        self.gone = asyncio.Event()

    async def __call__(self) -> Message:
        if self.n_given < self._n_parts:
            self.n_given += 1
            return part(self.n_given - 1)
        await self.gone.wait()
        return DISCONNECT


def test_the_proxys_queue_waits_until_it_is_fetched() -> None:
    async def run() -> None:
        queue, sender = BoundedMessageQueue(), Sender(N_PARTS)

        async def put() -> None:
            message: Message = {}
            while message != DISCONNECT:
                message = await sender()
                await queue(message)

        task = asyncio.create_task(put())
        fetched: list[Message] = []
        while len(fetched) < N_PARTS:
            await asyncio.sleep(SETTLED_S / 10)
            assert sender.n_given - len(fetched) <= MAX_PARTS
            await queue.wait_for_message()
            fetched += queue.get_messages_nowait()
        assert [message["body"] for message in fetched] == [b"%d" % n for n in range(N_PARTS)]
        sender.gone.set()
        await asyncio.sleep(SETTLED_S)
        assert queue.get_messages_nowait() == [DISCONNECT] and task.done()

    asyncio.run(run())


def test_messages_of_sockets_do_not_wait_in_the_proxy() -> None:
    async def run() -> None:
        queue = BoundedMessageQueue()
        for number in range(N_PARTS):
            await asyncio.wait_for(queue(part(number, "websocket.receive")), 1)
        assert len(queue.get_messages_nowait()) == N_PARTS

    asyncio.run(run())


def fetcher(sender: Sender) -> Callable[[Any], Awaitable[bytes]]:
    """The proxy, as a replica calls it: a few parts at a time."""

    async def fetch(_: Any) -> bytes:
        message = await sender()
        more = [await sender() for _ in range(2)] if message.get("more_body") else []
        return pickle.dumps([message, *more])

    return fetch


def test_a_replica_behind_rays_proxy_fetches_what_is_read() -> None:
    async def run() -> None:
        sender = Sender(N_PARTS + 1)
        receive = BoundedReceive({"type": "http"}, None, fetcher(sender))
        task = asyncio.create_task(receive.fetch_until_disconnect())
        await asyncio.sleep(SETTLED_S)
        assert sender.n_given == 3, "nothing has been read, so no more is fetched"
        for number in range(N_PARTS):
            assert (await receive())["body"] == b"%d" % number
            assert sender.n_given - number <= 6
        await receive()
        assert not task.done()
        sender.gone.set()
        assert await asyncio.wait_for(receive(), 1) == DISCONNECT
        await asyncio.wait_for(task, 1)

    asyncio.run(run())


def test_a_client_that_leaves_is_noticed_though_its_empty_body_was_not_read() -> None:
    async def run() -> None:
        sender = Sender(0)
        messages = iter([[{"type": "http.request", "body": b"", "more_body": False}]])

        async def fetch(_: Any) -> bytes:
            return pickle.dumps(next(messages, None) or [await sender()])

        receive = BoundedReceive({"type": "http"}, None, fetch)
        task = asyncio.create_task(receive.fetch_until_disconnect())
        await asyncio.sleep(SETTLED_S)
        sender.gone.set()
        await asyncio.wait_for(task, 1)

    asyncio.run(run())


@pytest.fixture
def serves_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, as Serve's is beside the application's."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_replica_behind_haproxy_receives_what_is_read(
    serves_loop: asyncio.AbstractEventLoop,
) -> None:
    async def begin(
        scope: Scope, receive: Receive, loop: asyncio.AbstractEventLoop
    ) -> tuple[BoundedDirectReceive, "asyncio.Task[Any]"]:
        bounded = BoundedDirectReceive(scope, receive, loop)
        return bounded, bounded.fetch_until_disconnect_task()

    async def run() -> None:
        sender, scope = Sender(N_PARTS), {"type": "http"}
        begun = begin(scope, sender, asyncio.get_running_loop())
        receive, task = await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(begun, serves_loop)
        )
        assert is_bounded(scope)
        await asyncio.sleep(SETTLED_S)
        assert sender.n_given == MAX_PARTS
        for number in range(N_PARTS):
            assert (await asyncio.wait_for(receive(), 1))["body"] == b"%d" % number
            assert sender.n_given - number <= MAX_PARTS + 1
        serves_loop.call_soon_threadsafe(sender.gone.set)
        assert await asyncio.wait_for(receive(), 1) == DISCONNECT

    asyncio.run(run())


def test_they_take_the_place_of_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version of Ray that is installed: a new one may have moved them."""
    for module, name, own in (
        (replica, "ASGIReceiveProxy", ASGIReceiveProxy),
        (replica, "ASGIDIReceiveProxy", ASGIDIReceiveProxy),
        (proxy, "MessageQueue", MessageQueue),
    ):
        monkeypatch.setattr(module, name, own)
    bound_replica()
    middlewares = call_function_from_import_path(BOUND_PROXY)
    assert replica.ASGIReceiveProxy is BoundedReceive
    assert replica.ASGIDIReceiveProxy is BoundedDirectReceive
    assert proxy.MessageQueue is BoundedMessageQueue

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert is_bounded(scope)

    async def run() -> None:
        (middleware,) = middlewares
        wrapped = middleware.cls(app, *middleware.args, **middleware.kwargs)
        await wrapped({"type": "http"}, Sender(0), queue_nothing)

    asyncio.run(run())


async def queue_nothing(message: Message) -> None:
    """A `send` for an application that sends nothing."""


def test_another_ray_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = type("MessageQueue", (), {})
    monkeypatch.setattr(proxy, "MessageQueue", other)
    assert call_function_from_import_path(BOUND_PROXY) == []
    assert proxy.MessageQueue is other and "reads bodies ahead in another way" in caplog.text
