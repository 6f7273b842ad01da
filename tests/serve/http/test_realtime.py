"""The session object of the Realtime API, client secrets, and what the page says of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.live.events import Committed, Completed, Delta, Failed, Lagging
from deployments.live.options import LiveOptions, TurnOptions
from serve.http.answers import TokenNames
from serve.http.live_sockets import RESTART, Closed
from serve.http.realtime.config import SessionConfig, from_beta
from serve.http.realtime.errors import RealtimeError
from serve.http.realtime.rendering import Rendering
from serve.http.realtime.secrets import SecretError, Secrets
from serve.http.realtime.socket import RealtimeSocket

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text(encoding="utf-8")


def with_input(**part: Any) -> dict[str, Any]:
    return {"type": "transcription", "audio": {"input": part}}


def test_defaults_are_openais() -> None:
    shown = SessionConfig().rendered("sess_1", 7)
    part = shown["audio"]["input"]
    assert part["format"] == {"type": "audio/pcm", "rate": 24_000}
    assert part["turn_detection"]["type"] == "server_vad"
    assert (shown["id"], shown["expires_at"], shown["type"]) == ("sess_1", 7, "transcription")
    options = SessionConfig().options()
    assert options == LiveOptions(turns=TurnOptions(0.5, 0.3, 0.5))


def test_updates_are_merged() -> None:
    config = SessionConfig()
    config = config.merged(with_input(turn_detection={"silence_duration_ms": 200}))
    config = config.merged(with_input(transcription={"language": "de", "model": "base"}))
    config = config.merged(with_input(turn_detection={"threshold": 0.7}))
    options = config.options()
    assert (options.model, options.language) == ("base", "de")
    assert options.turns == TurnOptions(0.7, 0.3, 0.2)
    config = config.merged(with_input(transcription={"language": None}, turn_detection=None))
    assert config.options().turns is None and config.options().language is None
    assert config.options().model == "base"
    config = config.merged(with_input(turn_detection={"type": "server_vad"}))
    assert config.options().turns == TurnOptions(), "from null on, defaults"


def test_formats() -> None:
    for kind, encoding, rate in (
        ("audio/pcmu", "mulaw", 8_000),
        ("audio/pcma", "alaw", 8_000),
        ("audio/pcm", "pcm16", 24_000),
    ):
        config = SessionConfig().merged(with_input(format={"type": "audio/pcm", "rate": 16_000}))
        assert config.options().rate == 16_000
        options = config.merged(with_input(format={"type": kind})).options()
        assert (options.encoding, options.rate) == (encoding, rate)


def test_some_models_leave_turns_to_the_client() -> None:
    def turns_of(*updates: dict[str, Any]) -> TurnOptions | None:
        config = SessionConfig()
        for update in updates:
            config = config.merged(with_input(**update))
        return config.options().turns

    live = {"transcription": {"model": "gpt-live-transcribe"}}
    other = {"transcription": {"model": "base"}}
    asked = {"turn_detection": {"type": "server_vad"}}
    assert turns_of(live) is None
    assert turns_of(live, other) == TurnOptions()
    assert turns_of(asked, live) == turns_of(live, asked) == TurnOptions()
    assert turns_of({**live, **asked}) == TurnOptions()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "audio",
                    "input",
                    "format",
                    "transcription",
                    "turn_detection",
                    "rate",
                    "model",
                    "input_audio_format",
                    "input_audio_transcription",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("value", [[], {}, 5, None])
def test_names_of_another_type_are_refused(value: object) -> None:
    with pytest.raises(RealtimeError, match="model"):
        SessionConfig().merged(with_input(transcription={"model": value or []}))
    with pytest.raises(RealtimeError, match="must be one of"):
        from_beta({"input_audio_format": value})


@given(update=JSON)
def test_whatever_comes_is_taken_or_refused(update: Any) -> None:
    config = SessionConfig()
    before = deepcopy(config.rendered("s", 1))
    for read in (lambda: update, lambda: from_beta(update), lambda: {"audio": {"input": update}}):
        try:
            config.merged(read()).options()
        except RealtimeError as error:
            assert error.code and str(error)
    assert config.rendered("s", 1) == before, "the object in force never changes"


def test_secrets() -> None:
    now = [1_000.0]
    secrets = Secrets(lambda: b"k" * 32, lambda: now[0])
    session = with_input(transcription={"model": "base"})
    value, secret = secrets.make(60, session)
    assert secret.expires_at == 1_060
    assert secrets.read(value) == secret and secret.session == session
    for wrong in (value[:-2] + "zz", value + "A", "ek_", "ek_\u00e9", "ek_" + "A" * 60):
        with pytest.raises(SecretError, match="incorrect"):
            secrets.read(wrong)
    with pytest.raises(SecretError, match="incorrect"):
        Secrets(lambda: b"x" * 32, lambda: now[0]).read(value)
    now[0] = 1_061.0
    with pytest.raises(SecretError, match="expired"):
        secrets.read(value)


def test_events_in_both_spellings() -> None:
    rendering = Rendering("sess")
    kinds = [event["type"] for event in rendering.events(Committed("item_1", None))]
    assert kinds[1:] == ["conversation.item.added", "conversation.item.done"]
    rendering.is_beta = True
    kinds = [event["type"] for event in rendering.events(Committed("item_2", "item_1"))]
    assert kinds[1:] == ["conversation.item.created"]
    rendering.names = TokenNames((b" a", b"\xe4"))
    (delta,) = rendering.events(Delta("item_1", "a", (0, 1), (-0.5, -1.0)))
    assert delta["logprobs"][1] == {"token": "\ufffd", "bytes": [0xE4], "logprob": -1.0}
    (completed,) = rendering.events(Completed("item_1", "a", 1.0, 2.5))
    assert completed["usage"] == {"type": "duration", "seconds": 1.5}
    assert completed["languages"] == [] and completed["transcript"] == "a"
    item = rendering.retrieved("item_1")["item"]
    assert item["content"] == [{"type": "input_audio", "transcript": "a"}]
    (failed,) = rendering.events(Failed("item_1", RuntimeError("secret")))
    assert failed["error"]["code"] == "internal_error" and "secret" not in str(failed)
    assert rendering.events(Lagging(12.5))[0]["lag_ms"] == 12_500
    for n in range(3, 1_010):
        rendering.events(Committed(f"item_{n}", None))
    with pytest.raises(RealtimeError, match="no item"):
        rendering.retrieved("item_1")


def test_the_page_knows_every_event() -> None:
    socket = RealtimeSocket.__new__(RealtimeSocket)
    sessions: Any = type("Sessions", (), {"limits": type("Limits", (), {"max_session_s": 1.0})})
    RealtimeSocket.__init__(socket, None, sessions, None)  # type: ignore[arg-type]
    for kind in socket._handlers:
        assert f"`{kind}`" in PAGE, kind


def test_what_closes_a_socket_passes_the_contexts_of_its_session() -> None:
    @asynccontextmanager
    async def session() -> AsyncIterator[None]:
        yield

    async def end() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(session())
            raise Closed(RESTART, "this server restarts: connect again")

    with pytest.raises(Closed) as caught:
        asyncio.run(end())
    assert caught.value.code == RESTART
