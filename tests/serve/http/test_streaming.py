"""What a stream says before, between and instead of its events."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from deployments.entrance.ingress import Done
from deployments.entrance.remote import Work
from deployments.errors import ChunkFailedError, NotAudioError
from deployments.messages import Transcript, TranscriptSegment
from serve.http import streaming
from serve.http.answers import EventStream
from serve.http.streaming import COMMENT, Events, stream_answer, with_pauses

SEGMENT = TranscriptSegment(0.0, 1.0, " Hi.", (), 0.0, -0.1, 1.0, 0.0, "m")
DONE = Done(Transcript("Hi.", "en", 1.0, "transcribe", (SEGMENT,)), Work())
LONG_S = 0.25


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAUSE_S", 0.05)


async def answer(events: Events, kind: Any = "json") -> StreamingResponse:
    return await stream_answer(events, EventStream(kind, None), lambda done: {}, "id")


async def parts(response: StreamingResponse) -> list[str]:
    return [str(part) async for part in response.body_iterator]


def test_it_answers_before_there_is_text_and_comments_while_there_is_none() -> None:
    async def events() -> Events:
        yield []
        await asyncio.sleep(LONG_S)
        yield [SEGMENT]
        await asyncio.sleep(LONG_S)
        yield DONE

    async def go() -> list[str]:
        response = await answer(events())
        assert response.status_code == 200
        return await parts(response)

    beginning, *rest = asyncio.run(go())
    assert beginning == ""
    kinds = [part if part == COMMENT else json.loads(part[6:])["type"] for part in rest]
    said = kinds.index("transcript.text.delta")
    assert set(kinds[:said]) == set(kinds[said + 1 : -1]) == {COMMENT}
    assert kinds[-1] == "transcript.text.done"


def test_it_answers_although_the_beginning_of_the_audio_takes_long() -> None:
    async def events() -> Events:
        await asyncio.sleep(LONG_S)
        raise NotAudioError("it is none")
        yield []

    async def go() -> list[str]:
        return await parts(await answer(events(), "vtt"))

    beginning, *comments, error = asyncio.run(go())
    header = json.loads(beginning.removesuffix(COMMENT)[6:])
    assert beginning.endswith(COMMENT) and header["delta"] == "WEBVTT\n\n"
    assert set(comments) == {COMMENT}
    assert json.loads(error[6:])["error"]["code"] == "invalid_audio"


def test_what_is_wrong_from_the_beginning_is_raised_and_later_faults_are_events() -> None:
    async def none() -> Events:
        raise NotAudioError("it is none")
        yield []

    async def breaks() -> Events:
        yield []
        raise ChunkFailedError(0.0, 1.0, 2)

    with pytest.raises(NotAudioError):
        asyncio.run(answer(none()))

    async def go() -> list[str]:
        return await parts(await answer(breaks()))

    assert json.loads(asyncio.run(go())[-1][6:])["error"]["code"] == "chunk_failed"


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_who_goes_away_in_a_pause_ends_the_run(how: str) -> None:
    ended: list[BaseException] = []

    async def events() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(1000)
        except BaseException as error:
            ended.append(error)
            raise

    async def read(spoken: AsyncGenerator[int | None, None]) -> None:
        async for _ in spoken:
            pass

    async def go() -> None:
        spoken = with_pauses(events(), 0.05)
        assert await anext(spoken) == 1
        assert await anext(spoken) is None
        if how == "closed":
            await spoken.aclose()
        else:
            reader = asyncio.create_task(read(spoken))
            await asyncio.sleep(0.1)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    asyncio.run(go())
    assert [type(error) for error in ended] == [asyncio.CancelledError]


def test_openais_client_skips_comments() -> None:
    """By its own decoder, of bytes as they may be cut on their way."""
    from openai._streaming import SSEDecoder

    stream = EventStream("json", None)
    wire = COMMENT + stream.segments([SEGMENT]) + COMMENT * 2 + stream.done(DONE.transcript)
    data = wire.encode()
    pieces = iter([data[at : at + 7] for at in range(0, len(data), 7)])
    events = list(SSEDecoder().iter_bytes(pieces))
    assert [event.json()["type"] for event in events] == [
        "transcript.text.delta",
        "transcript.text.done",
    ]
