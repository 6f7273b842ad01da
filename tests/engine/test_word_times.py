"""Words with times: alone and in company, in every format, with beams, for every script."""

import numpy as np
import pytest
import torch

from engine import (
    Checkpoint,
    DecodingOptions,
    Engine,
    EngineConfig,
    Request,
    WeightsError,
)
from engine.decoding.words import spelled, split_words
from engine.kernels import native_builds
from engine.model.cross_cache import DenseCrossCache, Int8CrossCache, NativeInt8CrossCache
from engine.model_sizes import MODEL_SIZES
from engine.weights.alignment_heads import alignment_heads, published_heads
from engine.word_times import WordTimes
from tests.support.formats import FORMATS
from tests.support.params import more_but
from tests.support.running import drain, run, run_alone

TINY, BASE = "demo:tiny.en", "demo:base"
WORDS = DecodingOptions(language="en", words=True)
EDGES_S = {"And": 0.33, "Dashwood": 0.95, "consider": 2.9, "them.": 6.55}
"""Where words of the first clip begin, found by ear and by eye."""


def words_of(result):
    return [word for segment in result.segments for word in segment.words]


@pytest.mark.parametrize("model", [TINY, BASE])
def test_words_of_a_clip(
    model: str, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    pcm = clips["librivox-0870.wav"]
    request = Request("a", pcm, WORDS, speech=((4_000, len(pcm)),))
    result = run_alone(engines[model], request)
    words = words_of(result)
    assert "".join(word.text for word in words) == "".join(s.text for s in result.segments)
    starts = {word.text.strip(): word.start_s for word in words}
    for text, start_s in EDGES_S.items():
        assert starts[text] == pytest.approx(start_s, abs=0.12)
    assert all(word.end_s - word.start_s >= 0.02 - 1e-9 for word in words)
    assert all(a.end_s <= b.start_s for a, b in zip(words, words[1:], strict=False))
    assert words[-1].end_s <= len(pcm) / 16_000 + 0.02
    assert all(0 < word.probability <= 1 for word in words)
    plain = run_alone(engines[model], Request("b", pcm, DecodingOptions(language="en")))
    assert (plain.tokens, plain.avg_logprob) == (result.tokens, result.avg_logprob)
    assert not words_of(plain)


@pytest.mark.parametrize("name", more_but(("int8", "8-bit cross and tokens"), FORMATS))
def test_company_changes_no_word(
    name: str,
    checkpoints: dict[str, Checkpoint],
    engines: dict[str, Engine],
    clips: dict[str, np.ndarray],
) -> None:
    engine = Engine(checkpoints[TINY], FORMATS[name])
    options = [WORDS, DecodingOptions(language="en", words=True, beam_size=3), WORDS]
    requests = [
        Request(clip, pcm, each) for (clip, pcm), each in zip(clips.items(), options, strict=False)
    ]
    alone = {each.request_id: run_alone(engine, each) for each in requests}
    together = run(engine, requests)
    for key, result in alone.items():
        assert together[key].segments == result.segments and words_of(result)
    exact = words_of(run_alone(engines[TINY], requests[0]))
    found = words_of(alone[requests[0].request_id])
    if [word.text for word in exact] == [word.text for word in found]:
        off_s = [abs(a.start_s - b.start_s) for a, b in zip(exact, found, strict=True)]
        assert np.median(off_s) <= 0.02


def test_an_abort_while_words_get_times_frees_the_slots(
    checkpoints: dict[str, Checkpoint],
    clips: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(checkpoints[TINY], EngineConfig(max_slots=4))

    class Late:
        ready = False

        def __init__(self, values) -> None:
            self._values = values

        def get(self):
            return self._values.get()

    align = engine.executor.align
    monkeypatch.setattr(engine.executor, "align", lambda step: Late(align(step)))
    engine.add_request(Request("a", clips["librivox-0870.wav"], WORDS))
    while not engine._being_aligned:
        assert not engine.step()
    assert engine.abort("a")
    assert not drain(engine) and engine.n_used_slots == 0
    engine._scheduler.audit()
    assert words_of(run_alone(engine, Request("a", clips["librivox-0870.wav"], WORDS)))


def test_text_that_fills_the_slot_gets_words(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    engine = Engine(checkpoints[TINY], EngineConfig(max_slots=1, max_length=32))
    pcm = np.concatenate([clips["librivox-0890.wav"], clips["librivox-0870.wav"]])
    for timestamps in (True, False):
        options = DecodingOptions(words=True, timestamps=timestamps)
        result = run_alone(engine, Request("a", pcm, options))
        assert result.finish_reason == "length"
        assert "".join(w.text for w in words_of(result)) == "".join(s.text for s in result.segments)


def test_a_text_is_spelled_as_far_as_its_slot_has_room(
    checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    pcm, lengths, starts = clips["librivox-0870.wav"], [], []
    plain = run_alone(Engine(checkpoints[TINY], EngineConfig()), Request("a", pcm, WORDS))
    n_characters = sum(len(segment.text) for segment in plain.segments)
    for room in (448, n_characters // 4 * 4 - 4, n_characters // 8 * 4):
        engine = Engine(checkpoints[TINY], EngineConfig(max_slots=1, max_length=room))
        result = run_alone(engine, Request("a", pcm, WORDS))
        assert result.tokens == plain.tokens
        prepared = WordTimes.prepare(
            Request("a", pcm, WORDS), result.segments, "en", engine.tokenizer, room
        )
        assert len(prepared.text) <= room
        lengths.append(len(prepared.text) - prepared.n_before)
        starts.append([word.start_s for word in words_of(result)])
    assert lengths[0] == n_characters - 1 > lengths[1] > lengths[2]
    for some in starts[1:]:
        assert np.median(np.abs(np.subtract(some, starts[0]))) <= 0.06


def test_stored_keys_give_the_scores_of_exact_ones() -> None:
    torch.manual_seed(1)
    shape, heads = (3, 4, 150, 64), [0, 3]
    caches = [
        Int8CrossCache(shape, torch.device("cpu"), torch.float32),
        *([NativeInt8CrossCache(3, 4, 150)] if native_builds.serves(torch.device("cpu")) else []),
    ]
    exact = DenseCrossCache(shape, torch.device("cpu"), torch.float32)
    kv, queries = torch.randn(2, 150, 2 * 4 * 64), torch.randn(2, 5, 4 * 64)
    kv = kv.bfloat16().float()
    for slots in (slice(1, 3), torch.tensor([2, 0])):
        exact.fill(kv, slots)
        expected = exact.scores(queries, slots, heads)
        assert expected.shape == (2, 2, 5, 150)
        for cache in caches:
            is_native = isinstance(cache, NativeInt8CrossCache)
            cache.fill(kv.bfloat16() if is_native else kv, slots)
            torch.testing.assert_close(
                cache.scores(queries, slots, heads), expected, atol=0.05, rtol=0.05
            )


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (" Hello, world! (Yes.)", "en", [" Hello,", " world!", " (Yes.)"]),
        (" \u201cWhy?\u201d he said...", "en", [" \u201cWhy?\u201d", " he", " said..."]),
        (" \u00bfQu\u00e9 tal?", "es", [" \u00bfQu\u00e9", " tal?"]),
        (" l'\u00e9t\u00e9 - d'hier", "fr", [" l'\u00e9t\u00e9", " - d'hier"]),
        ("\u4f60\u597d\u3002\u4e16\u754c", "zh", ["\u4f60\u597d\u3002", "\u4e16\u754c"]),
        (" ...", "en", [" ..."]),
        ("", "en", []),
    ],
)
def test_text_is_split_into_words(
    text: str, language: str, expected: list[str], checkpoints: dict[str, Checkpoint]
) -> None:
    tokenizer = checkpoints[BASE].tokenizer
    words = split_words(tokenizer.encode(text), language, tokenizer)
    assert [tokenizer.decode(word) for word in words] == expected


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        (" they're", 1, [" ", "t", "h", "e", "y", "'", "r", "e"]),
        (" they're", 2, [" t", "he", "y'", "re"]),
        (" \u043c\u0438\u0440", 1, [" ", "\u043c", "\u0438", "\u0440"]),
        ("\u4e16\u754c\u3002", 2, ["\u4e16\u754c", "\u3002"]),
        ("", 1, []),
    ],
)
def test_text_is_spelled(
    text: str, size: int, expected: list[str], checkpoints: dict[str, Checkpoint]
) -> None:
    tokenizer = checkpoints[BASE].tokenizer
    tokens = spelled(tokenizer.encode(text), tokenizer, size)
    assert tokens == [token for piece in expected for token in tokenizer.encode(piece)]
    assert tokenizer.decode(tokens) == text


def test_what_is_no_whole_character_is_not_spelled(checkpoints: dict[str, Checkpoint]) -> None:
    tokenizer = checkpoints[BASE].tokenizer
    broken = tokenizer.encode("\u9f98")[:-1]
    assert broken and spelled(broken, tokenizer, 1) == broken


def test_heads_come_from_files_then_sizes_then_a_rule() -> None:
    base = MODEL_SIZES["base"]
    assert alignment_heads([[4, 2], [3, 1], [4, 2]], base) == ((3, 1), (4, 2))
    assert alignment_heads(None, base) == published_heads(base)
    assert len(published_heads(base)) == 8
    distilled = MODEL_SIZES["distil-large-v2"]
    assert alignment_heads(None, distilled) == tuple((1, head) for head in range(20))
    for wrong in ("all", [], [[6, 0]], [[0, 8]], [[1]], [[True, 1]]):
        with pytest.raises(WeightsError, match="alignment_heads"):
            alignment_heads(wrong, base)


def test_better_heads_take_the_place_of_published_ones(
    checkpoints: dict[str, Checkpoint],
) -> None:
    assert checkpoints[TINY].alignment_heads == ((2, 1), (3, 4))
