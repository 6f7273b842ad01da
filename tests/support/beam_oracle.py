"""openai/whisper's beam search on transformers' logits, as plain as can be, without a cache."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from engine import DecodingOptions
from engine.decoding.tokenizer import N_TIMESTAMPS, Tokenizer
from tests.support.oracle import Oracle


@dataclass
class BeamResult:
    """The best text, and the smallest difference between two scores that decided something.

    `sum_logprob` includes what keywords added.
    """

    tokens: list[int]
    sum_logprob: float
    margin: float = float("inf")


@dataclass
class _Search:
    finished: dict[tuple[int, ...], float] = field(default_factory=dict)
    margin: float = float("inf")


@torch.inference_mode()
def beam_search(oracle: Oracle, pcm: np.ndarray, options: DecodingOptions) -> BeamResult:
    """`BeamSearchDecoder` and `MaximumLikelihoodRanker` (whisper/decoding.py)."""
    tokenizer = oracle.tokenizer
    language = options.language or oracle.decode(pcm, DecodingOptions()).language
    prompt = tokenizer.prompt_tokens(options, 223) + tokenizer.sot_sequence(language, options)
    processors = oracle._processors(len(prompt), options)
    features = oracle._encode_once(pcm)
    n_beams, n_candidates = options.beam_size, round(options.beam_size * options.patience)
    beams: dict[tuple[int, ...], float] = {tuple(prompt): 0.0}
    search = _Search()
    for _ in range(min(options.max_new_tokens or 224, 448 - len(prompt) + 1)):
        scores: dict[tuple[int, ...], float] = {}
        texts = torch.tensor(list(beams))
        hidden = oracle.model.model.decoder(
            input_ids=texts, encoder_hidden_states=features.expand(len(beams), -1, -1)
        ).last_hidden_state
        logits = processors(texts, oracle.model.proj_out(hidden[:, -1]).float())
        logprobs = torch.log_softmax(logits, -1)
        for (text, total), row in zip(beams.items(), logprobs, strict=True):
            row = row + _gains(tokenizer, options, text[len(prompt) :])
            values, ids = row.topk(n_beams + 1)
            for value, token in zip(values.tolist(), ids.tolist(), strict=True):
                scores[(*text, token)] = total + value
        beams, newly = _best(scores, n_beams, tokenizer.eot, search)
        for text, total in sorted(newly.items(), key=lambda item: item[1], reverse=True):
            if len(search.finished) < n_candidates:
                search.finished[text] = total
        if len(search.finished) >= n_candidates:
            break
    # A text that is cut off ends there for its keywords as well.
    cut = {
        text: total + float(_gains(tokenizer, options, text[len(prompt) :])[tokenizer.eot])
        for text, total in beams.items()
    }
    for text, total in sorted(cut.items(), key=lambda item: item[1], reverse=True):
        if len(search.finished) >= n_beams:
            break
        search.finished[(*text, tokenizer.eot)] = total
    return _ranked(search, len(prompt), options.length_penalty)


def _gains(tokenizer: Tokenizer, options: DecodingOptions, text: Sequence[int]) -> torch.Tensor:
    """(n_vocab,): what each token would add to a text for the sake of the keywords."""
    graph = tokenizer.keyword_graph(options)
    n_vocab = tokenizer.timestamp_begin + N_TIMESTAMPS
    if graph is None:
        return torch.zeros(n_vocab)
    state, before = graph.follow(text)
    gains = torch.full((n_vocab,), -graph.lost(state, False))
    for token, glued in enumerate(graph.texts.is_glued):
        gains[token] = -graph.lost(state, glued)
    starts = graph.opened_starts if state == graph.opened else graph.starts
    steps = [*starts, *graph.steps[state], *graph.steps[graph.fallbacks[state]]]
    for token in {step.token for step in steps}:
        gains[token] = graph.follow([*text, token])[1] - before
    return gains


def _best(
    scores: dict[tuple[int, ...], float], n_beams: int, eot: int, search: _Search
) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]:
    going: dict[tuple[int, ...], float] = {}
    finished: dict[tuple[int, ...], float] = {}
    ordered = sorted(scores, key=scores.__getitem__, reverse=True)
    for place, text in enumerate(ordered):
        if text[-1] == eot:
            finished[text] = scores[text]
            continue
        going[text] = scores[text]
        if len(going) == n_beams:
            _note(search, [scores[each] for each in ordered[: place + 2]])
            break
    return going, finished


def _note(search: _Search, scores: Sequence[float]) -> None:
    """Two scores that are nearly equal could come in another order elsewhere."""
    gaps = [a - b for a, b in zip(scores, scores[1:], strict=False) if np.isfinite(b)]
    search.margin = min([search.margin, *gaps])


def _ranked(search: _Search, begin: int, length_penalty: float | None) -> BeamResult:
    def score(item: tuple[tuple[int, ...], float]) -> float:
        n = len(item[0]) - begin - 1
        if length_penalty is None:
            return item[1] / n if n else float("-inf")
        return item[1] / ((5 + n) / 6) ** length_penalty

    ranked = sorted(search.finished.items(), key=score, reverse=True)
    text, total = ranked[0]
    if len(ranked) > 1:
        search.margin = min(search.margin, score(ranked[0]) - score(ranked[1]))
    return BeamResult(list(text[begin:-1]), total, search.margin)
