"""Keywords are favoured while tokens are chosen, however they are written in tokens, and only where
they are said."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from engine import Checkpoint, DecodingOptions, Engine, EngineConfig, Request
from engine.decoding.keyword_bias import OFF, Bias, KeywordTables
from engine.decoding.keyword_graph import (
    BYTE_GAIN,
    GREEDY_BONUS,
    MOST_GAIN,
    MOST_WEIGHTED_GAIN,
    START_GAIN,
    KeywordGraph,
)
from engine.decoding.tokenizer import Tokenizer
from engine.precision import Precision
from engine.request import MAX_BOOST
from tests.conftest import MODELS
from tests.support.beam_oracle import beam_search
from tests.support.oracle import Oracle
from tests.support.params import more_but
from tests.support.running import run, run_alone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(checkpoints: dict[str, Checkpoint]) -> Tokenizer:
    return checkpoints[MODELS[0]].tokenizer


def gain(n_bytes: int, weight: float = 1.0) -> float:
    return min(weight * min(START_GAIN + BYTE_GAIN * n_bytes, MOST_GAIN), MOST_WEIGHTED_GAIN)


class Scored:
    """A graph of keywords, and the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, *keywords: str | tuple[str, float]) -> None:
        self.tokenizer = tokenizer
        weighted = [(each, 1.0) if isinstance(each, str) else each for each in keywords]
        self.graph = KeywordGraph(weighted, tokenizer.token_texts)

    def text(self, text: str) -> float:
        return self.graph.score(self.tokenizer.encode(text))

    def pieces(self, *pieces: str) -> float:
        tokens = [self.tokenizer.token_texts.token_of[piece.encode()] for piece in pieces]
        return self.graph.score(tokens)


def test_every_way_to_write_a_keyword_counts_the_same(tokenizer: Tokenizer) -> None:
    scored = Scored(tokenizer, "Samarkand")
    whole = scored.text(" Samarkand")
    assert whole == pytest.approx(gain(len(" Samarkand")))
    for pieces in (
        [" Sam", "ark", "and"],
        [" S", "am", "ark", "and"],
        [" Sa", "mark", "a", "n", "d"],
    ):
        assert scored.pieces(*pieces) == pytest.approx(whole)


@pytest.mark.parametrize(
    "text",
    [" Samar", " Samark and", " samarkand", "Samarkand", " Samarkandic", " in Samarka.", " Sam"],
)
def test_what_only_begins_like_a_keyword_gains_nothing(text: str, tokenizer: Tokenizer) -> None:
    assert Scored(tokenizer, "Samarkand").text(text) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        (" to Samarkand.", [10]),
        (" Samarkand's", [10]),
        (" Samarkand and Samarkand", [10, 10]),
        (" New York City", [14]),
        (" New York", [9]),
        (" New York Minster", [9, 13]),
        (" York Minster", [13]),
        (" Newton", []),
        (" Ann", [4]),
        (" Annuals", []),
        (" Annual", [7]),
        (" Kubectl", [8]),
        (" kubectl", [8]),
    ],
)
def test_whole_keywords_keep_what_they_earned(
    text: str, n_bytes: list[int], tokenizer: Tokenizer
) -> None:
    scored = Scored(
        tokenizer,
        *("Samarkand", "New York", "New York City", "York Minster", "Ann", "Annual", "kubectl"),
    )
    assert scored.text(text) == pytest.approx(sum(map(gain, n_bytes)))


def test_scripts_without_blanks(checkpoints: dict[str, Checkpoint]) -> None:
    scored = Scored(checkpoints[MODELS[1]].tokenizer, "東京タワー", "แม่สอด")
    assert scored.text("昨日は東京タワーに行った") == pytest.approx(
        gain(len("東京タワー".encode()))
    )
    assert scored.text("ฉันไปแม่สอดเมื่อวาน") == pytest.approx(gain(len("แม่สอด".encode())))
    assert scored.text("東京に行った") == pytest.approx(0.0)


BEHIND = [
    ("Samarkand", ' said "Samarkand" to'),
    ("Samarkand", " (Samarkand)"),
    ("Samarkand", " “Samarkand”,"),
    ("Aragon", " la corona d'Aragon et"),
    ("Aragon", " l’Aragon"),
    ("Samarkand", " Tashkent-Samarkand"),
    ("Samarkand", " サンプル「Samarkand」"),
    ("কলকাতা", " আমি কলকাতা যাই"),
    ("హైదరాబాద్", " నేను హైదరాబాద్ వెళ్ళాను"),
    ("서울", " 나는 서울 에"),
]


