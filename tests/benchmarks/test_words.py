"""Results of words: kept by file, compared with an interval, and the words that moved."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.make_speech import part_of
from benchmarks.words import results
from benchmarks.words.corpus import Recording
from benchmarks.words.results import Result


def result(name: str, words: int, errors: int) -> Result:
    return Result(name, "en", "clean", words, errors, 0, 0, "", "")


def test_accents_and_case_do_not_count_outside_english() -> None:
    recording = Recording(Path("x/clean-00.wav"), "es", "clean", "La conexion no esta lista")
    scored = results.score(recording, "La conexión no está. Vista")
    assert (scored.name, scored.words, scored.errors) == ("es/clean-00", 5, 1)


def test_the_interval_holds_the_difference_and_says_whether_it_is_one() -> None:
    same = [result(str(i), 100, i % 7) for i in range(40)]
    worse = [replace(each, errors=each.errors + 2) for each in same]
    mixed = [
        replace(each, errors=each.errors + (3 if i % 2 else -1)) for i, each in enumerate(same)
    ]
    assert results.compare(same, same).difference == 0
    found = results.compare(worse, same)
    assert (found.difference, found.low, found.high) == pytest.approx((2, 2, 2))
    unsure = results.compare(mixed, same)
    assert unsure.difference == pytest.approx(1)
    assert unsure.low < 1 < unsure.high


def test_results_are_read_back_by_name(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert results.load(path) == {}
    for name in ("en/a", "en/b"):
        results.append(path, result(name, 3, 1))
    assert list(results.load(path)) == ["en/a", "en/b"]


def test_what_moved_is_shown_beside_the_truth() -> None:
    before = replace(result("a", 6, 1), text="i am sorry that is not", said="i am so that is not")
    after = replace(before, said="i am sorry that is not", errors=0)
    assert list(results.moved(before, after)) == [
        "i am [so -> sorry] that is not   | i am sorry that is not"
    ]


def test_the_parts_are_about_halves_and_never_change() -> None:
    parts = [part_of(f"en/prompt-{i}") for i in range(1000)]
    assert 450 < parts.count("judge") < 550
    names = ("en/agent-alreadyon", "fr/agent-alreadyon", "it/vm-goodbye", "en/conf-adminmenu")
    assert [part_of(name) for name in names] == ["judge", "judge", "tune", "tune"]
