"""What a connection says of the turn that it hears once more is not told twice."""

from collections.abc import Sequence

from deployments.live.events import Completed, Delta, Event, SpeechStarted
from engine import Word
from serve.live_lead import Lead


def told(lead: Lead, events: Sequence[Event]) -> list[Event]:
    """Events of a connection, without those of the lead, until that is over."""
    found: list[Event] = []
    for event in events:
        if not lead.is_of(event, getattr(event, "item_id", "")):
            found.append(event)
        elif isinstance(event, Completed):
            found += lead.rest(event)
    return found


def turn(item_id: str, text: str, start_s: float, end_s: float) -> Completed:
    """Words of equal length."""
    said = text.split()
    step_s = (end_s - start_s) / len(said)
    words = tuple(
        Word(start_s + n * step_s, start_s + (n + 1) * step_s, f" {word}", 0.9)
        for n, word in enumerate(said)
    )
    return Completed(item_id, text, start_s, end_s, "en", words)


def test_the_first_turn_is_left_out() -> None:
    old: list[Event] = [
        SpeechStarted("a", 5.0),
        Delta("a", "one two"),
        turn("a", "one two", 5.0, 8.1),
    ]
    new: list[Event] = [SpeechStarted("b", 8.5), Delta("b", "three"), turn("b", "three", 8.5, 9.5)]
    assert told(Lead(8.0), [*old, *new]) == new


def test_without_a_first_turn_nothing_is() -> None:
    new: list[Event] = [SpeechStarted("b", 7.8), Delta("b", "three"), turn("b", "three", 7.8, 9.5)]
    assert told(Lead(8.0), new) == new


def test_where_the_client_ends_turns_the_first_is_known_by_its_text() -> None:
    old: list[Event] = [Delta("a", "one two"), turn("a", "one two", 5.0, 8.0)]
    new: list[Event] = [Delta("b", "three"), turn("b", "three", 8.0, 9.5)]
    assert told(Lead(8.0), [*old, *new]) == new


def test_a_turn_that_goes_on_tells_what_is_new() -> None:
    joined = turn("a", "one two three four", 6.0, 10.0)
    found = told(Lead(8.0), [SpeechStarted("a", 6.0), Delta("a", "one two three four"), joined])
    assert [type(event) for event in found] == [Delta, Completed]
    delta, rest = found
    assert isinstance(delta, Delta) and delta.text == " three four"
    assert isinstance(rest, Completed) and rest.text == " three four"
    assert (rest.start_s, rest.end_s) == (8.0, 10.0)