@pytest.mark.parametrize(
    ("model", "keyword", "text"),
    [
        *((model, *case) for model in MODELS for case in BEHIND),
        (MODELS[1], "Samarkand", " 我用Samarkand的"),  # English-only models split these letters
    ],
)
def test_a_keyword_counts_wherever_a_word_may_begin(
    model: str, keyword: str, text: str, checkpoints: dict[str, Checkpoint]
) -> None:
    scored = Scored(checkpoints[model].tokenizer, keyword)
    assert scored.text(text) == pytest.approx(gain(len(f" {keyword}".encode())))
    glued = text.replace(keyword, f"x{keyword}")
    assert scored.text(glued) == pytest.approx(0.0)


def test_weights_are_factors(tokenizer: Tokenizer) -> None:
    scored = Scored(tokenizer, ("Samarkand", 2.0), ("Samara", 0.5))
    assert scored.text(" Samarkand") == pytest.approx(gain(10, 2.0))
    assert scored.text(" Samara") == pytest.approx(gain(7, 0.5))


NAMES = (
    "Samarkand",
    "Samara",
    "New York",
    "New York City",
    "York Minster",
    "York",
    "John",
    "Dr John Smith",
    "Ann",
    "Annual",
    "ill-disposed",
    "Ärö",
)


@pytest.mark.parametrize("weights", [(1.0,), (10.0, 0.1), (0.1, 10.0), (0.5, 3.0, 1.0)])
def test_the_device_counts_as_the_host_does(
    weights: tuple[float, ...], tokenizer: Tokenizer
) -> None:
    """Sums of gains over random texts, made of pieces of keywords and of other words."""
    weighted = [(name, weights[n % len(weights)]) for n, name in enumerate(NAMES)]
    graph = KeywordGraph(weighted, tokenizer.token_texts)
    tables = KeywordTables(graph, CPU)
    steps = [step.token for steps in [graph.starts, *graph.steps] for step in steps]
    others = tokenizer.encode(" the of a, s and New ark.")
    rng = random.Random(5)
    texts = [[rng.choice(rng.choice([steps, others])) for _ in range(12)] for _ in range(200)]
    texts += [(tokenizer.encode(f" {name}") + 2 * others)[:12] for name in NAMES]
    for text in (" New York Minster and", " Dr John Smith", " Dr John Smi", " New York Minst"):
        texts.append((tokenizer.encode(text) + 2 * others)[:12])
    states, totals = torch.zeros(len(texts), dtype=torch.int64), torch.zeros(len(texts))
    for column in torch.tensor(texts).T:
        totals += tables.gains(states).gather(1, column[:, None])[:, 0]
        states = tables.advance(states, column)
    totals += tables.gain_at_end(states)
    expected = torch.tensor([graph.score(text) for text in texts])
    assert (expected > 0).sum() >= len(NAMES)
    torch.testing.assert_close(totals, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("keywords", "text", "expected"),
    [
        (("John", "Dr John Smith"), " Dr John came", gain(5)),
        (("York", "New York Minster"), " New York is", gain(5)),
        ((("New York", 10.0), ("New York City", 0.5)), " New York City is", gain(9, 10.0)),
        ((("New York", 10.0), ("New York City", 0.5)), " New York C", gain(9, 10.0)),
        ((("New York", 0.1), ("York", 10.0)), " New York", gain(5, 10.0)),
    ],
)
def test_a_keyword_inside_another_one_keeps_its_gain(
    keywords: tuple[Any, ...], text: str, expected: float, tokenizer: Tokenizer
) -> None:
    assert Scored(tokenizer, *keywords).text(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "keywords",
    [
        ["a " * 500],
        ["\u3053" * 1_000],
        ["".join(chr(0x4E00 + (7 * n + 131 * i) % 4_000) for i in range(4)) for n in range(1_000)],
        [f"San {chr(65 + n % 26)}{n:05}" for n in range(1_000)],
    ],
    ids=["periodic", "kana", "Chinese names", "names that begin alike"],
)
def test_graphs_stay_small(keywords: list[str], tokenizer: Tokenizer) -> None:
    """A state has about as many steps as there are ways to split what follows it."""
    graph = KeywordGraph([(keyword, 1.0) for keyword in keywords], tokenizer.token_texts)
    n_bytes = sum(len(keyword.encode()) for keyword in keywords)
    assert len(graph) <= 3 * n_bytes + 10
    assert sum(map(len, graph.steps)) <= 8 * n_bytes


def test_accents_are_composed(tokenizer: Tokenizer) -> None:
    assert Scored(tokenizer, "A\u0308ro").text(" \u00c4ro") > 0


