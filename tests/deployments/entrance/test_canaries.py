"""Which requests meet a canary, and what is counted of a shadow."""

import asyncio

import numpy as np
import pytest
from ray.serve.metrics import Counter

from deployments.entrance.canaries import Canaries, Canary, n_edits
from deployments.errors import TierUnavailableError
from deployments.messages import Chunk, ChunkResult
from deployments.replicas.tier_client import ChunkLostError, Decoded
from deployments.reports import CanaryCount
from engine import DecodingOptions, RequestError, Segment

CHUNK = Chunk("run", 3, np.zeros(16_000, np.int16), DecodingOptions(language="en"), above=2)
SHADOW = Canary("new", 0.5, shadow=True)
LIMIT_S = 5.0


def result(text: str) -> ChunkResult:
    segments = tuple(Segment(0.0, 1.0, part, (), 0.0) for part in text.split("|"))
    return ChunkResult("", segments, (), "en", 1.0, 0.0, -0.1, 0.0, 1.0, "stop", "old")


async def nobody(chunk: Chunk, name: str) -> Decoded:
    raise AssertionError("nothing is in a shadow")


def test_a_share_of_the_requests_meets_it() -> None:
    drawn = iter([0.0, 0.2499, 0.25, 0.9])
    canaries, rules = Canaries(nobody, lambda: next(drawn)), {"old": Canary("new", 0.25)}
    met = [canaries.choose("old", rules, lambda name: True) is not None for _ in range(4)]
    assert met == [True, True, False, False]
    assert canaries.counts() == (CanaryCount("old", "new", False, n_requests=2),)
    assert canaries.counts() == ()


def test_only_requests_for_its_model_that_its_own_can_do_meet_it() -> None:
    canaries, rules = Canaries(nobody, lambda: 0.0), {"old": Canary("new", 1.0)}
    assert canaries.choose("other", rules, lambda name: True) is None
    assert canaries.choose("old", rules, lambda name: name != "new") is None
    assert canaries.counts() == ()
    assert canaries.choose("old", rules, lambda name: name == "new") == Canary("new", 1.0)


def compared(*texts: str) -> tuple[list[tuple[Chunk, str]], tuple[CanaryCount, ...]]:
    """What is asked of the shadow, and the counts, where it hears these texts one after another,
    and the other model always `one two three`."""
    asked: list[tuple[Chunk, str]] = []

    async def decode(chunk: Chunk, name: str) -> Decoded:
        asked.append((chunk, name))
        await asyncio.sleep(0)
        return Decoded(result(texts[len(asked) - 1]), 0, 0.1)

    async def run() -> tuple[CanaryCount, ...]:
        canaries = Canaries(decode)
        for _ in texts:
            canaries.compare("old", SHADOW, CHUNK, result(" One,| two three."), LIMIT_S)
            await asyncio.sleep(0.01)
        return canaries.counts()

    return asked, asyncio.run(run())


def test_the_words_that_differ_are_counted() -> None:
    asked, counts = compared(
        "one two three", " One two| three", "two three", "one to three four", ""
    )
    assert counts == (CanaryCount("old", "new", True, n_chunks=5, n_words=15, n_changed=6),)
    assert {name for _, name in asked} == {"new"}


def test_a_shadows_chunk_is_batch_work_of_its_own() -> None:
    ((chunk, _),), _ = compared("one")
    assert chunk.key != CHUNK.key and chunk.priority > 0 and chunk.above is None
    assert chunk.pcm is CHUNK.pcm and chunk.options == CHUNK.options


@pytest.mark.parametrize(
    "error", [TierUnavailableError("away"), RequestError("no"), ChunkLostError(2), TimeoutError()]
)
def test_a_shadow_that_fails_is_counted_and_disturbs_nobody(error: Exception) -> None:
    async def decode(chunk: Chunk, name: str) -> Decoded:
        raise error

    async def run() -> tuple[CanaryCount, ...]:
        canaries = Canaries(decode)
        canaries.compare("old", SHADOW, CHUNK, result("one"), LIMIT_S)
        await asyncio.sleep(0.01)
        return canaries.counts()

    assert asyncio.run(run()) == (CanaryCount("old", "new", True, n_failed=1),)


def test_few_chunks_are_in_a_shadow_at_once_and_none_for_ever() -> None:
    async def run() -> tuple[tuple[CanaryCount, ...], tuple[CanaryCount, ...]]:
        async def decode(chunk: Chunk, name: str) -> Decoded:
            await asyncio.Event().wait()
            raise AssertionError

        canaries = Canaries(decode)
        for _ in range(11):
            canaries.compare("old", SHADOW, CHUNK, result("one"), 0.05)
        skipped = canaries.counts()
        await asyncio.sleep(0.2)
        return skipped, canaries.counts()

    skipped, failed = asyncio.run(run())
    assert skipped == (CanaryCount("old", "new", True, n_skipped=3),)
    assert failed == (CanaryCount("old", "new", True, n_failed=8),)


@pytest.mark.parametrize(
    ("before", "after", "n"),
    [
        ("", "", 0),
        ("a b c", "", 3),
        ("", "a b", 2),
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c d", "b c d", 1),
        ("a b c d", "a b x c d", 1),
        ("a b c d", "d c b a", 4),
        ("k i t t e n", "s i t t i n g", 3),
    ],
)
def test_edits_are_as_few_as_can_be(before: str, after: str, n: int) -> None:
    assert n_edits(before.split(), after.split()) == n
    assert n_edits(after.split(), before.split()) == n


def test_what_is_counted_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[tuple[str, ...], float] = {}

    def inc(self: Counter, value: float, tags: dict[str, str]) -> None:
        assert tags["tier"] == "old" and tags["to"] == "new"
        key = (self.info["name"], *([tags["outcome"]] if "outcome" in tags else []))
        found[key] = found.get(key, 0) + value

    monkeypatch.setattr(Counter, "inc", inc)
    compared("one two three", "one two", "three")
    Canaries(nobody, lambda: 0.0).choose("old", {"old": SHADOW}, lambda name: True)
    assert found == {
        ("murmur_canary_requests",): 1,
        ("murmur_canary_chunks", "compared"): 3,
        ("murmur_canary_words",): 9,
        ("murmur_canary_words_changed",): 3,
    }
