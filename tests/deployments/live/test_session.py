"""A live session, without a model: what was said is known, and every look hears it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.live.events import (
    Cleared,
    Committed,
    Completed,
    Delta,
    Event,
    Failed,
    Lagging,
    SpeechStarted,
    SpeechStopped,
    TimedOut,
)
from deployments.live.look import Pass
from deployments.live.options import PolicyName, SessionOptions, TurnOptions
from deployments.live.session import EmptyBufferError, LiveSession
from deployments.live.stretch import Model
from deployments.live.voice import VoiceStream
from deployments.messages import ChunkResult
from engine import DecodingOptions, Engine, Request, Segment, Window, Word
from engine.window import N_FRAMES
from tests.support.running import run_alone

RATE = 16_000
N_WORDS = 1_000
N_GUESSES = 7
LETTERS = "abcdefghij"


def name(n: int) -> str:
    return "w" + "".join(LETTERS[int(digit)] for digit in str(n))


MODEL = Model("m", tuple(f" {name(n)}".encode() for n in range(N_WORDS + N_GUESSES)))
"""The last words are those that nobody says."""
PAUSE_S = 1.2


@dataclass(frozen=True)
class Said:
    """Audio, and the times of its words; their names are made from their numbers."""

    pcm: np.ndarray
    words: tuple[tuple[float, float], ...]

    def __add__(self, other: "Said") -> "Said":
        at = len(self.pcm) / RATE
        moved = tuple((start + at, end + at) for start, end in other.words)
        return Said(np.concatenate([self.pcm, other.pcm]), self.words + moved)

    @property
    def text(self) -> str:
        return " ".join(map(name, range(len(self.words))))


def silence(seconds: float) -> Said:
    return Said(np.zeros(round(seconds * RATE), np.int16), ())


@pytest.fixture(scope="module")
def clip(engines: dict[str, Engine], clips: dict[str, np.ndarray]) -> Said:
    pcm = clips["librivox-0870.wav"]
    options = DecodingOptions(timestamps=False, words=True)
    frames = [frame for frame in VoiceStream().push(pcm) if frame.is_voiced(0.5)]
    speech = tuple((frame.start, frame.stop) for frame in frames)
    request = Request("clip", pcm, options, speech=speech)
    result = run_alone(engines["demo:tiny.en"], request)
    return Said(pcm, tuple((w.start_s, w.end_s) for w in result.segments[0].words))


@pytest.fixture(scope="module")
def talk(clip: Said) -> Said:
    """Three turns."""
    return silence(0.5) + clip + silence(PAUSE_S) + clip + silence(2.5) + clip + silence(PAUSE_S)


def hear(said: Said, found: Pass) -> ChunkResult:
    """What a look gives: all words that ended in its audio, and a wrong one for what began. A look
    that heard all there is, a pause behind it, knows the last word by its first half.

    It hears a session whose text is right so far: the prefix is how the words in its audio begin.
    """
    start_s, stop_s = found.stretch.start / RATE, found.stop / RATE
    is_whole = found.stretch.is_covered_by(found.stop)
    lead = found.stretch.lead
    lead_s = len(lead.pcm) / RATE
    assert len(found.chunk.pcm) == len(lead.pcm) + found.stop - found.stretch.start <= 30 * RATE
    assert all(0 <= a < b <= len(found.chunk.pcm) for a, b in found.chunk.speech)
    inside = [
        (n, start, end)
        for n, (start, end) in enumerate(said.words)
        if start_s <= (start + end) / 2 and (is_whole and (start + end) / 2 or end) <= stop_s
    ]
    tokens = tuple(n for n, _, _ in inside)
    assert found.chunk.options.prefix[: len(lead.tokens)] == lead.tokens
    prefix = found.chunk.options.prefix[len(lead.tokens) :]
    assert prefix == tokens[: len(prefix)]
    first_s = start_s - lead_s
    times = [(start - first_s, end - first_s) for _, start, end in inside]
    if not is_whole and any(start < stop_s - 0.05 and end > stop_s for start, end in said.words):
        guess = N_WORDS + found.chunk.index % N_GUESSES
        tokens, times = (*tokens, guess), [*times, (stop_s - first_s - 0.05, stop_s - first_s)]
    told = len(lead.tokens)
    tokens = lead.tokens + tokens
    times = [(n * lead_s / told, (n + 1) * lead_s / told) for n in range(told)] + times
    words = tuple(
        Word(max(0.0, start), end, MODEL.vocabulary[token].decode(), 0.9)
        for token, (start, end) in zip(tokens, times, strict=True)
    )
    return result_of(found, tokens, words)


def result_of(
    found: Pass, tokens: tuple[int, ...], words: tuple[Word, ...] = (), **changed: float
) -> ChunkResult:
    text = b"".join(MODEL.vocabulary[token] for token in tokens).decode()
    segments = (Segment(0.0, None, text, tokens, (-0.1,) * len(tokens), words),) if tokens else ()
    values = {
        "avg_logprob": -0.1,
        "no_speech_prob": 0.0,
        "compression_ratio": 1.2,
        "temperature": found.chunk.options.temperature,
    } | changed
    n_frames = 512 if found.chunk.window is Window.SHORT else N_FRAMES
    values = {"language_prob": 0.99, "n_frames": n_frames} | values
    return ChunkResult(
        found.chunk.key, segments, tokens, "en", finish_reason="stop", model="m", **values
    )


def new_session(**options: object) -> LiveSession:
    names = iter(range(1_000))
    return LiveSession(
        "s",
        SessionOptions(**options),  # type: ignore[arg-type]
        MODEL,
        lambda: f"item{next(names)}",
    )


def run(
    session: LiveSession,
    said: Said,
    block_s: float = 0.1,
    delay_blocks: int = 0,
    finish: bool = True,
    looks: list[Pass] | None = None,
) -> list[Event]:
    """Feed audio in real order; each look's result comes `delay_blocks` blocks later.

    Args:
        looks: gets the looks that the session takes.
    """
    taken = [] if looks is None else looks
    return list(_run(session, said, block_s, delay_blocks, finish, taken))


def _run(
    session: LiveSession,
    said: Said,
    block_s: float,
    delay_blocks: int,
    finish: bool,
    looks: list[Pass],
) -> Iterator[Event]:
    size, out = round(block_s * RATE), None
    for start in range(0, len(said.pcm), size):
        yield from session.append(said.pcm[start : start + size])
        if out is not None and start >= out[1]:
            yield from session.accept(out[0], hear(said, out[0]), delay_blocks * block_s)
            out = None
        if out is not None and not session.is_wanted(out[0]):
            out = None
        if out is None and (found := session.next_pass()) is not None:
            looks.append(found)
            out = (found, start + delay_blocks * size)
            if not delay_blocks:
                yield from session.accept(found, hear(said, found))
                out = None
    if out is not None:
        yield from session.accept(out[0], hear(said, out[0]))
    if finish:
        yield from session.finish()
    while (found := session.next_pass()) is not None:
        looks.append(found)
        yield from session.accept(found, hear(said, found))


def check_items(events: list[Event]) -> list[Completed]:
    """What holds in every session: order of each item's events, and text that only grows."""
    completed = [event for event in events if isinstance(event, Completed)]
    committed = [event for event in events if isinstance(event, Committed)]
    assert [event.item_id for event in completed] == [event.item_id for event in committed]
    before = [None, *(event.item_id for event in committed[:-1])]
    assert [event.previous_item_id for event in committed] == before
    for item in completed:
        own = [event for event in events if getattr(event, "item_id", None) == item.item_id]
        deltas = [event for event in own if isinstance(event, Delta)]
        assert "".join(delta.text for delta in deltas) == item.text
        assert sum((delta.tokens for delta in deltas), ()) == item.tokens
        assert all(delta.text for delta in deltas)
        assert own[-1] is item and len(item.logprobs) == len(item.tokens)
        assert [word.text.strip() for word in item.words] == item.text.split()
        times = [t for word in item.words for t in (word.start_s, word.end_s)]
        assert times == sorted(times)
    return completed


