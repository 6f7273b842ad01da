"""Scores on hand-made cases whose right answer can be counted by eye."""

import pytest

from benchmarks.scoring import TimedText, cer, presence, start_error_s, wer

REFERENCE = (
    TimedText(0.0, 2.0, "Press star to hear the weather."),
    TimedText(3.0, 5.0, "Your message has been saved."),
    TimedText(6.0, 8.0, "Goodbye and thanks for calling."),
)


def joined(*texts: str) -> str:
    return " ".join(texts)


FIRST, SECOND, THIRD = (segment.text for segment in REFERENCE)


def shifted(seconds: float) -> list[TimedText]:
    return [TimedText(s.start_s + seconds, s.end_s + seconds, s.text) for s in REFERENCE]


def test_wer_counts_each_kind_of_edit() -> None:
    score = wer("a b c d e f g h", "a x c d f g new words h", "fr")
    assert (score.substitutions, score.deletions, score.insertions) == (1, 1, 2)
    assert (score.length, score.rate) == (8, 0.5)


def test_wer_ignores_case_punctuation_and_english_spelling_of_numbers() -> None:
    assert wer("Colour twenty-five, please!", "color 25 please", "en").errors == 0


def test_closing_dots_are_no_word() -> None:
    assert wer("there are more than ...", "there are more than", "en").errors == 0


def test_english_rules_do_not_apply_to_other_languages() -> None:
    assert wer("veinticinco", "25", "es").errors == 1


def test_accents_count_unless_folded() -> None:
    assert wer("una conexion", "una conexión", "es").errors == 1
    assert wer("una conexion", "una conexión", "es", fold_accents=True).errors == 0


def test_cer_counts_characters() -> None:
    score = cer("abcd", "abxd", "fr")
    assert (score.substitutions, score.length, score.rate) == (1, 4, 0.25)


@pytest.mark.parametrize("reference, hypothesis, rate", [("a b", "", 1.0), ("", "a b", 2.0)])
def test_empty_texts_have_a_finite_rate(reference: str, hypothesis: str, rate: float) -> None:
    assert wer(reference, hypothesis, "fr").rate == rate


def test_exact_starts() -> None:
    score = start_error_s(REFERENCE, REFERENCE, "en")
    assert (score.median_s, score.bias_s, score.measured_share) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("shift_s", [0.5, -0.5])
def test_shifted_starts_keep_their_sign_in_the_bias(shift_s: float) -> None:
    score = start_error_s(REFERENCE, shifted(shift_s), "en")
    assert score.median_s == pytest.approx(0.5)
    assert score.bias_s == pytest.approx(shift_s)


def test_median_start_error_outlives_one_wild_start() -> None:
    hypothesis = [*shifted(0.1)[:2], TimedText(30.0, 32.0, THIRD)]
    assert start_error_s(REFERENCE, hypothesis, "en").median_s == pytest.approx(0.1)


def test_segments_inside_a_longer_one_are_not_measured() -> None:
    hypothesis = [TimedText(0.2, 5.0, joined(FIRST, SECOND)), TimedText(6.2, 8.0, THIRD)]
    score = start_error_s(REFERENCE, hypothesis, "en")
    assert (score.measured, score.total) == (2, 3)
    assert score.median_s == pytest.approx(0.2)


def test_a_segment_split_in_two_is_measured_at_its_first_part() -> None:
    hypothesis = [
        TimedText(0.3, 1.0, "Press star"),
        TimedText(1.0, 2.0, "to hear the weather."),
        *REFERENCE[1:],
    ]
    score = start_error_s(REFERENCE, hypothesis, "en")
    assert score.measured == 3
    assert score.median_s == 0.0


def test_misheard_first_word_is_not_measured() -> None:
    hypothesis = [REFERENCE[0], TimedText(3.4, 5.0, "Her message has been saved."), REFERENCE[2]]
    score = start_error_s(REFERENCE, hypothesis, "en")
    assert score.measured == 2
    assert score.median_s == 0.0


def test_nothing_measured_has_no_median() -> None:
    score = start_error_s(REFERENCE, [], "en")
    assert (score.median_s, score.bias_s, score.measured_share) == (None, None, 0.0)


def test_complete_text_has_nothing_lost_or_doubled() -> None:
    found = presence(REFERENCE, joined(FIRST, SECOND, THIRD), "en")
    assert found.matched_share == (1.0, 1.0, 1.0)
    assert found.inserted == (0, 0, 0)
    assert (found.lost, found.dropped, found.doubled) == ((), (), ())


@pytest.mark.parametrize("index", [0, 1, 2])
def test_lost_segment_is_named(index: int) -> None:
    kept = [s.text for i, s in enumerate(REFERENCE) if i != index]
    found = presence(REFERENCE, joined(*kept), "en")
    assert found.lost == found.dropped == (index,)
    assert found.matched_share[index] == 0.0
    assert found.doubled == ()


def test_misheard_segment_is_lost_but_not_dropped() -> None:
    found = presence(REFERENCE, joined(FIRST, "Her massage hat bean saved.", THIRD), "en")
    assert found.lost == (1,)
    assert found.dropped == ()


def test_half_of_the_words_is_not_lost() -> None:
    found = presence(REFERENCE, joined("Press star to", SECOND, THIRD), "en")
    assert found.matched_share[0] == 0.5
    assert found.lost == ()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_doubled_segment_is_named(index: int) -> None:
    said = [s.text for i, s in enumerate(REFERENCE) for _ in range(2 if i == index else 1)]
    found = presence(REFERENCE, joined(*said), "en")
    assert found.doubled == (index,)
    assert found.inserted[index] == len(REFERENCE[index].text.split())
    assert found.lost == ()


def test_words_repeated_across_a_cut_are_doubled() -> None:
    text = joined("Press star to hear the weather. hear the weather.", SECOND, THIRD)
    found = presence(REFERENCE, text, "en")
    assert found.doubled == (0,)
    assert found.inserted == (3, 0, 0)


def test_two_repeated_words_are_an_insertion_only() -> None:
    found = presence(REFERENCE, joined(FIRST, "the weather", SECOND, THIRD), "en")
    assert found.doubled == ()
    assert found.inserted == (2, 0, 0)


def test_invented_words_are_an_insertion_only() -> None:
    found = presence(REFERENCE, joined(FIRST, SECOND, "see you next week", THIRD), "en")
    assert found.doubled == ()
    assert found.inserted == (0, 4, 0)


def test_repeating_a_far_away_segment_is_not_doubling() -> None:
    """Only neighbours count: the same words elsewhere are a new, invented sentence."""
    filler = tuple(TimedText(0, 0, f"alpha{i} beta{i} gamma{i} delta{i}") for i in range(4))
    reference = (REFERENCE[0], *filler)
    text = joined(*(s.text for s in reference), FIRST)
    assert presence(reference, text, "fr").doubled == ()


def test_a_prompt_that_is_said_twice_is_not_doubled() -> None:
    reference = (REFERENCE[0], REFERENCE[0], REFERENCE[1])
    text = joined(FIRST, FIRST, SECOND)
    assert presence(reference, text, "en").doubled == ()


def test_segment_of_symbols_cannot_be_lost() -> None:
    reference = (TimedText(0, 1, "..."), REFERENCE[0])
    found = presence(reference, FIRST, "en")
    assert found.matched_share == (1.0, 1.0)
    assert found.lost == ()
