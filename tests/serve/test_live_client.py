"""What a live client keeps for another connection."""

from collections.abc import Sequence
from typing import Any

from deployments.live.options import LiveOptions
from serve.live_client import LiveClient, _Kept

RATE = 16_000


def kept_s(client: LiveClient) -> float:
    return sum(len(each.piece) for each in client._kept) / (2 * RATE)


def speak(client: LiveClient, seconds: Sequence[int], step_s: float = 0.5) -> None:
    """Send silence from one second to another."""
    first, last = seconds
    size = int(step_s * 2 * RATE)
    for end in range(first * 2 * RATE + size, last * 2 * RATE + 1, size):
        client._keep(_Kept(end, bytes(size)))


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "item_id": "a", **fields}


def completed(start_s: float, end_s: float) -> dict[str, Any]:
    return event(
        "conversation.item.input_audio_transcription.completed",
        transcript="one",
        audio_start_ms=1000 * start_s,
        audio_end_ms=1000 * end_s,
        languages=[],
        words=[],
    )


def test_a_long_silence_is_not_kept() -> None:
    client = LiveClient("http://there", None, LiveOptions(rate=RATE), [])
    speak(client, (0, 300))
    assert 60.0 <= kept_s(client) <= 61.0


def test_what_somebody_says_is_kept_until_its_text_is_final() -> None:
    client = LiveClient("http://there", None, LiveOptions(rate=RATE), [])
    speak(client, (0, 100))
    client._told(event("input_audio_buffer.speech_started", audio_start_ms=99_000))
    speak(client, (100, 200))
    assert kept_s(client) > 150.0
    client._told(event("input_audio_buffer.committed", previous_item_id=None))
    client._told(completed(99.0, 190.0))
    assert kept_s(client) == 18.0, "the last 8 s of the turn, and what came behind it"
    speak(client, (200, 400))
    assert 60.0 <= kept_s(client) <= 61.0


def test_where_the_client_ends_turns_all_is_kept_that_it_did_not_end() -> None:
    client = LiveClient("http://there", None, LiveOptions(rate=RATE, turns=None), [])
    speak(client, (0, 300))
    assert kept_s(client) == 300.0
