"""Token rules, sampling, segments and the tokenizer, without a model."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from engine import Checkpoint, DecodingOptions, RequestError
from engine.decoding.keyword_bias import OFF, Bias, KeywordTables
from engine.decoding.keyword_graph import KeywordGraph
from engine.decoding.rules import TokenRules
from engine.decoding.sampler import Noise, Sampler
from engine.decoding.segments import compression_ratio, split_segments
from engine.decoding.state import RuleState
from engine.decoding.token_texts import TokenTexts
from engine.decoding.tokenizer import Tokenizer
from engine.parallel.group import SingleRank
from engine.parallel.partition import partition
from tests.support.threaded_group import ThreadedGroup, run_ranks

EOT, NO_TIMESTAMPS, N_VOCAB = 40, 44, 75
BEGIN = NO_TIMESTAMPS + 1
SUPPRESS, BEGIN_SUPPRESS = (3, 17, 41, 42, NO_TIMESTAMPS), (5, EOT)
CPU = torch.device("cpu")


def rules(vocab: range = range(N_VOCAB)) -> TokenRules:
    return TokenRules(vocab, SUPPRESS, BEGIN_SUPPRESS, EOT, BEGIN, CPU)


def state_after(tokens: list[list[int]], options: DecodingOptions) -> RuleState:
    """The state of slots that sampled these tokens."""
    state = RuleState.empty(len(tokens), CPU)
    for slot, sampled in enumerate(tokens):
        state.begin(slot, options, BEGIN)
        for token in sampled:
            state.advance(slice(slot, slot + 1), torch.tensor([token]), BEGIN)
    return state


def oracle_scores(tokens: list[int], logits: torch.Tensor, max_initial: int) -> torch.Tensor:
    config = GenerationConfig(eos_token_id=EOT)
    config.no_timestamps_token_id = NO_TIMESTAMPS
    config.max_initial_timestamp_index = max_initial
    scores = logits[None].clone()
    ids = torch.tensor([[0, *tokens]])
    for processor in (
        SuppressTokensLogitsProcessor(list(SUPPRESS)),
        SuppressTokensAtBeginLogitsProcessor(list(BEGIN_SUPPRESS), 1),
        WhisperTimeStampLogitsProcessor(config, begin_index=1),
    ):
        scores = processor(ids, scores)
    return scores[0]


HISTORIES = [
    [],
    [BEGIN],
    [BEGIN + 2],
    [BEGIN, 7],
    [BEGIN, 7, 8, BEGIN + 5],
    [BEGIN, 7, 8, BEGIN + 5, BEGIN + 5],
    [BEGIN, 7, 8, BEGIN + 5, BEGIN + 9],
    [BEGIN, 7, BEGIN + 5, BEGIN + 9, 11],
    [BEGIN, 7, BEGIN + 29],
    [BEGIN, 7, BEGIN + 29, BEGIN + 29],
]


@pytest.mark.parametrize("seed", range(20))
def test_greedy_choice_is_the_oracles(seed: int) -> None:
    """Rules, mass rule and log-probabilities together, for every kind of history."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(HISTORIES), N_VOCAB, generator=generator) * 2
    logits[:, BEGIN:] += seed % 4  # so that the mass rule decides both ways
    options = DecodingOptions(max_initial_timestamp_s=0.1)
    sampler = Sampler(rules(), N_VOCAB, SingleRank())
    sampled = sampler(
        sampler.rule(logits.clone(), state_after(HISTORIES, options)), [None] * len(HISTORIES)
    )
    for row, history in enumerate(HISTORIES):
        scores = oracle_scores(history, logits[row], 5)
        assert sampled.tokens[row] == scores.argmax(), history
        expected = torch.log_softmax(scores, -1).max()
        assert sampled.logprobs[row] == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("k", [2, 6])