def test_keywords_without_weight_are_left_out(tokenizer: Tokenizer) -> None:
    both = DecodingOptions(keywords=("Ann", "York"), keyword_weights=(0.0, 1.0))
    graph = tokenizer.keyword_graph(both)
    assert graph is not None
    assert graph.score(tokenizer.encode(" Ann")) == 0.0
    assert tokenizer.keyword_graph(replace(both, keyword_weights=(0.0, 0.0))) is None


def test_candidates_are_the_steps_and_what_begins_a_keyword(tokenizer: Tokenizer) -> None:
    graph = KeywordGraph([("Samarkand", 2.0)], tokenizer.token_texts)
    tables = KeywordTables(graph, CPU)
    sam, ark = (tokenizer.token_texts.token_of[text] for text in (b" Sam", b"ark"))
    state = tables.advance(torch.tensor([0]), torch.tensor([sam]))
    found = dict(zip(*(each[0].tolist() for each in tables.candidates(state)), strict=True))
    assert found[ark] == pytest.approx(2 * GREEDY_BONUS * 3)
    assert found[sam] == pytest.approx(2 * GREEDY_BONUS * 4)
    assert tokenizer.token_texts.token_of[b" "] not in found


def test_many_steps_are_kept_as_well_as_few(tokenizer: Tokenizer) -> None:
    names = [
        f"S{chr(97 + a)}{chr(97 + b)}{chr(97 + c)}"
        for a in range(8)
        for b in range(8)
        for c in range(8)
    ]
    graph = KeywordGraph([(name, 1.0) for name in names], tokenizer.token_texts)
    tables = KeywordTables(graph, CPU)
    assert max(map(len, graph.steps)) > 32
    for state, steps in enumerate(graph.steps):
        tokens, _ = tables.candidates(torch.tensor([state]))
        assert {step.token for step in steps} <= set(tokens[0].tolist())
        for step in steps:
            went = tables.advance(torch.tensor([state]), torch.tensor([step.token]))
            assert went.tolist() == [step.target]


def test_a_bias_of_some_rows(tokenizer: Tokenizer) -> None:
    graph = KeywordGraph([("Samarkand", 1.0)], tokenizer.token_texts)
    tables = KeywordTables(graph, CPU)
    bias = Bias.of(tables, (1, 4, 6), torch.tensor([9, 3, 9, 9, 0, 9, 5]))
    assert bias.states.tolist() == [3, 0, 5]
    some = bias.among([6, 0, 1])
    assert some is not None and some.rows == (2, 0) and some.index.tolist() == [2, 0]
    assert some.states.tolist() == [3, 5]
    assert bias.among([0, 2]) is None


def heard(engine: Engine, pcm: np.ndarray, keywords: Sequence[str], **options: Any) -> str:
    wanted = DecodingOptions(
        keywords=tuple(keywords),
        keywords_in_prompt=False,
        **options,
    )
    return run_alone(engine, Request("one", pcm, wanted)).text


