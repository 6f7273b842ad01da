"""Words as subtitles: limits are kept, breaks fall where people expect them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.messages import TranscriptSegment
from engine import Word
from serve.http.cue_limits import CueLimits
from serve.http.cues import lay_out, text_of, width_of
from serve.http.lines import LineWriter
from tests.serve.http.test_formats import segment

SENTENCES = (
    "He was not an ill-disposed young man, unless to be rather cold-hearted and rather selfish is "
    "to be ill-disposed. But he was, in general, well respected."
)


def spoken(text: str, word_s: float = 0.3, start_s: float = 1.0) -> TranscriptSegment:
    """A segment whose words take the same time each."""
    parts = re.findall(r"\s*\S+", text)
    words = tuple(
        Word(start_s + i * word_s, start_s + (i + 1) * word_s, part, 0.9)
        for i, part in enumerate(parts)
    )
    made = segment(start_s, start_s + len(parts) * word_s, text)
    return TranscriptSegment(
        **{name: getattr(made, name) for name in made.__slots__ if name != "words"}, words=words
    )


def shown(made: TranscriptSegment, limits: CueLimits | None = None) -> list[list[str]]:
    return [[text_of(line) for line in cue.lines] for cue in lay_out(made, limits or CueLimits())]


def test_long_speech_is_parted_into_even_lines() -> None:
    assert shown(spoken(SENTENCES)) == [
        ["He was not an ill-disposed young man,", "unless to be rather cold-hearted and"],
        ["rather selfish is to be ill-disposed.", "But he was, in general, well respected."],
    ]
    one_line = CueLimits(max_line_count=1)
    assert shown(spoken("It rained all day long. Then it rained all of the night."), one_line) == [
        ["It rained all day long."],
        ["Then it rained all of the night."],
    ]


@pytest.mark.parametrize("title", ["Mr.", "Dr.", '"Mrs.', "J."])
def test_no_sentence_ends_with_an_abbreviation(title: str) -> None:
    text = (
        f"And {title} John Dashwood had then leisure to consider how much there might be done well"
    )
    word = title.replace(".", "x")
    cues = shown(spoken(text.replace(title, word), word_s=0.45))
    assert shown(spoken(text, word_s=0.45)) == [
        [line.replace(word, title) for line in cue] for cue in cues
    ]


def test_the_ends_of_russian_sentences_are_ends() -> None:
    text = (
        "\u041e\u043d \u0436\u0438\u043b \u0442\u0443\u0442. "
        "\u0422\u0435\u043f\u0435\u0440\u044c \u043d\u0435\u0442."
    )
    assert shown(spoken(text), CueLimits(max_line_count=1, max_line_width=14)) == [
        [text[:11]],
        [text[12:]],
    ]


def test_no_cue_is_too_short_to_be_read() -> None:
    """Two words that end a sentence, at the beginning of a long segment."""
    text = (
        "Yes. And then John Dashwood had the leisure to consider how much there might be done well"
    )
    first = lay_out(spoken(text, word_s=0.2), CueLimits())[0]
    assert first.end_s - first.start_s >= 5 / 6


def test_a_pause_is_a_place_to_break() -> None:
    words = [Word(i * 0.5, i * 0.5 + 0.4, f" word{i}", 1.0) for i in range(12)]
    late = [Word(w.start_s + 2, w.end_s + 2, w.text, 1.0) for w in words[7:]]
    made = spoken("".join(w.text for w in words))
    made = TranscriptSegment(
        **{n: getattr(made, n) for n in made.__slots__ if n != "words"},
        words=(*words[:7], *late),
    )
    cues = lay_out(made, CueLimits())
    assert [sum(len(line) for line in cue.lines) for cue in cues] == [7, 5]
    assert cues[1].start_s == late[0].start_s and cues[0].end_s == words[6].end_s


@given(
    st.lists(st.text("abcdefgh,.", min_size=1, max_size=12), min_size=1, max_size=60),
    st.floats(0.05, 3.0),
    st.integers(5, 50),
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_limits_are_kept_and_no_word_is_lost(
    words: list[str], word_s: float, width: int, count: int, most: int | None
) -> None:
    made = spoken(" " + " ".join(words), word_s)
    limits = CueLimits(width, count, most, 4.0)
    cues = lay_out(made, limits)
    assert [w for cue in cues for line in cue.lines for w in line] == list(made.words)
    for cue in cues:
        n_words = sum(map(len, cue.lines))
        assert len(cue.lines) <= count
        assert cue.end_s - cue.start_s <= 4.0 + 1e-6 or n_words == 1
        for line in cue.lines:
            assert width_of(text_of(line)) <= width or len(line) == 1
            assert most is None or len(line) <= most
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(cues, cues[1:], strict=False))


def test_wide_characters_count_as_two() -> None:
    assert width_of("\u4f60\u597da") == 5
    assert width_of("e\u0301") == 1
    chinese = spoken(" ".join(["\u4f60\u597d"] * 20))
    assert all(width_of(line) <= 42 for cue in shown(chinese) for line in cue)


def test_a_segment_without_words_is_one_cue_of_one_line() -> None:
    assert shown(segment(0, 60, SENTENCES)) == [[SENTENCES]]
    assert shown(segment(0, 1, " \n ")) == []


def test_highlighted_words_take_turns_and_fill_the_cue() -> None:
    words = (Word(1.0, 1.4, " One", 1.0), Word(2.0, 2.5, " <two>", 1.0))
    made = spoken(" One <two>")
    made = TranscriptSegment(
        **{n: getattr(made, n) for n in made.__slots__ if n != "words"}, words=words
    )
    limits = CueLimits(highlight_words=True)
    assert LineWriter("vtt", limits).render(made) == (
        "00:00:01.000 --> 00:00:01.400\n<u>One</u> &lt;two&gt;\n\n"
        "00:00:01.400 --> 00:00:02.000\nOne &lt;two&gt;\n\n"
        "00:00:02.000 --> 00:00:02.500\nOne <u>&lt;two&gt;</u>\n\n"
    )
    assert r"{\u1}One{\u0} <two>" in LineWriter("ass", limits).render(made)


def test_tables_of_segments_and_words() -> None:
    made = spoken(" One two.", 0.5)
    assert LineWriter("tsv").header + LineWriter("tsv").render(made) == (
        "start\tend\ttext\n1000\t2000\tOne two.\n"
    )
    assert LineWriter("ctm", name="a talk").render(made) == (
        "a_talk 1 1.000 0.500 One 0.9000\na_talk 1 1.500 0.500 two. 0.9000\n"
    )


@pytest.mark.parametrize("text", ["a{b}c", "a\\Nb"])
def test_braces_and_backslashes_are_no_markup_in_ass(text: str) -> None:
    line = LineWriter("ass").render(segment(3600, 3601.239, text))
    assert line.startswith("Dialogue: 0,1:00:00.00,1:00:01.24,Default,,0,0,0,,a")
    assert not set("{}\\") & set(line)