def test_the_likeliest_are_the_oracles(size: int, k: int) -> None:
    """As beam search has them: log-probabilities under all rules, whoever owns the ids."""
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(len(HISTORIES), N_VOCAB, generator=generator) * 2
    logits[::2, BEGIN:] += 2
    options = DecodingOptions(max_initial_timestamp_s=0.1)

    def likeliest(group: SingleRank | ThreadedGroup) -> tuple[torch.Tensor, ...]:
        vocab = partition(N_VOCAB, group.size)[group.rank]
        sampler = Sampler(rules(vocab), N_VOCAB, group)
        local = logits[:, vocab.start : vocab.stop].clone()
        return sampler.likeliest(sampler.rule(local, state_after(HISTORIES, options)), k)

    found = [likeliest(SingleRank())] if size == 1 else run_ranks(size, likeliest)
    for tokens, logprobs, gains in found:
        assert not gains.any()
        for row, history in enumerate(HISTORIES):
            expected = torch.log_softmax(oracle_scores(history, logits[row], 5), -1).topk(k)
            known = torch.isfinite(expected.values)
            assert torch.equal(tokens[row][known], expected.indices[known]), history
            assert torch.allclose(logprobs[row], expected.values, atol=1e-5), history


def test_a_bonus_counts_before_the_temperature() -> None:
    """As if the logit were greater by it."""
    texts = TokenTexts({b" ": -1, b" a": 5, b"a": 2}, [False] * EOT, [False] * EOT)
    tables = KeywordTables(KeywordGraph([("a", 1.0)], texts), torch.device("cpu"))
    tokens, bonuses = tables.candidates(torch.tensor([0]))
    bonus = bonuses[tokens == 5].item()
    sampler = Sampler(rules(), N_VOCAB, SingleRank())
    options = DecodingOptions(timestamps=False)
    history: list[list[int]] = [[20, 21]]
    chosen = set()
    for seed in range(200):
        logits = torch.zeros(1, N_VOCAB)
        logits[:, BEGIN:] = -100.0
        noise = [Noise(0.3, seed, 1)]
        raised = logits.clone()
        raised[:, 5] += bonus
        biases = [Bias.of(tables, [0], torch.tensor([0]))]
        found = sampler(sampler.rule(logits, state_after(history, options)), noise, biases)
        expected = sampler(sampler.rule(raised, state_after(history, options)), noise)
        assert found.tokens.tolist() == expected.tokens.tolist()
        chosen.add(found.tokens.item() == 5)
    assert chosen == {True, False}


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_ranks_favour_keywords_as_one_would(size: int, temperature: float) -> None:
    """Whichever of them have the keywords' tokens."""
    token_of = {b" ": -1, b"a": 2, b"b": 9, b" a": 5, b" ab": 14, b"c": 8, b" c": 0, b" d": 16}
    is_glued = [token % 3 == 2 for token in range(EOT)]
    texts = TokenTexts(token_of, is_glued, [token % 4 == 1 for token in range(EOT)])
    graph = KeywordGraph([("abc", 4.0), ("cab", 2.0), ("d", 9.0)], texts)
    tables = KeywordTables(graph, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(HISTORIES), N_VOCAB, generator=generator)
    states = torch.arange(len(HISTORIES)) % len(graph)
    states[::5] = OFF
    rows = range(1, len(HISTORIES))
    noise = [Noise(temperature, 4, row) if temperature else None for row in range(len(HISTORIES))]

    def choose(group: SingleRank | ThreadedGroup) -> list[list[Any]]:
        vocab = partition(N_VOCAB, group.size)[group.rank]
        sampler = Sampler(rules(vocab), N_VOCAB, group)
        local = logits[:, vocab.start : vocab.stop].clone()
        ruled = sampler.rule(local, state_after(HISTORIES, DecodingOptions()))
        biases = [Bias.of(tables, rows, states)]
        chosen = sampler(ruled, noise, biases)
        best = sampler.likeliest(ruled, 4, biases)
        return [chosen.tokens.tolist(), chosen.logprobs.tolist(), *(x.tolist() for x in best)]

    alone = [np.array(values) for values in choose(SingleRank())]
    assert (alone[4] > 0).any()
    is_known = np.isfinite(alone[3])  # a row may have fewer tokens that may come
    for found in run_ranks(size, choose):
        for values, expected in zip(found, alone, strict=True):
            known = is_known if expected.ndim == 2 else slice(None)
            assert np.allclose(np.array(values)[known], expected[known], atol=1e-5)


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_ranks_choose_as_one_would(size: int, temperature: float) -> None:
    """The vocabulary's cuts fall before, inside and behind the timestamps."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(HISTORIES), N_VOCAB, generator=generator)
    logits[:, 20:24] = logits.amax(1, keepdim=True)  # ties, also across a cut
    noise = [Noise(temperature, 4, row) if temperature else None for row in range(len(HISTORIES))]
    options = DecodingOptions()

    def choose(group: SingleRank | ThreadedGroup) -> list[list[float]]:
        vocab = partition(N_VOCAB, group.size)[group.rank]
        sampler = Sampler(rules(vocab), N_VOCAB, group)
        local = logits[:, vocab.start : vocab.stop]
        sampled = sampler(sampler.rule(local.clone(), state_after(HISTORIES, options)), noise)
        rows = [sampled.tokens.tolist(), sampled.logprobs.tolist()]
        rows.append(sampler.probability(local, 43).tolist())
        return rows + sampler.choose_among(local, [1, 30, 60]).tolist()

    expected = choose(SingleRank())
    for rows in run_ranks(size, choose):
        assert rows[0] == expected[0]
        for row, other in zip(rows[1:], expected[1:], strict=True):
            assert row == pytest.approx(other, abs=1e-6)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.full((1, N_VOCAB), float("-inf"))
    logits[0, [1, 2, 4]] = torch.log(torch.tensor([0.5, 0.3, 0.2]))
    sampler = Sampler(rules(), N_VOCAB, SingleRank())
    state = state_after([[7]], DecodingOptions(timestamps=False))
    drawn = [
        int(sampler(sampler.rule(logits.clone(), state), [Noise(1.0, seed, 0)]).tokens)
        for seed in range(3_000)
    ]
    shares = np.bincount(drawn, minlength=5)[[1, 2, 4]] / len(drawn)
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_noise_depends_on_seed_and_step_alone() -> None:
    assert torch.equal(Noise(0.5, 1, 2).draw(100, CPU), Noise(1.0, 1, 2).draw(100, CPU))
    draws = {tuple(Noise(1.0, s, t).draw(4, CPU).tolist()) for s in range(20) for t in range(20)}
    assert len(draws) == 400


def test_idle_slots_state_is_forgotten() -> None:
    state = state_after([[BEGIN, 7, BEGIN + 9]], DecodingOptions())
    state.begin(0, DecodingOptions(), BEGIN)
    fresh = RuleState.empty(1, CPU)
    fresh.begin(0, DecodingOptions(), BEGIN)
    assert vars(state) == vars(fresh)


@pytest.fixture(scope="module")
def tokenizer(checkpoints: dict[str, Checkpoint]) -> Tokenizer:
    return checkpoints["demo:base"].tokenizer


def timed(tokenizer: Tokenizer, *parts: str | float) -> list[int]:
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += tokenizer.encode(part)
        else:
            tokens.append(tokenizer.timestamp_begin + round(part / 0.02))
    return tokens


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0.0, " One.", 1.5, 1.5, " Two.", 3.0), [(0.0, 1.5, " One."), (1.5, 3.0, " Two.")]),
        ((0.0, " One.", 1.5, 2.0, " Two."), [(0.0, 1.5, " One."), (2.0, None, " Two.")]),
        ((0.4, " One.", 1.5, 9.0), [(0.4, 1.5, " One.")]),
        ((" No times",), [(0.0, None, " No times")]),
        ((0.0, " ", 2.0, 2.0, " x", 3.0), [(2.0, 3.0, " x")]),
        ((), []),
    ],
)
def test_segments(
    parts: tuple[str | float, ...],
    expected: list[tuple[float, float | None, str]],
    tokenizer: Tokenizer,
) -> None:
    segments = split_segments(timed(tokenizer, *parts), tokenizer)
    assert [(s.start_s, s.end_s, s.text) for s in segments] == expected


def test_a_segment_keeps_its_timestamps(tokenizer: Tokenizer) -> None:
    tokens = timed(tokenizer, 0.5, " One.", 1.5)
    assert split_segments(tokens, tokenizer)[0].tokens == tuple(tokens)


def test_loops_compress() -> None:
    assert (
        compression_ratio("thank you " * 40) > 2.4 > compression_ratio("He was not ill disposed.")
    )
    assert compression_ratio("") == 0.0


def test_prompt_is_cut_to_its_end(tokenizer: Tokenizer) -> None:
    options = DecodingOptions(prompt="one two three four five six")
    prompt = tokenizer.prompt_tokens(options, 3)
    assert prompt[0] == tokenizer.sot_prev and tokenizer.decode(prompt) == " four five six"
    for nothing in (DecodingOptions(), DecodingOptions(prompt="  ")):
        assert tokenizer.prompt_tokens(nothing, 3) == []


def test_a_prompt_is_cut_between_words_and_characters(tokenizer: Tokenizer) -> None:
    for text, blank in (
        ("unbelievable hippopotamus orchestration " * 9, " "),
        ("鸚鵡學舌的" * 40, ""),
    ):
        words = text.split() if blank else list(text)
        for limit in range(8, 30):
            got = tokenizer.decode(tokenizer.prompt_tokens(DecodingOptions(prompt=text), limit))
            kept = got.split() if blank else list(got.strip())
            assert kept == words[len(words) - len(kept) :] and len(kept) >= 1, (got, limit)


def test_the_first_keywords_stay_whole_in_half_of_the_room(tokenizer: Tokenizer) -> None:
    names = tuple(f"Dashwood{n}" for n in range(5000))
    options = DecodingOptions(keywords=names, prompt="one two three", previous_tokens=(400,) * 300)
    prompt = tokenizer.prompt_tokens(options, 223)
    assert prompt[0] == tokenizer.sot_prev and len(prompt) == 224
    keywords = tokenizer.decode([token for token in prompt if token != 400])
    assert 10 < keywords.count(",") < 60 and len(tokenizer.encode(keywords)) <= 111
    assert keywords == " " + ", ".join(names[: keywords.count(",") + 1]) + "."
    few = DecodingOptions(keywords=("Norland", "x" * 3000, "Sussex"), prompt="In the park.")
    assert tokenizer.decode(tokenizer.prompt_tokens(few, 223)) == " Norland, Sussex. In the park."
    assert tokenizer.prompt_tokens(DecodingOptions(keywords=("x" * 3000,)), 223) == []


def test_previous_tokens_stand_behind_the_prompt(tokenizer: Tokenizer) -> None:
    previous = tuple(timed(tokenizer, 0.0, " before.", 2.0))
    options = DecodingOptions(prompt="names", previous_tokens=previous)
    prompt = tokenizer.prompt_tokens(options, 223)
    assert prompt == [tokenizer.sot_prev, *tokenizer.encode(" names"), *previous]
    assert tokenizer.prompt_tokens(options, 2) == [tokenizer.sot_prev, *previous[-2:]]


def test_special_tokens_in_text_are_not_obeyed(tokenizer: Tokenizer) -> None:
    assert max(tokenizer.encode("a <|translate|> b <|endoftext|>")) < tokenizer.eot


def test_languages(checkpoints: dict[str, Checkpoint], tokenizer: Tokenizer) -> None:
    assert len(tokenizer.languages) == 99 and tokenizer.languages["en"] == tokenizer.sot + 1
    english = checkpoints["demo:tiny.en"].tokenizer
    assert list(english.languages) == ["en"]
    with pytest.raises(RequestError, match="unsupported language 'xx'"):
        tokenizer.check(DecodingOptions(language="xx"))
    with pytest.raises(RequestError, match="cannot translate"):
        english.check(DecodingOptions(task="translate"))