POLICIES: tuple[PolicyName, ...] = ("align_att", "local_agreement")


@pytest.mark.parametrize("policy", POLICIES)
def test_turns_that_end_with_a_silence(talk: Said, policy: PolicyName) -> None:
    events = run(new_session(policy=policy), talk)
    items = check_items(events)
    assert len(items) == 3
    assert " ".join(item.text for item in items) == talk.text
    for item in items:
        own = [event for event in events if getattr(event, "item_id", None) == item.item_id]
        kinds = [type(event) for event in own if not isinstance(event, Delta)]
        assert kinds == [SpeechStarted, SpeechStopped, Committed, Completed]
        started, stopped = own[0], next(e for e in own if isinstance(e, SpeechStopped))
        assert isinstance(started, SpeechStarted)
        assert started.start_s == item.start_s and stopped.end_s == item.end_s
        first = own.index(next(event for event in own if isinstance(event, Delta)))
        assert first < own.index(stopped), "text comes before the turn ends"
        spoken = [word for word in talk.words if item.start_s <= word[0] <= item.end_s]
        assert item.start_s == pytest.approx(spoken[0][0] - 0.3, abs=0.4)
        assert item.end_s == pytest.approx(spoken[-1][1] + 0.5, abs=0.4)
        # Times of words are the session's.
        starts = [word.start_s for word in item.words]
        assert starts == pytest.approx([start for start, _ in spoken], abs=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_turns_that_the_client_ends(talk: Said, policy: PolicyName) -> None:
    session = new_session(policy=policy, turns=None)
    events = run(session, talk)
    (item,) = check_items(events)
    assert item.text == talk.text and item.duration_s == len(talk.pcm) / RATE
    assert session.is_idle and session.kept_s < 2.5, "nothing is kept that is not needed"
    with pytest.raises(EmptyBufferError):
        session.commit()


def test_speech_without_an_end(clip: Said) -> None:
    """A window has 30 s: stretches end in short pauses, or without one."""
    said = silence(0.2)
    for _ in range(12):
        said += clip
    for turns in (TurnOptions(silence_s=3.0), None):
        items = check_items(run(new_session(turns=turns), said, delay_blocks=3))
        assert " ".join(item.text for item in items).split() == said.text.split()


@settings(max_examples=30)
@given(data=st.data())
def test_no_word_is_lost_or_said_twice(talk: Said, data: st.DataObject) -> None:
    """Whatever the blocks, the delays and the losses."""
    policy = data.draw(st.sampled_from(POLICIES))
    turns = data.draw(st.sampled_from([None, TurnOptions(), TurnOptions(silence_s=0.2)]))
    rng = random.Random(data.draw(st.integers(0, 10_000)))
    session = new_session(policy=policy, turns=turns)
    events: list[Event] = []
    out: list[Pass] = []
    position = 0
    while position < len(talk.pcm) or not session.is_idle:
        size = rng.choice([160, 1_600, 8_000, 50_000])
        block = talk.pcm[position : position + size]
        if len(block):
            events += session.append(block)
        elif position < 10**9:
            events += session.finish()
            position = 10**9
        position += size
        for found in list(out):
            choice = rng.random()
            if choice < 0.5:
                out.remove(found)
                events += session.accept(found, hear(talk, found))
            elif choice < 0.6 and session.is_wanted(found):
                out.remove(found)
                session.lose(found)
        if (found_now := session.next_pass()) is not None:
            out.append(found_now)
    for found in out:
        assert session.accept(found, hear(talk, found)) == [], "nobody waits for it"
    items = check_items(events)
    assert " ".join(item.text for item in items if item.text) == talk.text


def test_commit_in_the_middle_of_a_word(clip: Said) -> None:
    said = silence(0.5) + clip
    session = new_session(turns=None)
    half = Said(said.pcm[: 4 * RATE], said.words)
    events = run(session, half)
    (item,) = check_items(events)
    assert item.end_s == 4.0
    assert item.text == " ".join(said.text.split()[: sum(a + b < 8 for a, b in said.words)])


def test_clear_forgets(talk: Said) -> None:
    session = new_session()
    first = run(session, Said(talk.pcm[: 4 * RATE], talk.words), finish=False)
    assert any(isinstance(event, Delta) for event in first)
    found = session.next_pass()
    assert session.clear() == [Cleared()]
    assert session.next_pass() is None and session.is_idle
    assert found is None or not session.is_wanted(found)
    with pytest.raises(EmptyBufferError):
        session.commit()
    assert session.finish() == []


def test_silence_has_no_text() -> None:
    session = new_session(turns=None)
    events = run(session, silence(5))
    assert [type(event) for event in events] == [Committed, Completed]
    assert events[-1].text == ""  # type: ignore[union-attr]
    assert run(new_session(), silence(5)) == []


def test_the_idle_time_commits_silence() -> None:
    events = run(new_session(turns=TurnOptions(idle_timeout_s=2.0)), silence(5))
    times = [(e.start_s, e.end_s) for e in events if isinstance(e, TimedOut)]
    assert times == [(0.0, pytest.approx(2.0, abs=0.04)), pytest.approx((2.0, 4.0), abs=0.08)]
    assert [type(event) for event in events] == [TimedOut, Committed, Completed] * 2


def test_a_look_that_loops_is_not_believed(clip: Said) -> None:
    said = silence(0.5) + clip + silence(1.0)
    session = new_session()
    temperatures: list[float] = []
    events: list[Event] = []
    for start in range(0, len(said.pcm), 1_600):
        events += session.append(said.pcm[start : start + 1_600])
        while (found := session.next_pass()) is not None:
            temperatures.append(found.chunk.options.temperature)
            result = hear(said, found)
            if found.chunk.options.temperature == 0.0:
                result = result_of(
                    found, (*found.chunk.options.prefix, *[7] * 50), (), compression_ratio=9.0
                )
            events += session.accept(found, result)
    (item,) = check_items(events)
    assert item.text == said.text
    assert max(temperatures) > 0 and sum(t > 0 for t in temperatures) == 1


def test_noise_has_no_text(clip: Said) -> None:
    """The model says that there is no speech."""
    said = silence(0.5) + clip + silence(1.0)
    session = new_session()
    events: list[Event] = []
    for start in range(0, len(said.pcm), 1_600):
        events += session.append(said.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            wrong = result_of(found, (1, 2), no_speech_prob=0.9, avg_logprob=-2.0)
            events += session.accept(found, wrong)
    (item,) = check_items(events)
    assert item.text == "" and not any(isinstance(event, Delta) for event in events)


def test_a_turn_that_fails_ends_alone(talk: Said) -> None:
    session = new_session()
    error = RuntimeError("gone")
    events: list[Event] = []
    failed = False
    for start in range(0, len(talk.pcm), 1_600):
        events += session.append(talk.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            if start > 6 * RATE and not failed:
                failed = True
                events += session.fail(found, error)
            else:
                events += session.accept(found, hear(talk, found))
    failures = [event for event in events if isinstance(event, Failed)]
    assert [failure.error for failure in failures] == [error]
    completed = [event for event in events if isinstance(event, Completed)]
    assert len(completed) >= 2 and completed[-1].text.split()[-1] == talk.text.split()[-1]


def test_a_slow_cluster_gets_fewer_looks(clip: Said) -> None:
    """Text falls behind by what a look takes, and no further; the client is told."""
    said = silence(0.5)
    for _ in range(5):
        said += clip
    quick, slow = new_session(turns=None), new_session(turns=None)
    run(quick, said)
    events = run(slow, said, delay_blocks=60)
    assert quick._n_passes > 5 * slow._n_passes
    (item,) = check_items(events)
    assert item.text == said.text
    lags = [event.lag_s for event in events if isinstance(event, Lagging)]
    assert all(lag < 14.0 for lag in lags)


def test_looks_that_come_late_hear_short_windows(clip: Said) -> None:
    """The last look at a turn hears a whole one, and so do all looks of a cluster that keeps up."""
    said = silence(0.5) + clip + silence(1.0) + clip + silence(1.0)
    windows: dict[int, list[Window | None]] = {}
    for delay_blocks in (0, 3, 6):
        session = new_session(decoding=DecodingOptions(language="en"))
        looks: list[Pass] = []
        events = run(session, said, delay_blocks=delay_blocks, looks=looks)
        assert " ".join(item.text for item in check_items(events)) == said.text
        windows[delay_blocks] = [look.chunk.window for look in looks]
        last = {id(look.stretch): look for look in looks}
        assert len(last) == 2 and all(look.is_whole for look in last.values())
    assert Window.SHORT not in windows[0] + windows[3]
    assert windows[6].count(Window.SHORT) > 3 and windows[6][0] is Window.EXACT


def in_a_hurry(**options: object) -> LiveSession:
    """A session whose looks have come late."""
    session = new_session(turns=None, **options)
    session._is_behind = True
    return session


def test_who_keeps_up_again_hears_whole_windows(clip: Said) -> None:
    session, said = in_a_hurry(decoding=DecodingOptions(language="en")), silence(0.5) + clip
    windows = []
    for start in range(0, len(said.pcm), 1_600):
        session.append(said.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            windows.append(found.chunk.window)
            # A third of the pace's 0.4 s is 0.133 s.
            session.accept(found, hear(said, found), 0.14 if len(windows) < 3 else 0.13)
    assert windows[:3] == [Window.SHORT] * 3 and set(windows[3:]) == {Window.EXACT}


def test_a_language_is_told_from_whole_windows(clip: Said) -> None:
    session, said = in_a_hurry(), silence(0.5) + clip
    session.append(said.pcm[: 3 * RATE])
    found = session.next_pass()
    assert found is not None and found.is_whole and found.chunk.options.language is None


@pytest.mark.parametrize(
    ("tokens", "values"),
    [((1, 2, 1, 2), {}), ((), {}), ((1, 2, 3), {"avg_logprob": -2.0}), ((1, 2), {"finish": 1})],
)
def test_a_short_window_that_is_in_doubt_is_heard_whole_at_once(
    clip: Said, tokens: tuple[int, ...], values: dict[str, float]
) -> None:
    said, looks = silence(0.5) + clip, []
    session = in_a_hurry(decoding=DecodingOptions(language="en"))
    for start in range(0, len(said.pcm), 1_600):
        session.append(said.pcm[start : start + 1_600])
        if (found := session.next_pass()) is None:
            continue
        looks.append(found)
        if len(looks) == 3:
            finish = {"finish_reason": "length"} if values.pop("finish", 0) else {}
            wrong = result_of(found, found.chunk.options.prefix + tokens, **values)
            assert not session.accept(found, replace(wrong, **finish), 1.0), "nothing is told"
        else:
            session.accept(found, hear(said, found), 1.0)
        if len(looks) == 5:
            break
    doubted, again, after = looks[2:]
    assert not doubted.is_whole and again.is_whole and again.stretch is doubted.stretch
    assert again.stop == doubted.stop + 1_600
    assert not after.is_whole, "the next one is not in doubt"


def test_where_windows_are_never_short_a_wish_for_one_costs_nothing(clip: Said) -> None:
    """On a GPU, whatever is asked for."""
    said, looks = silence(0.5) + clip + silence(1.0), []
    session, events = new_session(decoding=DecodingOptions(language="en")), []
    session._is_behind = True
    for start in range(0, len(said.pcm), 1_600):
        events += session.append(said.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            looks.append(found)
            whole = replace(hear(said, found), n_frames=N_FRAMES)
            events += session.accept(found, whole, 1.0)
    (item,) = check_items(events)
    assert item.text == said.text and not all(look.is_whole for look in looks)


def test_a_turn_that_the_client_ends_in_a_word_is_heard_whole(clip: Said) -> None:
    """Whether a short window's look is out then, or has come back."""
    said = silence(0.5) + clip
    stop = round(said.words[-1][0] * RATE) + 1_600
    for has_come in (False, True):
        session = in_a_hurry(decoding=DecodingOptions(language="en"))
        session.append(said.pcm[:stop])
        found = session.next_pass()
        assert found is not None and found.stop == stop and not found.is_whole
        events = session.accept(found, hear(said, found)) if has_come else []
        events += session.commit()
        if not has_come:
            assert not session.is_wanted(found)
        again = session.next_pass()
        assert again is not None and again.is_whole and again.stop == stop
        (item,) = check_items([*events, *session.accept(again, hear(said, again))])
        assert item.text


def test_the_next_turn_is_told_what_was_said(talk: Said) -> None:
    session = new_session(
        context_characters=40, decoding=DecodingOptions(prompt="Names: Dashwood.")
    )
    prompts = []
    for start in range(0, len(talk.pcm), 1_600):
        session.append(talk.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            prompts.append(found.chunk.options.prompt)
            session.accept(found, hear(talk, found))
    assert prompts[0] == "Names: Dashwood."
    assert prompts[-1] is not None and prompts[-1].startswith("Names: Dashwood. ")
    assert len(prompts[-1]) <= len("Names: Dashwood. ") + 40
    assert prompts[-1].split()[-1] in talk.text.split()


def test_a_language_that_is_not_sure_waits(clip: Said) -> None:
    """Nothing is told in a language that more audio may prove wrong, until the turn ends."""
    said = silence(0.5) + clip + silence(1.0)
    session = new_session()
    events: list[Event] = []
    for start in range(0, len(said.pcm), 1_600):
        events += session.append(said.pcm[start : start + 1_600])
        if (found := session.next_pass()) is not None:
            tokens = hear(said, found).tokens
            words = hear(said, found).segments[0].words if tokens else ()
            events += session.accept(found, result_of(found, tokens, words, language_prob=0.4))
    (item,) = check_items(events)
    assert item.text == said.text
    assert sum(isinstance(event, Delta) for event in events) == 1
    told = DecodingOptions(language="en")
    assert sum(isinstance(e, Delta) for e in run(new_session(decoding=told), said)) > 5
