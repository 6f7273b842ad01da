"""The parts of the page that need no elements, in the browser that runs them."""

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.page.conftest import Window

pytestmark = pytest.mark.page


@pytest.fixture
def page(window: Window) -> Page:
    return window()


def call(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """What a function's body returns, in which `m` is a module and `x` the argument."""
    code = f"async (x) => {{ const m = await import('/page/js/{module}.js'); {body} }}"
    return page.evaluate(code, argument)


def test_events_come_once_however_the_text_arrives(page: Page) -> None:
    text = 'data: {"a": 1}\n\n: waiting\n\ndata: {"b": "x\\n\\ny"}\n\ndata: {"c": 3}\n\n'
    body = """
        const reader = new m.EventReader();
        const seen = [];
        for (let n = 0; n <= x.length; n++) seen.push(...reader.feed(x.slice(0, n)));
        return seen;"""
    assert call(page, "sse", body, text) == [{"a": 1}, {"b": "x\n\ny"}, {"c": 3}]


WORDS = [
    {"word": word, "start": float(i), "end": i + 0.8, "probability": 0.5}
    for i, word in enumerate(("He", "was", "not", "an", "old-sposed", "young", "man."))
]
TEXT = "He was not an old-sposed young man."


@pytest.mark.parametrize(
    "edited",
    [
        "He was not an ill-disposed young man.",
        "He was not an ill disposed, rather young man.",
        "He was young man.",
        "Not an old-sposed man",
        "old-sposed",
        "Something else altogether, and much longer than what was there before it",
    ],
)
def test_words_of_an_edited_line_keep_or_share_times(page: Page, edited: str) -> None:
    body = """
        const segment = new m.Segment({start: 0, end: 7, text: x.text, words: x.words});
        segment.edit(x.edited);
        const words = segment.words;
        segment.restore();
        return {words, restored: segment.text, same: segment.words.length};"""
    argument = {"text": TEXT, "words": WORDS, "edited": edited}
    got = call(page, "transcript", body, argument)
    words = got["words"]
    assert [word["word"] for word in words] == edited.split()
    assert [edited[word["from"] : word["to"]] for word in words] == edited.split()
    for word in words:
        assert 0 <= word["start"] <= word["end"] <= 6.8
    for before, after in zip(words, words[1:], strict=False):
        assert before["end"] <= after["start"] + 1e-9
    if edited.startswith("He was not an ill-disposed"):
        assert (words[4]["start"], words[4]["end"], words[4]["probability"]) == (4.0, 4.8, 1)
        assert [word["start"] for word in words] == [float(i) for i in range(7)]
    assert (got["restored"], got["same"]) == (TEXT, 7)


def test_text_is_found_in_any_case_and_in_every_script(page: Page) -> None:
    body = """
        const segments = x.map((text, i) => new m.Segment({start: i, end: i + 1, text}));
        const found = ["WAS", "日本", "", "nowhere"].map((text) => m.search(segments, text));
        return [...found.map((places) => places.length), found[0][1]];"""
    texts = ["Was he, or was he not?", "私は日本語を話す", "İstanbul was"]
    assert call(page, "transcript", body, texts) == [
        3,
        1,
        0,
        0,
        {"segment": 0, "from": 11, "to": 14},
    ]


def test_the_segment_at_a_time(page: Page) -> None:
    body = """
        const segments = [0.5, 2, 2.5].map((start) => ({start}));
        return [0, 0.5, 1.9, 2, 9].map((time) => m.segmentAt(segments, time));"""
    assert call(page, "transcript", body) == [-1, 0, 0, 1, 2]


def test_numbers_as_people_read_them(page: Page) -> None:
    body = """return [
        m.clock(0), m.clock(59.999), m.clock(3600), m.clock(36061), m.spokenClock(3661),
        m.dollars(0), m.dollars(0.045), m.dollars(0.0000103), m.dollars(12.345), m.dollars(NaN),
        m.duration(0.84), m.duration(45.2), m.duration(600), m.duration(21600), m.duration(null),
        m.bytes(10), m.bytes(2.5e6)];"""
    assert call(page, "dom", body) == [
        *("0:00", "0:59", "1:00:00", "10:01:01", "1 hour 1 minute 1 second"),
        *("$0", "$0.045", "$0.00001", "$12.35", "–"),
        *("0.8 s", "45 s", "10 min", "6 h", "–"),
        *("1 kB", "2.5 MB"),
    ]


@pytest.mark.parametrize("rate", [44_100, 48_000, 16_000, 8_000])
def test_samples_at_another_rate(page: Page, rate: int) -> None:
    """A tone keeps its height and strength, however the samples are cut."""
    body = """
        const at = (i) => 0.5 * Math.sin(2 * Math.PI * 1000 * i / x.rate);
        const tone = Float32Array.from({length: x.rate}, (_, i) => at(i));
        const cut = (n) => {
            const resampler = new m.Resampler(x.rate, 24000);
            const out = [];
            for (let i = 0; i < tone.length; i += n) {
                out.push(...resampler.push(tone.slice(i, i + n)));
            }
            return out;
        };
        return [cut(128), cut(tone.length)];"""
    small, whole = (np.array(each) for each in call(page, "resampler", body, {"rate": rate}))
    assert np.array_equal(small, whole)
    assert 23_900 <= len(whole) <= 24_000
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(whole)) / 24_000)
    assert np.abs(whole - expected)[200:-200].max() < 2e-3


def test_what_24_khz_cannot_carry_is_left_out(page: Page) -> None:
    body = """
        const at = (i) => 0.5 * Math.sin(2 * Math.PI * x * i / 48000);
        const tone = Float32Array.from({length: 48000}, (_, i) => at(i));
        return [...new m.Resampler(48000, 24000).push(tone)];"""
    kept, folded = (np.array(call(page, "resampler", body, hertz)) for hertz in (9_000, 15_000))
    assert np.abs(kept[200:]).max() > 0.49 and np.abs(folded[200:-200]).max() < 5e-4


def test_how_late_words_are_told(page: Page) -> None:
    body = "return m.wordLags(x.words, x.told)"
    words = [{"word": word, "end": end} for word, end in (("He", 1.0), ("was", 1.5), ("not", 2.0))]
    told = [[1.5, " He w"], [2.5, "as"], [3.25, " not."]]
    lags = call(page, "live_session", body, {"words": words, "told": told})
    assert lags == [0.5, 1.0, 1.25]
    assert call(page, "live_session", body, {"words": words, "told": []}) == []