@pytest.mark.parametrize("beams", [1, 3])
def test_a_word_that_was_misheard_is_found(
    beams: int, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine, pcm = engines[MODELS[0]], clips["librivox-0880.wav"]
    without = heard(engine, pcm, (), beam_size=beams)
    assert without == "He was not an old-sposed young man."
    boost = 3.0 if beams == 1 else 1.0
    text = heard(engine, pcm, ["ill-disposed"], beam_size=beams, keyword_boost=boost)
    assert text == "He was not an ill-disposed young man."
    assert heard(engine, pcm, ["ill-disposed"], beam_size=beams, keyword_boost=0.0) == without


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_not_said_is_not_written(
    beams: int, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    names = ("Samarkand", "Novosibirsk", "Jayapura", "Goose Bay", "Ho Chi Minh", "Gibraltar")
    for pcm in clips.values():
        text = heard(engines[MODELS[0]], pcm, names, beam_size=beams)
        assert not any(name in text for name in names)


@pytest.mark.parametrize(
    "phrase", ["young man from Devonshire", "old-fashioned", "not an old friend"]
)
def test_a_phrase_is_not_written_because_it_began(
    phrase: str, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    pcm = clips["librivox-0880.wav"]
    wanted = DecodingOptions(keywords=(phrase,), beam_size=3)
    text = run_alone(engines[MODELS[0]], Request("one", pcm, wanted)).text
    assert phrase not in text and text.endswith("young man.")


@pytest.mark.parametrize("beams", [2, pytest.param(3, marks=pytest.mark.more)])
@pytest.mark.parametrize(
    "keywords",
    [
        ("young man from Devonshire", "an old", "not an older"),
        pytest.param(("ill-disposed",), marks=pytest.mark.more),
    ],
)
def test_a_search_equals_the_plain_one(
    keywords: tuple[str, ...],
    beams: int,
    engines: dict[str, Engine],
    oracles: dict[str, Oracle],
    clips: dict[str, np.ndarray],
) -> None:
    pcm = clips["librivox-0880.wav"]
    wanted = DecodingOptions(
        language="en", keywords=keywords, keyword_boost=1.5, beam_size=beams, max_new_tokens=16
    )
    result = run_alone(engines[MODELS[0]], Request("one", pcm, wanted))
    expected = beam_search(oracles[MODELS[0]], pcm, wanted)
    assert list(result.tokens) == expected.tokens, expected.margin


@pytest.mark.parametrize(
    ("clip", "keyword"),
    [("0870", "Dashwood"), ("0880", "ill-disposed"), ("0930", "amiable")],
)
def test_no_weight_fills_the_text(
    clip: str, keyword: str, engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    engine, pcm = engines[MODELS[0]], clips[f"librivox-{clip}.wav"]
    usual = heard(engine, pcm, [keyword], beam_size=3)
    text = heard(engine, pcm, [keyword], beam_size=3, keyword_boost=MAX_BOOST)
    assert text.lower().count(keyword.lower()) == usual.lower().count(keyword.lower()) == 1
    assert text.endswith(usual[-20:])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("level", more_but((0, 3000), (0, 1, 300, 3000)))
def test_silence_and_noise_are_as_without_keywords(
    level: int, beams: int, engines: dict[str, Engine]
) -> None:
    noise = np.random.default_rng(1).normal(0, max(level, 1e-9), 10 * 16_000).astype(np.int16)
    names = ("Samarkand", "You", "Thank you", "Okay", "Music")
    engine = engines[MODELS[0]]
    before = heard(engine, noise, (), beam_size=beams)
    assert heard(engine, noise, names, beam_size=beams, keyword_boost=5.0) == before


def test_no_token_leads_out_of_off(tokenizer: Tokenizer) -> None:
    graph = KeywordGraph([("Samarkand", 1.0)], tokenizer.token_texts)
    tables = KeywordTables(graph, CPU)
    off, sam = torch.tensor([OFF]), torch.tensor([tokenizer.token_texts.token_of[b" Sam"]])
    assert tables.advance(off, sam).tolist() == [OFF]
    assert set(tables.candidates(off)[0].flatten().tolist()) == {-1}
    assert not tables.gains(off).any() and not tables.gain_at_end(off).any()


@pytest.mark.parametrize(
    "precision", [pytest.param(Precision.FLOAT32, marks=pytest.mark.more), Precision.INT8]
)
def test_company_changes_no_bit(
    precision: Precision, checkpoints: dict[str, Checkpoint], clips: dict[str, np.ndarray]
) -> None:
    options = [
        DecodingOptions(keywords=("ill-disposed", "amiable")),
        DecodingOptions(keywords=("ill-disposed", "amiable"), beam_size=3),
        DecodingOptions(keywords=("Dashwood",), keyword_weights=(3.0,), beam_size=2),
        DecodingOptions(keywords=("Dashwode", "leasure"), keyword_boost=4.0),
        DecodingOptions(keywords=("ill-disposed",), temperature=0.7, best_of=2, seed=3),
        DecodingOptions(),
    ]
    requests = [
        Request(f"{name}-{index}", pcm, option)
        for name, pcm in list(clips.items())[:3]
        for index, option in enumerate(options)
    ]
    config = EngineConfig(precision=precision, max_slots=8)
    engine = Engine(checkpoints[MODELS[0]], config)
    batched = run(engine, requests)
    for request in requests[::2] + requests[1::4]:
        alone = run_alone(engine, request)
        together = batched[request.request_id]
        assert (alone.tokens, alone.avg_logprob) == (together.tokens, together.avg_logprob)


def test_log_probabilities_are_the_models(
    engines: dict[str, Engine], clips: dict[str, np.ndarray]
) -> None:
    """Whatever the keywords, a text that they leave as it is has the same ones."""
    engine, pcm = engines[MODELS[0]], clips["librivox-0930.wav"]
    plain = run_alone(engine, Request("a", pcm, DecodingOptions()))
    wanted = DecodingOptions(keywords=("amiable", "himself"), keywords_in_prompt=False)
    biased = run_alone(engine, Request("b", pcm, wanted))
    assert biased.tokens == plain.tokens
    assert biased.avg_logprob == plain.avg_logprob


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keywords": ("a", "b"), "keyword_weights": (1.0,)}, "2 keywords have 1 weights"),
        ({"keywords": ("a",), "keyword_weights": (11.0,)}, "between 0 and 10"),
        ({"keyword_boost": -1.0}, "between 0 and 10"),
        ({"keywords": (" ",)}, "a keyword is empty"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DecodingOptions(**options)
